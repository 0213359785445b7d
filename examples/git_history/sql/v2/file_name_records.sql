-- A name of a file, with what was changed under it.
CREATE TABLE file_name_records%SUFFIX% (
    aggregate_id   uuid    NOT NULL,
    name_number    integer NOT NULL,
    path           text    NOT NULL,
    changes        integer NOT NULL,
    binary_changes integer NOT NULL,
    lines_added    bigint  NOT NULL,
    lines_deleted  bigint  NOT NULL
);
