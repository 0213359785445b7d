CREATE TABLE order_line_records%SUFFIX% (
    id           bigserial NOT NULL,
    aggregate_id uuid NOT NULL,
    sku          varchar(40) NOT NULL,
    title        text NOT NULL,
    quantity     integer NOT NULL,
    unit_price   numeric(10,2) NOT NULL,
    amount       numeric(12,2) NOT NULL
);
