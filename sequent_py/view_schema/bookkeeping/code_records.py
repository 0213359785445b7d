"""The record of code fingerprints: owner of the columns ``code`` of ``view_migrations`` and ``view_tables``.

A migration's row has the fingerprints of the code that worked on it last, per table that it builds or alters; the promotion copies them to the
tables' rows (:func:`hand_over`), and there they stay, whatever the table is renamed to. Every function runs in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from sequent_py.database import for_parameters
from sequent_py.errors import TableFileError
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.fingerprints import TableCode, changed_parts, table_code
from sequent_py.view_schema.migrations import AlterTable, MigrationsDefinition
from sequent_py.view_schema.plans import Plan

Connection = psycopg.Connection[Any]


def current_codes(
    definition: MigrationsDefinition, tables: Collection[str], directory: Path
) -> dict[str, TableCode]:
    """Fingerprint what would make these tables now."""
    return {table: table_code(definition, table, _files(definition, table, directory)) for table in tables}


def tables_of_plan(plan: Plan) -> list[str]:
    """Return the tables that a plan builds or alters."""
    names = [step.table_name for step in plan.replays] + [step.table_name for step in plan.alters]
    return list(dict.fromkeys(names))


def migration_codes(connection: Connection, schema: str, migration_id: int) -> dict[str, TableCode]:
    """Return what is recorded of a migration; nothing before its first run."""
    row = connection.execute(
        _sql("SELECT code FROM {migrations} WHERE id = %s", schema), (migration_id,)
    ).fetchone()
    return _from_json(row[0] if row is not None and row[0] is not None else {})


def record_migration_codes(
    connection: Connection, schema: str, migration_id: int, codes: Mapping[str, TableCode]
) -> None:
    """Record which code works on a migration."""
    document = Jsonb({table: code.to_json() for table, code in codes.items()})
    connection.execute(
        _sql("UPDATE {migrations} SET code = %s WHERE id = %s", schema), (document, migration_id)
    )


def hand_over(connection: Connection, schema: str, migration_id: int) -> None:
    """Let the live tables' rows say which code made them; in the transaction that promotes them, once it has."""
    connection.execute(
        _sql(
            "UPDATE {tables} t SET code = m.code -> t.table_name FROM {migrations} m"
            " WHERE m.id = %s AND t.role = 'live' AND m.code -> t.table_name IS NOT NULL",
            schema,
        ),
        (migration_id,),
    )


def live_codes(connection: Connection, schema: str) -> dict[str, tuple[int, TableCode | None]]:
    """Return the version and the code that built each live table; None where that was before there were fingerprints."""
    rows = connection.execute(
        _sql(
            "SELECT table_name, greatest(built_version, altered_version), code FROM {tables} WHERE role = %s ORDER BY table_name",
            schema,
        ),
        ("live",),
    ).fetchall()
    return {
        table: (version, None if code is None else TableCode.from_json(code)) for table, version, code in rows
    }


def record_live_code(connection: Connection, schema: str, table: str, code: TableCode) -> None:
    """Replace what is recorded of a live table."""
    connection.execute(
        _sql("UPDATE {tables} SET code = %s WHERE table_name = %s AND role = 'live'", schema),
        (Jsonb(code.to_json()), table),
    )


def changed_tables(
    recorded: Mapping[str, tuple[int, TableCode | None]], current: Mapping[str, TableCode]
) -> dict[str, list[str]]:
    """Return the changed parts of each table whose code is neither what built it nor accepted. Pure."""
    changes: dict[str, list[str]] = {}
    for table, code in current.items():
        _, built_by = recorded.get(table, (0, None))
        if built_by is not None and not built_by.covers(code):
            changes[table] = changed_parts(built_by, code)
    return changes


def _files(definition: MigrationsDefinition, table: str, directory: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    try:
        found = table_files.read_table_files(directory, table)
        texts[table_files.create_file_name(table)] = found.create_sql
        texts[table_files.indexes_file_name(table)] = found.indexes_sql or ""
        for version, entries in definition.versions.items():
            if any(isinstance(entry, AlterTable) and entry.table_name == table for entry in entries):
                name = table_files.alter_file_name(table, version)
                texts[name] = table_files.read_alter_file(directory, table, version)
    except TableFileError:
        # A missing file is somebody else's finding, who can say more about it.
        return texts
    return texts


def _from_json(document: Mapping[str, Any]) -> dict[str, TableCode]:
    return {table: TableCode.from_json(code) for table, code in document.items()}


def _sql(template: Any, schema: str) -> sql.Composed:
    return sql.SQL(template).format(
        migrations=for_parameters(sql.Identifier(schema, "view_migrations")),
        tables=for_parameters(sql.Identifier(schema, "view_tables")),
    )
