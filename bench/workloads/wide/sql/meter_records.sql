-- One row for each meter.
CREATE TABLE meter_records%SUFFIX% (
    aggregate_id uuid        NOT NULL,
    site         text        NOT NULL,
    model        text        NOT NULL,
    readings     integer     NOT NULL,
    last_a       bigint      NOT NULL,
    last_b       bigint      NOT NULL,
    last_c       bigint      NOT NULL,
    last_d       bigint      NOT NULL,
    last_e       bigint      NOT NULL,
    total_a      bigint      NOT NULL,
    total_b      bigint      NOT NULL,
    total_c      bigint      NOT NULL,
    total_d      bigint      NOT NULL,
    total_e      bigint      NOT NULL,
    highest_a    bigint      NOT NULL,
    highest_b    bigint      NOT NULL,
    highest_c    bigint      NOT NULL,
    highest_d    bigint      NOT NULL,
    highest_e    bigint      NOT NULL,
    updated_at   timestamptz NOT NULL
);
