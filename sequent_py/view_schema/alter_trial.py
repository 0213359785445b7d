"""Tries alter files on an empty copy of the live table, inside the trial's transaction.

The live table itself is only read: altering it, even to roll that back, would stop its readers. The copy has the names of the original's
constraints, indexes, statistics and triggers, so that a file may drop them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.errors import DefinitionError, TableFileError
from sequent_py.records import RecordShape
from sequent_py.view_schema import catalog, table_files
from sequent_py.view_schema.blueprints import CatalogObject
from sequent_py.view_schema.file_runs import rolled_back
from sequent_py.view_schema.renames import Rename, rename_all
from sequent_py.view_schema.script import run_script, searching
from sequent_py.view_schema.table_files import TableFiles

Connection = psycopg.Connection[Any]

UNDEFINED = (
    errors.UndefinedTable,
    errors.UndefinedObject,
    errors.UndefinedFunction,
    errors.InvalidForeignKey,
)
"""What a file may run into when something of the view schema is not on its search path."""


@dataclass(frozen=True, slots=True)
class AlterScript:
    """One alter file of a plan."""

    shape: RecordShape
    version: int
    sql: str
    files: TableFiles
    """The table's own files, which have the shape that the alter must lead to."""


def prove_alters(
    connection: Connection,
    table: str,
    scripts: Sequence[AlterScript],
    wanted: Mapping[str, str],
    *,
    scratch: str,
    view_schema: str,
) -> None:
    """Run a table's alter files on an empty copy of it, and compare its columns with the table file's.

    Raises
    ------
    TableFileError
        A file fails.
    DefinitionError
        The columns differ.
    """
    scripts = sorted(scripts, key=lambda item: item.version)
    try:
        found = _altered_columns(connection, table, scripts, scratch, view_schema, (scratch, "public"))
    except TableFileError as error:
        if not isinstance(error.__cause__, UNDEFINED):
            raise
        search_path = (scratch, view_schema, "public")
        found = _altered_columns(connection, table, scripts, scratch, view_schema, search_path)
    if found == wanted:
        return
    names = ", ".join(table_files.alter_file_name(table, item.version) for item in scripts)
    create = table_files.create_file_name(table)
    differences = "; ".join(
        f"{name}: {found.get(name, 'none')} after {names}, {wanted.get(name, 'none')} in {create}"
        for name in dict.fromkeys((*wanted, *found))
        if found.get(name) != wanted.get(name)
    )
    raise DefinitionError(
        f"{names} and {create} lead to different columns of {table}: {differences}.",
        remedy="A table file always describes the newest shape: make them agree.",
    )


def columns_as_text(connection: Connection, scratch: str, view_schema: str, table: str) -> dict[str, str]:
    """Return the columns of a table of the scratch schema as one would write them; what must be equal after an alter."""
    with searching(connection, (scratch, view_schema)):
        return dict(connection.execute(_COLUMNS, (scratch, table)).fetchall())


def _altered_columns(
    connection: Connection,
    table: str,
    scripts: Sequence[AlterScript],
    scratch: str,
    view_schema: str,
    search_path: Sequence[str],
) -> dict[str, str]:
    with rolled_back(connection):
        before = catalog.take_inventory(connection, view_schema)
        _copy(connection, table, scratch, view_schema)
        for item in scripts:
            source = table_files.alter_file_name(table, item.version)
            run_script(connection, item.sql, source=source, search_path=search_path)
            catalog.created_since(connection, before, schema=scratch, view_schema=view_schema, source=source)
        return columns_as_text(connection, scratch, view_schema, table)


# LIKE leaves these out, and real ones would lock other tables: a stand-in that a file can drop does as well.
_STAND_INS = {
    "constraint": sql.SQL("ALTER TABLE {copy} ADD CONSTRAINT {name} CHECK (true)"),
    "trigger": sql.SQL(
        "CREATE TRIGGER {name} BEFORE UPDATE ON {copy} FOR EACH ROW"
        " EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()"
    ),
    "policy": sql.SQL("CREATE POLICY {name} ON {copy}"),
    "rule": sql.SQL("CREATE RULE {name} AS ON UPDATE TO {copy} DO ALSO NOTHING"),
}


def _copy(connection: Connection, table: str, scratch: str, view_schema: str) -> None:
    """Create an empty copy of a live table, with the names that an alter file may mention."""
    copy, live = sql.Identifier(scratch, table), sql.Identifier(view_schema, table)
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(copy, live))
    originals = catalog.attached_objects(connection, view_schema, [table])
    copies = catalog.attached_objects(connection, scratch, [table])
    renames = [
        Rename(kind, table if kind == "key" else "", right.name, left.name)
        for kind in ("key", "index", "statistics")
        # LIKE goes through them in the order of their creation.
        for left, right in zip(_of_kind(originals, kind), _of_kind(copies, kind), strict=False)
    ]
    rename_all(connection, scratch, renames)
    for item in originals:
        if item.kind in _STAND_INS and (item.kind != "constraint" or item.detail == "f"):
            connection.execute(_STAND_INS[item.kind].format(copy=copy, name=sql.Identifier(item.name)))


def _of_kind(objects: Iterable[CatalogObject], kind: str) -> list[CatalogObject]:
    return [item for item in objects if item.kind == kind]


_COLUMNS = """
    SELECT a.attname, concat_ws(' ', pg_catalog.format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation <> y.typcollation THEN 'COLLATE ' || a.attcollation::regcollation::text END,
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        CASE a.attgenerated WHEN '' THEN 'DEFAULT ' WHEN 's' THEN 'GENERATED STORED ' ELSE 'GENERATED VIRTUAL ' END
            || pg_catalog.pg_get_expr(e.adbin, e.adrelid),
        CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
    WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum"""
