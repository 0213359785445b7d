ALTER TABLE order_line_records%SUFFIX% ADD CONSTRAINT order_line_records_pkey%SUFFIX% PRIMARY KEY (id);
CREATE INDEX order_line_records_aggregate_id%SUFFIX% ON order_line_records%SUFFIX% (aggregate_id, sku);
