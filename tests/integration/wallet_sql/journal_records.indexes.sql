ALTER TABLE journal_records%SUFFIX% ADD CONSTRAINT journal_records_pkey%SUFFIX% PRIMARY KEY (number);
