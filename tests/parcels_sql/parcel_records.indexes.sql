ALTER TABLE parcel_records%SUFFIX% ADD CONSTRAINT parcel_records_pkey%SUFFIX% PRIMARY KEY (id);
CREATE UNIQUE INDEX parcel_records_aggregate%SUFFIX% ON parcel_records%SUFFIX% (aggregate_id);
