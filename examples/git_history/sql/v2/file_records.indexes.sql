ALTER TABLE file_records%SUFFIX% ADD CONSTRAINT file_records%SUFFIX%_pkey PRIMARY KEY (aggregate_id);
-- Not on the whole path: it may be longer than an index entry.
CREATE INDEX file_records%SUFFIX%_path ON file_records%SUFFIX% (left(path, 200));
