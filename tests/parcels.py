"""An application in any number of versions, for tests that crash, roll back and go on: parcels and their stops.

Every row tells which version of the code wrote it (``code``), so that a table that two versions wrote to is found out. Version 1 builds both
tables, 2 the parcels, 3 both, 4 the stops, and so on in turns. From version 2 on the code carries the version before it as well. The oracle, :func:`expected_rows`,
folds the events naively in one loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Config, Event, Migrations, Projector, Record, Sequent, on

SQL_DIRECTORY = Path(__file__).parent / "parcels_sql"
VERSIONS = 40


class ParcelPosted(Event):
    city: str


class ParcelMoved(Event):
    cents: int


class ParcelLost(Event):
    pass


class ParcelRecord(Record):
    __tablename__ = "parcel_records"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    aggregate_id: Mapped[UUID]
    city: Mapped[str]
    stops: Mapped[int]
    cents: Mapped[int] = mapped_column(BigInteger)
    code: Mapped[int]
    sequence_number: Mapped[int]


class StopRecord(Record):
    __tablename__ = "stop_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    cents: Mapped[int] = mapped_column(BigInteger)
    code: Mapped[int]


class _Parcels(Projector):
    manages_tables = (ParcelRecord,)
    code = 0

    @on(ParcelPosted)
    def posted(self, event: ParcelPosted) -> None:
        self.create_record(
            ParcelRecord,
            aggregate_id=event.aggregate_id,
            city=event.city,
            stops=0,
            cents=0,
            code=self.code,
            sequence_number=event.sequence_number,
        )

    @on(ParcelMoved)
    def moved(self, event: ParcelMoved) -> None:
        with self.update_record(ParcelRecord, event) as parcel:
            parcel.stops += 1
            parcel.cents += event.cents

    @on(ParcelLost)
    def lost(self, event: ParcelLost) -> None:
        self.delete_all_records(ParcelRecord, aggregate_id=event.aggregate_id)


class _Stops(Projector):
    manages_tables = (StopRecord,)
    code = 0

    @on(ParcelMoved)
    def moved(self, event: ParcelMoved) -> None:
        self.create_record(
            StopRecord,
            aggregate_id=event.aggregate_id,
            number=event.sequence_number,
            cents=event.cents,
            code=self.code,
        )

    @on(ParcelLost)
    def lost(self, event: ParcelLost) -> None:
        self.delete_all_records(StopRecord, aggregate_id=event.aggregate_id)


def _builds_parcels(version: int) -> bool:
    return version == 1 or version % 3 != 1


def _builds_stops(version: int) -> bool:
    return version % 3 != 2


def codes_of(version: int) -> tuple[int, int]:
    """The versions of the code that serve the parcels and the stops at a version."""
    return (
        max(number for number in range(1, version + 1) if _builds_parcels(number)),
        max(number for number in range(1, version + 1) if _builds_stops(number)),
    )


def _declare() -> dict[int, type[Migrations]]:
    """Make the declarations; each is at the top level of this module, as worker processes need it."""
    module = globals()
    declared: dict[int, type[Migrations]] = {}
    for version in range(1, VERSIONS + 1):
        if _builds_parcels(version):
            name = f"ParcelProjector{version}"
            module[name] = type(name, (_Parcels,), {"code": version, "__module__": __name__})
        if _builds_stops(version):
            name = f"StopProjector{version}"
            module[name] = type(name, (_Stops,), {"code": version, "__module__": __name__})
        parcels, stops = codes_of(version)
        versions: dict[int, list[type[Projector]]] = {number: [] for number in range(1, version + 1)}
        versions[parcels].append(module[f"ParcelProjector{parcels}"])
        versions[stops].append(module[f"StopProjector{stops}"])
        name = f"Parcels{version}"
        values = {"version": version, "versions": versions, "__module__": __name__}
        if version > 1:
            values["also_serves"] = (declared[version - 1],)
        declared[version] = module[name] = type(name, (Migrations,), values)
    return declared


DECLARED = _declare()


def reference(version: int) -> str:
    """How the command line is told a version of the code."""
    return f"{__name__}:Parcels{version}"


def parcels(database_url: str, version: int, **settings: Any) -> Sequent:
    """The application at one version of its code; replays in this process unless told otherwise."""
    values: dict[str, Any] = {"workers": 0, "sql_directory": SQL_DIRECTORY} | settings
    return Sequent(Config(database_url=database_url, **values), migrations=DECLARED[version])


def parcel(number: int) -> UUID:
    """The id of a parcel, spread over all partitions."""
    return UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128)


Rows = dict[str, list[tuple[Any, ...]]]


def expected_rows(
    connection: psycopg.Connection[Any], version: int, *, visible_in: str | None = None
) -> Rows:
    """Fold naively, as the code of a version would, all committed events, or those that a snapshot sees."""
    parcels_code, stops_code = codes_of(version)
    found: dict[UUID, list[Any]] = {}
    stops: dict[tuple[UUID, int], tuple[Any, ...]] = {}
    for aggregate_id, sequence_number, name, payload in connection.execute(
        "SELECT e.aggregate_id, e.sequence_number, t.name, e.payload FROM sequent_schema.events e"
        " JOIN sequent_schema.event_types t ON t.id = e.event_type_id"
        " WHERE pg_visible_in_snapshot(e.xact_id, coalesce(%s::pg_snapshot, pg_current_snapshot()))"
        " ORDER BY e.aggregate_id, e.sequence_number",
        [visible_in],
    ):
        if name == "ParcelPosted":
            found[aggregate_id] = [payload["city"], 0, 0, parcels_code, sequence_number]
        elif name == "ParcelMoved":
            row = found[aggregate_id]
            row[1] += 1
            row[2] += payload["cents"]
            row[4] = sequence_number
            stops[aggregate_id, sequence_number] = (payload["cents"], stops_code)
        else:
            del found[aggregate_id]
            for key in [key for key in stops if key[0] == aggregate_id]:
                del stops[key]
    return {
        "parcel_records": sorted((key, *values) for key, values in found.items()),
        "stop_records": sorted((*key, *values) for key, values in stops.items()),
    }


def actual_rows(connection: psycopg.Connection[Any]) -> Rows:
    """Read the tables that serve, serial ids aside."""
    return {
        "parcel_records": parcel_rows(connection, "parcel_records"),
        "stop_records": stop_rows(connection, "stop_records"),
    }


def parcel_rows(connection: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    """Read a table of parcels, whatever it is called now."""
    query = sql.SQL(
        "SELECT aggregate_id, city, stops, cents, code, sequence_number FROM {} ORDER BY 1"
    ).format(sql.Identifier("view_schema", table))
    return connection.execute(query).fetchall()


def stop_rows(connection: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    """Read a table of stops, whatever it is called now."""
    query = sql.SQL("SELECT aggregate_id, number, cents, code FROM {} ORDER BY 1, 2").format(
        sql.Identifier("view_schema", table)
    )
    return connection.execute(query).fetchall()
