"""A whole life of an application whose every name is hostile: schemas, tables, columns, event types, projectors, partitions and views."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Config, Event, Migrations, Projector, Record, Sequent, on
from sequent_py.errors import SequentError
from sequent_py.schema_migrations.event_store import install_event_store

NAMES = {
    "quotes and backslashes": 'Odd "quo\'tes" \\x $1 $$',
    "percent and braces": "100% %s %(x)s {} {0} :x",
    "unicode and control characters": "Ünï 表 🐘\t;\n-- [red]",
    "reserved": "select",
    "as long as can be": "é" * 29,
}

TABLE = """
CREATE TABLE {shadow} (
    id bigserial PRIMARY KEY,
    aggregate_id uuid NOT NULL,
    {column} text NOT NULL CHECK ({column} <> 'none'),
    total bigint NOT NULL
);
COMMENT ON COLUMN {shadow}.{column} IS '% of it';
"""
PARTITIONED = """
CREATE TABLE {shadow} (aggregate_id uuid PRIMARY KEY, {column} text NOT NULL) PARTITION BY HASH (aggregate_id);
CREATE TABLE {part} PARTITION OF {shadow} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE {other_part} PARTITION OF {shadow} FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""
INDEXES = "CREATE UNIQUE INDEX ON {shadow} (aggregate_id); CREATE INDEX {index} ON {shadow} ({column});"


def quoted(name: str, suffix: str = "") -> str:
    return '"' + name.replace('"', '""') + suffix + '"'


def shortened(name: str, suffix: str) -> str:
    """Return a name that leaves room for what PostgreSQL or we put after it."""
    return name.encode()[: 58 - len(suffix)].decode(errors="ignore") + suffix


class Life:
    """An application in two versions, all of whose names are made from one."""

    def __init__(self, name: str, directory: Path, database_url: str) -> None:
        self.column = shortened(name, "c")
        self.tables = [shortened(name, ""), shortened(name, "p")]
        self.view_schema, self.store_schema = name, shortened(name, "s")
        self._url, self._directory = database_url, directory
        self._write_files()
        events = self._events(name)
        # Made at run time: no type knows their fields.
        self.opened: Any = events[0]
        self.added: Any = events[1]
        self._declare(name, events)

    def _write_files(self) -> None:
        plain, partitioned = self.tables
        for table, text in ((plain, TABLE), (partitioned, PARTITIONED)):
            values = {
                "shadow": quoted(table, "%SUFFIX%"),
                "column": quoted(self.column),
                "part": quoted(shortened(table, "0"), "%SUFFIX%"),
                "other_part": quoted(shortened(table, "1"), "%SUFFIX%"),
                "index": quoted(shortened(table, "i"), "%SUFFIX%"),
            }
            (self._directory / f"{table}.sql").write_text(text.format(**values))
            if text is TABLE:
                (self._directory / f"{table}.indexes.sql").write_text(INDEXES.format(**values))

    @staticmethod
    def _events(name: str) -> tuple[type[Event], type[Event]]:
        class Opened(Event, type_name=f"{name} opened", aliases=(f"{name} before",)):
            owner: str

        class Added(Event, type_name=f"{name} added"):
            amount: int

        return Opened, Added

    def _declare(self, name: str, events: tuple[type[Event], type[Event]]) -> None:
        column, (plain, partitioned) = self.column, self.tables

        class PlainRecord(Record):
            __tablename__ = plain

            id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
            aggregate_id: Mapped[UUID]
            owner: Mapped[str] = mapped_column(column, Text)
            total: Mapped[int] = mapped_column(BigInteger)

        class PartitionedRecord(Record):
            __tablename__ = partitioned

            aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
            owner: Mapped[str] = mapped_column(column, Text)

        def opened(self: Projector, event: Any) -> None:
            self.create_record(PlainRecord, aggregate_id=event.aggregate_id, owner=event.owner, total=0)
            self.create_record(PartitionedRecord, aggregate_id=event.aggregate_id, owner=event.owner)

        def added(self: Projector, event: Any) -> None:
            with self.update_record(PlainRecord, event) as row:
                row.total += event.amount

        handlers: dict[str, Callable[..., None]] = {
            "opened": on(events[0])(opened),
            "added": on(events[1])(added),
        }
        projector = type(name, (Projector,), {"manages_tables": (PlainRecord, PartitionedRecord), **handlers})
        self.versions: list[type[Migrations]] = [
            type(
                name,
                (Migrations,),
                {"version": number, "versions": {n: [projector] for n in range(1, number + 1)}},
            )
            for number in (1, 2)
        ]

    def app(self, version: int) -> Sequent:
        config = Config(
            database_url=self._url,
            workers=0,
            sql_directory=self._directory,
            view_schema=self.view_schema,
            event_store_schema=self.store_schema,
        )
        return Sequent(config, migrations=self.versions[version - 1])

    def append(self, app: Sequent, numbers: range, owner: str) -> None:
        for number in numbers:
            app.store.append(
                UUID(int=number), [self.opened(owner=owner), self.added(amount=number)], expected_version=0
            )

    def rows(self, connection: psycopg.Connection, suffix: str = "") -> list[tuple[Any, ...]]:
        plain, partitioned = (sql.Identifier(self.view_schema, table + suffix) for table in self.tables)
        query = sql.SQL(
            "SELECT aggregate_id, p.{0}, t.total FROM {1} t JOIN {2} p USING (aggregate_id) WHERE t.{0} = p.{0} ORDER BY 1"
        )
        return connection.execute(query.format(sql.Identifier(self.column), plain, partitioned)).fetchall()


