"""Tries alter files on an empty copy of the live table, inside the trial's transaction.

The live table itself is only read: altering it, even to roll that back, would stop its readers. The copy has the names of the original's
constraints, indexes, statistics and triggers, so that a file may drop them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import errors, sql

from sequent_py.errors import DefinitionError, DependentObjects, TableFileError
from sequent_py.records import RecordShape
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.ddl.file_runs import rolled_back
from sequent_py.view_schema.ddl.outlines import (
    STAND_IN,
    Outline,
    Part,
    indexes_by_age,
    mean_the_same,
    read_outline,
)
from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.tables import carry_over, catalog, dependents, views
from sequent_py.view_schema.tables.blueprints import CatalogObject, TableBlueprint
from sequent_py.view_schema.tables.renames import Rename, rename_all
from sequent_py.view_schema.tables.script import run_script, searching

Connection = psycopg.Connection[Any]
K = TypeVar("K")

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
    live: TableBlueprint,
    scripts: Sequence[AlterScript],
    wanted: Outline,
    *,
    scratch: str,
    view_schema: str,
) -> None:
    """Run a live table's alter files on an empty copy of it, and compare it with what the table's own files create.

    A constraint or index that was made or dropped on the live table by hand, and that the alter files leave so, is none of their doing.

    Raises
    ------
    TableFileError
        A file fails.
    DefinitionError
        Columns, constraints or indexes differ; names each.
    """
    scripts = sorted(scripts, key=lambda item: item.version)
    try:
        _prove(connection, live, scripts, wanted, scratch, view_schema, (scratch, "public"))
    except TableFileError as error:
        if not isinstance(error.__cause__, UNDEFINED):
            raise
        _prove(connection, live, scripts, wanted, scratch, view_schema, (scratch, view_schema, "public"))


def _prove(
    connection: Connection,
    live: TableBlueprint,
    scripts: Sequence[AlterScript],
    wanted: Outline,
    scratch: str,
    view_schema: str,
    search_path: Sequence[str],
) -> None:
    table = live.table
    with rolled_back(connection):
        inventory = catalog.take_inventory(connection, view_schema)
        _copy(connection, table, scratch, view_schema)
        before = read_outline(connection, scratch, view_schema, table)
        _copy_readers(connection, live, scratch, view_schema)
        for item in scripts:
            source = table_files.alter_file_name(table, item.version)
            run_script(connection, item.sql, source=source, search_path=search_path)
            catalog.created_since(
                connection, inventory, schema=scratch, view_schema=view_schema, source=source
            )
        found = read_outline(connection, scratch, view_schema, table)
        names = ", ".join(table_files.alter_file_name(table, item.version) for item in scripts)
        create = table_files.create_file_name(table)
        # Columns first: what is on a missing one is missing, too.
        _refuse(table, "columns", names, create, _differing(found.columns, wanted.columns))
        differing = {
            f"{kind} {name}": definitions
            for (kind, name), definitions in _differing(found.parts, wanted.parts).items()
            if not _was_done_by_hand((kind, name), before, definitions, _made_by_files(live))
            and not (
                all(definitions)
                and mean_the_same(connection, scratch, view_schema, table, (kind, name), definitions)
            )
        }
        indexes = table_files.indexes_file_name(table)
        has_indexes = scripts[-1].files.indexes_sql is not None
        sources = f"{create} with {indexes}" if has_indexes else create
        _refuse(table, "constraints and indexes", names, sources, differing)


def _differing(found: Mapping[K, str], wanted: Mapping[K, str]) -> dict[K, tuple[str, str]]:
    """Return what is found and what is wanted where they differ; empty for what is not there."""
    return {
        key: (found.get(key, ""), wanted.get(key, ""))
        for key in dict.fromkeys((*wanted, *found))
        if found.get(key) != wanted.get(key)
    }


def _made_by_files(live: TableBlueprint) -> frozenset[Part]:
    """Return the constraints, indexes and partitions that the live table has from its files, earlier alter files included."""
    properties = carry_over.from_json(live.as_built)
    partitions = {("partition", item.plain) for item in live.names if item.kind == "table"}
    return frozenset(
        (key[0], key[2]) for key in properties if key[0] in ("constraint", "index") and key[1] == live.table
    ).union(partitions)


def _was_done_by_hand(
    part: Part, before: Outline, definitions: tuple[str, str], made_by_files: frozenset[Part]
) -> bool:
    found, wanted = definitions
    if not wanted:
        return part in before.parts and part not in made_by_files
    return not found and part not in before.parts and part in made_by_files


def _refuse(
    table: str, what: str, names: str, sources: str, differing: Mapping[str, tuple[str, str]]
) -> None:
    if differing:
        differences = "; ".join(
            f"{name}: {found or 'none'} after {names}, {wanted or 'none'} in {sources}"
            for name, (found, wanted) in differing.items()
        )
        raise DefinitionError(
            f"{names} and {sources} lead to different {what} of {table}: {differences}.",
            remedy="A table file always describes the newest shape: make them agree.",
        )


# LIKE leaves these out, and real ones would lock other tables: a stand-in that a file can drop does as well.
_STAND_INS = {
    "constraint": sql.SQL("ALTER TABLE {copy} ADD CONSTRAINT {name} " + STAND_IN),
    "trigger": sql.SQL(
        "CREATE TRIGGER {name} BEFORE UPDATE ON {copy} FOR EACH ROW"
        " EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()"
    ),
    "policy": sql.SQL("CREATE POLICY {name} ON {copy}"),
    "rule": sql.SQL("CREATE RULE {name} AS ON UPDATE TO {copy} DO ALSO NOTHING"),
}


def _copy(connection: Connection, table: str, scratch: str, view_schema: str) -> None:
    """Create an empty copy of a live table, with the names that an alter file may mention."""
    copy = sql.Identifier(scratch, table)
    _copy_with_partitions(connection, table, scratch, view_schema)
    originals = catalog.attached_objects(connection, view_schema, [table])
    copies = catalog.attached_objects(connection, scratch, [table])
    # LIKE goes through them in the order of their creation.
    pairs = [
        ("statistics", left.name, right.name)
        for left, right in zip(
            _of_kind(originals, "statistics"), _of_kind(copies, "statistics"), strict=False
        )
    ]
    old, new = (indexes_by_age(connection, schema, table) for schema in (view_schema, scratch))
    pairs += [(kind, left, right) for (kind, left), (_, right) in zip(old, new, strict=False)]
    renames = [Rename(kind, table if kind == "key" else "", right, left) for kind, left, right in pairs]
    rename_all(connection, scratch, renames)
    for item in originals:
        if item.kind in _STAND_INS and (item.kind != "constraint" or item.detail == "f"):
            connection.execute(_STAND_INS[item.kind].format(copy=copy, name=sql.Identifier(item.name)))


_PARTITIONS = """
    SELECT t.name, p.relname, pg_catalog.pg_get_expr(t.bound, t.oid), pg_catalog.pg_get_partkeydef(t.oid)
    FROM (
        SELECT c.oid, c.relname AS name, NULL::oid AS parent, NULL::pg_node_tree AS bound, 0 AS level
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relname = %(table)s
        UNION ALL
        SELECT c.oid, c.relname, x.parentrelid, c.relpartbound, x.level
        FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
        CROSS JOIN LATERAL pg_catalog.pg_partition_tree(r.oid) x JOIN pg_catalog.pg_class c ON c.oid = x.relid
        WHERE n.nspname = %(schema)s AND r.relname = %(table)s AND x.level > 0
    ) t LEFT JOIN pg_catalog.pg_class p ON p.oid = t.parent
    ORDER BY t.level, t.name
