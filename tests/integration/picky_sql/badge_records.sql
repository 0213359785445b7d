CREATE TABLE badge_records%SUFFIX% (
    number       integer NOT NULL PRIMARY KEY,
    aggregate_id uuid    NOT NULL
);
