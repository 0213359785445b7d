-- One line for each event of an account, with the running balance.
CREATE TABLE statement_records%SUFFIX% (
    aggregate_id    uuid        NOT NULL,
    sequence_number integer     NOT NULL,
    kind            text        NOT NULL,
    amount          bigint      NOT NULL,
    balance         bigint      NOT NULL,
    other_account   uuid,
    booked_at       timestamptz NOT NULL
);
