-- A file with all that was ever changed in it, under whatever name.
CREATE TABLE file_records%SUFFIX% (
    aggregate_id   uuid        NOT NULL,
    path           text        NOT NULL,
    is_deleted     boolean     NOT NULL,
    changes        integer     NOT NULL,
    binary_changes integer     NOT NULL,
    lines_added    bigint      NOT NULL,
    lines_deleted  bigint      NOT NULL,
    updated_at     timestamptz NOT NULL
);