def counted(connection: psycopg.Connection, view: sql.Identifier, column: str, value: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {} WHERE {} = {}").format(view, sql.Identifier(column), value)
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", NAMES)
def test_a_whole_life_under_hostile_names(kind: str, database_url: str, tmp_path: Path) -> None:
    name = NAMES[kind]
    life = Life(name, tmp_path, database_url)
    with (
        life.app(1) as app,
        life.app(2) as newer,
        psycopg.connect(database_url, autocommit=True) as connection,
    ):
        install_event_store(connection, life.store_schema)
        life.append(app, range(1, 9), "early")
        assert app.view_schema.dry_run(sample=5).aggregates == 5
        app.view_schema.online()
        app.view_schema.offline()
        life.append(app, range(9, 12), name)
        expected = [(UUID(int=number), "early", number) for number in range(1, 9)]
        expected += [(UUID(int=number), name, number) for number in range(9, 12)]
        assert life.rows(connection) == expected

        plain = sql.Identifier(life.view_schema, life.tables[0])
        view = sql.Identifier(shortened(name, "v"))
        column = sql.Identifier(life.column)
        connection.execute(
            sql.SQL("CREATE VIEW {} AS SELECT {} AS {} FROM {}").format(
                view, column, sql.Identifier(name), plain
            )
        )
        connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(plain, name))
        connection.execute(
            sql.SQL("CREATE POLICY {} ON {} USING ({} <> {})").format(
                sql.Identifier(name), plain, column, name
            )
        )
        connection.execute(
            sql.SQL("CREATE STATISTICS {} ON id, {} FROM {}").format(
                sql.Identifier(life.view_schema, shortened(name, "t")), column, plain
            )
        )
        with pytest.raises(SequentError):
            life.append(app, range(1, 2), "again")

        assert {step.table_name for step in newer.view_schema.plan().plan.replays} == {*life.tables}
        newer.view_schema.online()
        newer.view_schema.abort()
        newer.view_schema.online()
        life.append(app, range(12, 14), "meanwhile")
        assert newer.view_schema.online().events == 4
        life.append(app, range(14, 15), "late")
        status = newer.view_schema.status()
        assert status.pending_events == 2
        json.dumps(asdict(status), default=str)
        verified = newer.view_schema.verify(is_all=True)
        assert verified.is_correct, verified
        assert {table.table_name for table in newer.view_schema.diff().tables} == {*life.tables}
        report = newer.view_schema.golive()
        assert {*report.retired_tables} == {f"{table}_1" for table in life.tables}
        assert len(report.repointed_views) == 1
        expected += [(UUID(int=number), "meanwhile", number) for number in (12, 13)]
        expected += [(UUID(int=14), "late", 14)]
        assert life.rows(connection) == expected
        assert life.rows(connection, "_1") == expected
        life.append(newer, range(15, 16), "after")
        assert len(life.rows(connection)) == 15
        assert counted(connection, view, name, "after") == 1
        comment = "SELECT obj_description(c.oid), (SELECT polname FROM pg_policy WHERE polrelid = c.oid) FROM pg_class c WHERE relname = %s"
        assert connection.execute(comment, (life.tables[0],)).fetchone() == (name, name)
        assert newer.view_schema.check().is_current

        # Back, with what was written since; forth again; an aggregate erased from all generations; the old ones dropped.
        expected = life.rows(connection)
        app.view_schema.rollback()
        assert life.rows(connection) == expected
        assert counted(connection, view, name, "after") == 1
        newer.view_schema.rollback()
        assert life.rows(connection) == expected
        newer.aggregates.erase([UUID(int=15)])
        assert life.rows(connection) == expected[:-1]
        assert counted(connection, view, name, "after") == 0
        assert newer.view_schema.prune(keep=0)
        assert newer.view_schema.status().retired_tables == ()
        assert newer.view_schema.current_version() == 2
