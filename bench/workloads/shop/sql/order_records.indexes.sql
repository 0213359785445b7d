ALTER TABLE order_records%SUFFIX% ADD CONSTRAINT order_records_pkey%SUFFIX% PRIMARY KEY (id);
CREATE UNIQUE INDEX order_records_aggregate_id%SUFFIX% ON order_records%SUFFIX% (aggregate_id);
