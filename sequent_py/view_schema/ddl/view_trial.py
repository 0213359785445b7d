"""Proves, before any work is done and again at the door, that the views which read managed tables can read the new ones.

In one transaction that is always rolled back: the tables are created from their files in a scratch schema under their plain names, and each
view's query is read again with that schema searched first. The copy must have the view's columns, by name, type and collation, for that is what
``CREATE OR REPLACE VIEW`` asks for. Neither views nor live tables are locked beyond ACCESS SHARE.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.ddl.trial import Scratch
from sequent_py.view_schema.tables import catalog, dependents, views
from sequent_py.view_schema.tables.blueprints import TableBlueprint
from sequent_py.view_schema.tables.script import lock_timeout, searching
from sequent_py.view_schema.tables.views import View

Connection = psycopg.Connection[Any]

_COPY = "sequent_trial_view"

_COLUMNS = """
    SELECT a.attname, a.atttypid, a.atttypmod, a.attcollation,
           pg_catalog.format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> y.typcollation
               THEN ' COLLATE ' || a.attcollation::regcollation::text ELSE '' END
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
    WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""


def prove_views(
    connection: Connection,
    *,
    view_schema: str,
    files: Sequence[TableFiles],
    target_version: int,
    live: Mapping[str, TableBlueprint],
    lock_timeout_seconds: float = 5.0,
) -> tuple[str, ...]:
    """Show that a swap of these tables can re-point the views that read them; return the views' names.

    Raises
    ------
    DependentObjects
        A view could not read the new tables; names view and column.
    TableFileError
        A table file fails.
    """
    files = [item for item in files if item.table in live]
    with connection.transaction(force_rollback=True), lock_timeout(connection, lock_timeout_seconds):
        found = dependents.dependents(connection, view_schema, [item.table for item in files], live=live)
        oids = {item.relation for item in found if item.is_view}
        if not oids:
            return ()
        scratch = f"sequent_trial_{uuid.uuid4().hex}"
        catalog.ensure_schema(connection, scratch)
        attempt = Scratch(connection, scratch, view_schema)
        attempt.choose_search_path(files, f"_{target_version}")
        attempt.run(files, "")
        # pg_catalog by name and last: searched first, as it is otherwise, it would hide tables that are called like its own.
        readers = views.read_views(connection, oids, search_path=[view_schema, "pg_catalog"])
        for item in (item for each in files for item in live[each.table].names if item.kind == "table"):
            views.refuse_moved_columns(
                connection,
                readers,
                plain=item.plain,
                old=(view_schema, item.plain),
                new=(scratch, item.plain),
            )
        for view in readers:
            _prove(connection, view, scratch, view_schema)
        return tuple(view.described for view in readers)


def _prove(connection: Connection, view: View, scratch: str, view_schema: str) -> None:
    with connection.transaction(force_rollback=True):
        with searching(connection, [scratch, view_schema, "pg_catalog"]):
            views.create(connection, view, sql.Identifier(scratch, _COPY))
        # Each under its own path, so that types of the two schemas with one name are called the same.
        with searching(connection, [view_schema]):
            before = connection.execute(_COLUMNS, (view.schema, view.name)).fetchall()
        with searching(connection, [scratch]):
            after = connection.execute(_COLUMNS, (scratch, _COPY)).fetchall()
    for (name, *old, old_type), (_, *new, new_type) in zip(before, after, strict=True):
        if old != new:
            others = f"another {new_type}, created anew with its table" if old_type == new_type else new_type
            raise views.unreadable(view, f"its column {name} would be of type {others}, not {old_type}")
