"""Runs the files of tables, in the caller's transaction, and tells what they created.

Used alike by the trial and in earnest, so that what was tried is what is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from sequent_py.errors import TableFileError
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.ddl.table_files import TableFiles, with_suffix
from sequent_py.view_schema.tables import catalog
from sequent_py.view_schema.tables.blueprints import SHARABLE_KINDS, CatalogObject, Pair, pair
from sequent_py.view_schema.tables.renames import Rename
from sequent_py.view_schema.tables.script import run_script

Connection = psycopg.Connection[Any]
Created = dict[str, list[CatalogObject]]
"""What the files of each table created, by plain table name."""


def run_files(
    connection: Connection,
    files: Sequence[TableFiles],
    suffix: str,
    *,
    schema: str,
    view_schema: str,
    search_path: Sequence[str],
    with_indexes: bool = True,
) -> Created:
    """Run the create files and then the indexes files of tables, and return what each table's files created.

    Raises
    ------
    TableFileError
        A file fails, or does not create its table, or creates what a table file may not.
    """
    before = catalog.take_inventory(connection, view_schema)
    created: Created = {item.table: [] for item in files}
    seen: set[tuple[str, int]] = set()
    steps = [(item, table_files.create_file_name(item.table), item.create_sql) for item in files]
    if with_indexes:
        steps += [
            (item, table_files.indexes_file_name(item.table), item.indexes_sql)
            for item in files
            if item.indexes_sql is not None
        ]
    for item, source, text in steps:
        run_script(connection, with_suffix(text, suffix), source=source, search_path=search_path)
        found = catalog.created_since(
            connection, before, schema=schema, view_schema=view_schema, source=source
        )
        created[item.table] += [entry for entry in found if (entry.kind, entry.oid) not in seen]
        seen.update((entry.kind, entry.oid) for entry in found)
        _refuse_missing_table(created[item.table], item.table, suffix, source)
    return created


def pairs_of(
    files: TableFiles,
    plain: Sequence[CatalogObject],
    suffixed: Sequence[CatalogObject],
    shared: Collection[tuple[str, str]],
) -> list[Pair]:
    lefts = [item for item in plain if (item.kind, item.name) not in shared]
    rights = [item for item in suffixed if (item.kind, item.name) not in shared]
    pairs = pair(lefts, rights, f"The SQL of {files.table}")
    functions = [item.name for item in lefts if item.kind == "function"]
    for left, right in pairs:
        if left.kind == "function" and functions.count(left.name) > 1:
            raise TableFileError(
                f"The SQL of {files.table} overloads the function {right.name}.", remedy="Rename one."
            )
    return pairs


def sharable(created: Created) -> frozenset[tuple[str, str]]:
    """Return kind and name of what may be shared by all generations."""
    return frozenset(
        (item.kind, item.name) for items in created.values() for item in items if item.kind in SHARABLE_KINDS
    )


def plain_renames(pairs: Iterable[Pair]) -> list[Rename]:
    """Return what gives suffixed objects their plain names."""
    return [
        Rename(
            right.kind,
            right.table,
            right.name,
            left.name,
            source=left.source if left.source != right.source else None,
        )
        for left, right in pairs
    ]


@contextmanager
def rolled_back(connection: Connection) -> Iterator[None]:
    """Undo whatever happens inside."""
    with connection.transaction(force_rollback=True):
        yield


def _refuse_missing_table(created: Sequence[CatalogObject], table: str, suffix: str, source: str) -> None:
    if any(item.kind == "table" and item.name == table + suffix for item in created):
        return
    names = ", ".join(f"{item.kind} {item.name}" for item in created if item.table == "") or "nothing"
    raise TableFileError(
        f"{source} does not create the table {table}{suffix}; it creates {names}.",
        remedy=f"Write: CREATE TABLE {table}{table_files.PLACEHOLDER} (…)",
    )
