CREATE TABLE order_records%SUFFIX% (
    id              bigserial   NOT NULL,
    aggregate_id    uuid        NOT NULL,
    customer        text        NOT NULL,
    total           bigint      NOT NULL,
    lines           integer     NOT NULL,
    updated_at      timestamptz NOT NULL,
    sequence_number integer     NOT NULL
);
