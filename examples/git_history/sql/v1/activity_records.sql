-- What an author did in a month.
CREATE TABLE activity_records%SUFFIX% (
    aggregate_id uuid    NOT NULL,
    month        text    NOT NULL,
    author_name  text    NOT NULL,
    author_email text    NOT NULL,
    commits      integer NOT NULL
);
