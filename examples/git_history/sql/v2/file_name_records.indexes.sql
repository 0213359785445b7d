ALTER TABLE file_name_records%SUFFIX% ADD CONSTRAINT file_name_records%SUFFIX%_pkey
    PRIMARY KEY (aggregate_id, name_number);
