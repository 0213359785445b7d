-- Built after the load, when each costs one sort instead of a page split per row.
ALTER TABLE account_records%SUFFIX% ADD CONSTRAINT account_records%SUFFIX%_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX account_records%SUFFIX%_aggregate_id ON account_records%SUFFIX% (aggregate_id);
CREATE INDEX account_records%SUFFIX%_owner ON account_records%SUFFIX% (owner);
