CREATE TABLE product_records%SUFFIX% (
    order_id uuid NOT NULL,
    product  text NOT NULL,
    PRIMARY KEY (order_id, product)
);
