CREATE TABLE statement_records%SUFFIX% (
    owner        text    NOT NULL,
    number       integer NOT NULL,
    aggregate_id uuid    NOT NULL,
    cents        bigint  NOT NULL,
    total        bigint  NOT NULL,
    PRIMARY KEY (owner, number)
);
