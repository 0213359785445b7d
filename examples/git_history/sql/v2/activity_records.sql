-- What an author did in a month.
CREATE TABLE activity_records%SUFFIX% (
    aggregate_id  uuid    NOT NULL,
    month         text    NOT NULL,
    author_name   text    NOT NULL,
    author_email  text    NOT NULL,
    commits       integer NOT NULL,
    merges        integer NOT NULL,
    files         integer NOT NULL,
    lines_added   bigint  NOT NULL,
    lines_deleted bigint  NOT NULL
);
