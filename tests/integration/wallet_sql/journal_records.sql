CREATE TABLE journal_records%SUFFIX% (
    number       bigint NOT NULL,
    aggregate_id uuid   NOT NULL,
    total        bigint NOT NULL
);
