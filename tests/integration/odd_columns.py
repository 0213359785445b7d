"""An application whose table has every kind of column, hostile names among them, for the tests of verification."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Double, LargeBinary, Numeric, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Config, Event, Migrations, Projector, Record, Sequent, on

SQL = {
    "odd.sql": """
CREATE TABLE "odd % ""records""%SUFFIX%" (
    id            bigserial NOT NULL,
    aggregate_id  uuid NOT NULL,
    number        integer NOT NULL,
    "na%me"       text,
    measure       double precision,
    amount        numeric,
    document      jsonb,
    note          json,
    tags          text[],
    sizes         bigint[],
    content       bytea,
    noticed_at    timestamptz,
    given_at      timestamptz NOT NULL DEFAULT now(),
    kept_by       text NOT NULL DEFAULT 'nobody',
    doubled       integer GENERATED ALWAYS AS (number * 2) STORED
);
""",
    "odd.indexes.sql": """
ALTER TABLE "odd % ""records""%SUFFIX%" ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX "odd % index%SUFFIX%" ON "odd % ""records""%SUFFIX%" (aggregate_id, number);
""",
}


class Noticed(Event):
    name: str | None = None
    measure: float | None = None
    amount: Decimal | None = None
    document: Any = None
    tags: list[str] | None = None
    sizes: list[int] | None = None
    content: str | None = None


class OddRecord(Record):
    __tablename__ = 'odd % "records"'

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    number: Mapped[int]
    name: Mapped[str | None] = mapped_column("na%me", Text)
    measure: Mapped[float | None] = mapped_column(Double)
    amount: Mapped[Decimal | None] = mapped_column(Numeric)
    document: Mapped[Any] = mapped_column(JSONB, nullable=True)
    note: Mapped[Any] = mapped_column(JSON, nullable=True)
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    sizes: Mapped[list[int] | None]
    content: Mapped[bytes | None] = mapped_column(LargeBinary)
    noticed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    given_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class OddProjector(Projector):
    manages_tables = (OddRecord,)

    @on(Noticed)
    def noticed(self, event: Noticed) -> None:
        self.create_record(
            OddRecord,
            aggregate_id=event.aggregate_id,
            number=event.sequence_number,
            name=event.name,
            measure=event.measure,
            amount=event.amount,
            document=event.document,
            note=event.document,
            tags=event.tags,
            sizes=event.sizes,
            content=None if event.content is None else event.content.encode(),
            noticed_at=event.created_at,
            given_at=event.created_at,
        )


class OddMigrations(Migrations):
    version = 1
    versions = {1: [OddProjector]}


def odd_application(database_url: str, directory: Path) -> Sequent:
    """The application; its table files are written into ``directory``."""
    for name, text in SQL.items():
        (directory / name.replace("odd", 'odd % "records"', 1)).write_text(text, encoding="utf-8")
    return Sequent(
        Config(database_url=database_url, workers=0, sql_directory=directory), migrations=OddMigrations
    )
