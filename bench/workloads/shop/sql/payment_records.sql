CREATE TABLE payment_records%SUFFIX% (
    id           bigserial NOT NULL,
    aggregate_id uuid NOT NULL,
    amount       numeric(12,2) NOT NULL,
    method       varchar(10) NOT NULL,
    paid_on      date NOT NULL
);
