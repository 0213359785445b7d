-- Built after the load.
ALTER TABLE meter_records%SUFFIX% ADD CONSTRAINT meter_records%SUFFIX%_pkey PRIMARY KEY (aggregate_id);
CREATE INDEX meter_records%SUFFIX%_site ON meter_records%SUFFIX% (site);
