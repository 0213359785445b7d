CREATE TABLE parcel_records%SUFFIX% (
    id              bigserial NOT NULL,
    aggregate_id    uuid      NOT NULL,
    city            text      NOT NULL,
    stops           integer   NOT NULL,
    cents           bigint    NOT NULL,
    code            integer   NOT NULL,
    sequence_number integer   NOT NULL
);
