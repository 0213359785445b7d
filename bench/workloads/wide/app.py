"""Meters with five channels: events, the record, its projector, and the view schema."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Event, Migrations, Projector, Record, on


class MeterInstalled(Event):
    """A meter begins."""

    site: str
    model: str


class MeterRead(Event):
    """All channels were read."""

    a: int
    b: int
    c: int
    d: int
    e: int


class MeterRecord(Record):
    """A meter: the last value, the sum and the highest value of each channel."""

    __tablename__ = "meter_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    site: Mapped[str]
    model: Mapped[str]
    readings: Mapped[int]
    last_a: Mapped[int]
    last_b: Mapped[int]
    last_c: Mapped[int]
    last_d: Mapped[int]
    last_e: Mapped[int]
    total_a: Mapped[int]
    total_b: Mapped[int]
    total_c: Mapped[int]
    total_d: Mapped[int]
    total_e: Mapped[int]
    highest_a: Mapped[int]
    highest_b: Mapped[int]
    highest_c: Mapped[int]
    highest_d: Mapped[int]
    highest_e: Mapped[int]
    updated_at: Mapped[datetime]


class MeterProjector(Projector):
    """One row for each meter; each channel's handler updates it by itself."""

    manages_tables = (MeterRecord,)

    @on(MeterInstalled)
    def installed(self, event: MeterInstalled) -> None:
        self.create_record(
            MeterRecord,
            aggregate_id=event.aggregate_id,
            site=event.site,
            model=event.model,
            readings=0,
            **{f"{what}_{channel}": 0 for what in ("last", "total", "highest") for channel in "abcde"},
            updated_at=event.created_at,
        )

    @on(MeterRead)
    def read_a(self, event: MeterRead) -> None:
        with self.update_record(MeterRecord, event) as meter:
            meter.readings += 1
            meter.last_a = event.a
            meter.total_a += event.a
            meter.highest_a = max(meter.highest_a, event.a)

    @on(MeterRead)
    def read_b(self, event: MeterRead) -> None:
        with self.update_record(MeterRecord, event) as meter:
            meter.last_b = event.b
            meter.total_b += event.b
            meter.highest_b = max(meter.highest_b, event.b)

    @on(MeterRead)
    def read_c(self, event: MeterRead) -> None:
        with self.update_record(MeterRecord, event) as meter:
            meter.last_c = event.c
            meter.total_c += event.c
            meter.highest_c = max(meter.highest_c, event.c)

    @on(MeterRead)
    def read_d(self, event: MeterRead) -> None:
        with self.update_record(MeterRecord, event) as meter:
            meter.last_d = event.d
            meter.total_d += event.d
            meter.highest_d = max(meter.highest_d, event.d)

    @on(MeterRead)
    def read_e(self, event: MeterRead) -> None:
        with self.update_record(MeterRecord, event) as meter:
            meter.last_e = event.e
            meter.total_e += event.e
            meter.highest_e = max(meter.highest_e, event.e)


class MeterMigrations(Migrations):
    """One version."""

    version = 1
    versions = {1: [MeterProjector]}  # noqa: RUF012
