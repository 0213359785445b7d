"""Builds and swaps generations of tables straight from SQL texts, without events or workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.records import Record, RecordShape, record_shape
from sequent_py.testing.server import embedded_binaries
from sequent_py.view_schema.ddl import executor, index_builds, swap
from sequent_py.view_schema.ddl.executor import AlterScript, TrialResult
from sequent_py.view_schema.ddl.swap import SwapResult
from sequent_py.view_schema.ddl.table_files import TableFiles, with_suffix
from sequent_py.view_schema.plans import AlterStep, Plan, ReplayStep
from sequent_py.view_schema.tables.blueprints import TableBlueprint

VIEW_SCHEMA = 'view "schema"'
Connection = psycopg.Connection[Any]


def shape(table: str, **columns: Any) -> RecordShape:
    """Return the shape of a record; ``id`` and ``name`` unless said otherwise."""
    columns = columns or {"id": int, "name": str}
    fields: dict[str, Any] = {name: mapped_column(primary_key=name == "id") for name in columns}
    annotations = {name: Mapped[kind] for name, kind in columns.items()}  # type: ignore[valid-type]
    return record_shape(
        type("TestRecord", (Record,), {**fields, "__tablename__": table, "__annotations__": annotations})
    )


def files(table: str, create: str, indexes: str | None = None) -> TableFiles:
    """Return table files; ``T`` stands for the table's name."""
    return TableFiles(table, create, indexes)


def plan(
    from_version: int,
    target_version: int,
    tables: Iterable[str],
    live: Iterable[str],
    alters: Iterable[AlterScript] = (),
) -> Plan:
    """Return a plan that replays tables."""
    return Plan(
        from_version,
        target_version,
        replays=tuple(
            ReplayStep(
                table_name=table,
                shadow_name=f"{table}_{target_version}",
                retired_name=f"{table}_{from_version}" if table in live else None,
                projectors=(),
                event_types=(),
                reason="",
            )
            for table in tables
        ),
        alters=tuple(AlterStep(item.files.table, item.version, "", "") for item in alters),
    )