"""
"""A table and its partitions, each with its parent's name, its bounds and its own partition key."""


def _copy_with_partitions(connection: Connection, table: str, scratch: str, view_schema: str) -> None:
    rows = connection.execute(_PARTITIONS, {"schema": view_schema, "table": table}).fetchall()
    for name, parent, bounds, key in rows:
        what = (
            sql.SQL("(LIKE {} INCLUDING ALL)").format(sql.Identifier(view_schema, name))
            if parent is None
            else sql.SQL("PARTITION OF {} {}").format(sql.Identifier(scratch, parent), sql.SQL(bounds))
        )
        by = sql.SQL(" PARTITION BY {}").format(sql.SQL(key)) if key is not None else sql.SQL("")
        connection.execute(
            sql.SQL("CREATE TABLE {} {}{}").format(sql.Identifier(scratch, name), what, by), prepare=False
        )


def _copy_readers(connection: Connection, live: TableBlueprint, scratch: str, view_schema: str) -> None:
    """Let views read the copy as they read the live table: then a file that they stand in the way of fails here."""
    found = dependents.dependents(connection, view_schema, [live.table], live={live.table: live})
    oids = {item.relation for item in found if item.is_view}
    for view in views.read_views(connection, oids, search_path=[view_schema, "pg_catalog"]) if oids else ():
        # A view that cannot be copied is tried by the swap alone.
        with (
            suppress(DependentObjects),
            searching(connection, [scratch, view_schema, "pg_catalog"]),
            connection.transaction(),
        ):
            views.create(connection, view, sql.Identifier(scratch, view.name))


def _of_kind(objects: Iterable[CatalogObject], kind: str) -> list[CatalogObject]:
    return [item for item in objects if item.kind == kind]
