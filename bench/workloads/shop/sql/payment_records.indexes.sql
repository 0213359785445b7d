ALTER TABLE payment_records%SUFFIX% ADD CONSTRAINT payment_records_pkey%SUFFIX% PRIMARY KEY (id);
CREATE INDEX payment_records_aggregate_id%SUFFIX% ON payment_records%SUFFIX% (aggregate_id);
