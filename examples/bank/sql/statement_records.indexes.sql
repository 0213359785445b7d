-- Built after the load, when each costs one sort instead of a page split per row.
ALTER TABLE statement_records%SUFFIX% ADD CONSTRAINT statement_records%SUFFIX%_pkey
    PRIMARY KEY (aggregate_id, sequence_number);
CREATE INDEX statement_records%SUFFIX%_booked_at ON statement_records%SUFFIX% (booked_at);
