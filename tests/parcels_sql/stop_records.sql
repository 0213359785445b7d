CREATE TABLE stop_records%SUFFIX% (
    aggregate_id uuid    NOT NULL,
    number       integer NOT NULL,
    cents        bigint  NOT NULL,
    code         integer NOT NULL,
    PRIMARY KEY (aggregate_id, number)
);
