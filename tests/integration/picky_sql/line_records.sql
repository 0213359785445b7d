CREATE TABLE line_records%SUFFIX% (
    aggregate_id uuid     NOT NULL CONSTRAINT line_of_order%SUFFIX% 
        REFERENCES order_records%SUFFIX% (aggregate_id) DEFERRABLE INITIALLY DEFERRED,
    number       integer  NOT NULL,
    product      text     NOT NULL,
    cents        bigint   NOT NULL,
    short        smallint GENERATED ALWAYS AS (cents) STORED,
    PRIMARY KEY (aggregate_id, number)
);

CREATE FUNCTION refuse_products%SUFFIX%() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.product = 'forbidden' THEN
        RAISE EXCEPTION 'no % is sold here', NEW.product USING ERRCODE = 'SHOP1';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER refuse_products%SUFFIX% BEFORE INSERT ON line_records%SUFFIX%
    FOR EACH ROW EXECUTE FUNCTION refuse_products%SUFFIX%();
