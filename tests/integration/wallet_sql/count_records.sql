CREATE TABLE count_records%SUFFIX% (
    aggregate_id uuid    NOT NULL,
    events       integer NOT NULL,
    PRIMARY KEY (aggregate_id)
);
