CREATE TABLE wallet_records%SUFFIX% (
    aggregate_id uuid   NOT NULL,
    owner        text   NOT NULL,
    balance      bigint NOT NULL,
    owner_total  bigint NOT NULL,
    PRIMARY KEY (aggregate_id)
);
