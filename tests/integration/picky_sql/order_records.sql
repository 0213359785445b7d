CREATE TABLE order_records%SUFFIX% (
    id              bigserial   PRIMARY KEY,
    aggregate_id    uuid        NOT NULL UNIQUE,
    customer        text        NOT NULL,
    total           bigint      NOT NULL CONSTRAINT total_is_positive%SUFFIX% CHECK (total >= 0),
    lines           integer     NOT NULL,
    phone           text        NOT NULL,
    dialled         text        NOT NULL GENERATED ALWAYS AS (nullif(phone, 'none')) STORED,
    voucher         text        NULL CONSTRAINT voucher_once%SUFFIX% UNIQUE,
    desk            integer     NULL CONSTRAINT desk_once%SUFFIX% UNIQUE DEFERRABLE INITIALLY DEFERRED,
    updated_at      timestamptz NOT NULL,
    sequence_number integer     NOT NULL
);
