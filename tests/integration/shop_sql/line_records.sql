CREATE TABLE line_records%SUFFIX% (
    aggregate_id uuid    NOT NULL,
    number       integer NOT NULL,
    product      text    NOT NULL,
    cents        bigint  NOT NULL,
    PRIMARY KEY (aggregate_id, number)
);
