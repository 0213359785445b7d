CREATE TABLE order_records%SUFFIX% (
    id           bigserial NOT NULL,
    aggregate_id uuid NOT NULL,
    customer     text NOT NULL,
    email        varchar(120) NOT NULL,
    status       varchar(20) NOT NULL,
    currency     varchar(3) NOT NULL,
    total        numeric(12,2) NOT NULL,
    paid         numeric(12,2) NOT NULL,
    is_paid      boolean NOT NULL,
    line_count   integer NOT NULL,
    ship_by      date,
    shipped_on   date,
    address      jsonb NOT NULL,
    tags         text[] NOT NULL,
    placed_at    timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
