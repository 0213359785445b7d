ALTER TABLE activity_records%SUFFIX% ADD CONSTRAINT activity_records%SUFFIX%_pkey PRIMARY KEY (aggregate_id, month);
