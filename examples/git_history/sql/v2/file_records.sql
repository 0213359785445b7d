-- A file with all that was ever changed in it, under whatever name.
CREATE TABLE file_records%SUFFIX% (
    aggregate_id    uuid        NOT NULL,
    path            text        NOT NULL,
    is_deleted      boolean     NOT NULL,
    changes         integer     NOT NULL,
    binary_changes  integer     NOT NULL,
    lines_added     bigint      NOT NULL,
    lines_deleted   bigint      NOT NULL,
    net_lines       bigint      NOT NULL GENERATED ALWAYS AS (lines_added - lines_deleted) STORED,
    largest_commit  bigint      NOT NULL,
    first_commit_at timestamptz NOT NULL,
    last_commit_at  timestamptz NOT NULL
);