class Generations:
    """A view schema, and the blueprints that the bookkeeping would hold."""

    def __init__(self, url: str, schema: str = VIEW_SCHEMA) -> None:
        self.url = url
        self.schema = schema
        self.connection = psycopg.connect(url, autocommit=True)
        self.version = 0
        self.live: dict[str, TableBlueprint] = {}
        self.retired: dict[str, TableBlueprint] = {}

    def trial(
        self, *tables: TableFiles, version: int | None = None, alters: Iterable[AlterScript] = ()
    ) -> TrialResult:
        """Try tables."""
        return executor.trial(
            self.connection,
            view_schema=self.schema,
            replays=[(shape(item.table), item) for item in tables],
            alters=list(alters),
            target_version=version or self.version + 1,
            live=self.live,
        )

    def build(
        self,
        *tables: TableFiles,
        version: int | None = None,
        fill: Callable[[Connection], object] = lambda connection: None,
        parallel: int = 1,
    ) -> dict[str, TableBlueprint]:
        """Try, create, fill and index the shadow tables."""
        version = version or self.version + 1
        replays = [(shape(item.table), item) for item in tables]
        tried = self.trial(*tables, version=version)
        with self.connection.transaction():
            created = executor.create_shadow_tables(
                self.connection,
                view_schema=self.schema,
                replays=replays,
                blueprints=tried.blueprints,
                target_version=version,
            )
        fill(self.connection)
        built = index_builds.build_indexes(
            lambda: psycopg.connect(self.url, autocommit=True),
            view_schema=self.schema,
            files=tables,
            blueprints=_stored({item.table: item for item in created}),
            target_version=version,
            on_built=lambda connection, blueprint: None,
            parallel=parallel,
        )
        executor.analyse(self.connection, self.schema, [item.physical_name for item in built])
        return _stored({item.table: item for item in built})

    def swap(
        self,
        shadows: Mapping[str, TableBlueprint],
        *,
        version: int | None = None,
        alters: Iterable[AlterScript] = (),
        leaving: Mapping[str, str] | None = None,
        lock_timeout: str = "2s",
        interruption: Exception | None = None,
    ) -> SwapResult:
        """Promote shadow tables; with an ``interruption``, right before the commit."""
        version = version or self.version + 1
        alters = list(alters)
        with self.connection.transaction():
            self.connection.execute("SELECT set_config('lock_timeout', %s, true)", (lock_timeout,))
            done = swap.swap(
                self.connection,
                view_schema=self.schema,
                plan=plan(self.version, version, shadows, self.live, alters),
                shadows=shadows,
                live=self.live,
                alters=alters,
                leaving=leaving,
            )
            if interruption is not None:
                raise interruption
        self.version = version
        for table in leaving or ():
            del self.live[table]
        self.live |= _stored({item.table: item for item in done.live})
        self.retired = {item.physical_name: item for item in done.retired_blueprints}
        return done

    def migrate(self, *tables: TableFiles, **options: Any) -> SwapResult:
        """Build and promote."""
        return self.swap(self.build(*tables, **options), version=options.get("version"))

    def execute(self, statement: str, **names: str) -> list[tuple[Any, ...]]:
        """Run a statement with ``{schema}`` and other identifiers filled in."""
        identifiers = {
            name: sql.Identifier(value) for name, value in {"schema": self.schema, **names}.items()
        }
        cursor = self.connection.execute(sql.SQL(statement).format(**identifiers))  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []

    def dump(self, table: str) -> str:
        """Return what ``pg_dump -s`` says of a table."""
        return dump(self.url, self.schema, table)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def create_fresh(url: str, *tables: TableFiles, schema: str = VIEW_SCHEMA) -> None:
    """Create tables under their plain names, as a user with psql would."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        connection.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(schema)))
        for item in tables:
            connection.execute(with_suffix(item.create_sql, ""))  # type: ignore[call-overload]
        for item in tables:
            if item.indexes_sql:
                connection.execute(with_suffix(item.indexes_sql, ""))  # type: ignore[call-overload]


def dump(url: str, schema: str, table: str) -> str:
    """Return the schema of a table by the server's own pg_dump, without comments and what differs from run to run."""
    with psycopg.connect(url) as connection:
        major = connection.info.server_version // 10000
    quoted = [f'"{name}"' for name in (_doubled(schema), _doubled(table))]
    command = [_pg_dump(major), "--schema-only", "--table", ".".join(quoted), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(major))
    assert done.returncode == 0, done.stderr
    lines = [
        line
        for line in done.stdout.splitlines()
        if not re.match(r"--|\\(un)?restrict|SET |SELECT pg_catalog", line)
    ]
    return "\n".join(line for line in lines if line.strip())


def objects(connection: Connection, schema: str) -> set[tuple[str, str]]:
    """Return kind and name of all that a schema has."""
    return set(
        connection.execute(
            """
            SELECT c.relkind::text, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s
            UNION SELECT 'constraint ' || k.contype::text, k.conname FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
            WHERE n.nspname = %(schema)s
            UNION SELECT 'function', f.proname FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace WHERE n.nspname = %(schema)s
            UNION SELECT 'statistics', s.stxname FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE n.nspname = %(schema)s
            """,
            {"schema": schema},
        ).fetchall()
    )


def _stored(blueprints: Mapping[str, TableBlueprint]) -> dict[str, TableBlueprint]:
    """Return blueprints as they come back from the bookkeeping."""
    return {
        table: TableBlueprint.from_json(json.loads(json.dumps(item.to_json())))
        for table, item in blueprints.items()
    }


def _doubled(name: str) -> str:
    return name.replace('"', '""')


def _pg_dump(major: int) -> str:
    debian = Path(f"/usr/lib/postgresql/{major}/bin/pg_dump")
    candidates = [
        Path(os.environ.get("POSTGRES_BINARIES", "/nonexistent")) / "pg_dump",
        debian,
        embedded_binaries() / "pg_dump",
    ]
    return str(next(path for path in candidates if path.exists() and _major(path) == major))


def _major(path: Path) -> int:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"(\d+)\.", text)[1])  # type: ignore[index]


def _environment(major: int) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
