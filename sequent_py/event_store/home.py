"""Where the bookkeeping is at home: owner of ``home``, one row. Which view schema its tables are in, and whether it was restored from a dump.

Snapshots are stored as values, and mean something only by the counter of the cluster that took them. A dump carries them into a cluster whose counter may
be behind: when it has passed them, they look as good as any, and every event written meanwhile seems to be visible in them. So the row says which
transaction wrote it. Where its xmin is another one, the store was restored by that, and no phase has begun since. Every snapshot that the store
holds then came with the dump, and is sound exactly if the restore came later than all of its ids, as it does in the same cluster or in one that
has used more ids: what is written afterwards lies behind it. That is decided once, by :mod:`sequent_py.health.lineage`, before the mark is renewed.

``pg_control_system()`` tells too little and too much: pg_upgrade changes the identifier and keeps the ids, and a dump that is restored
into the cluster that it came from, or into one with a higher counter, is sound. An xmin survives VACUUM FREEZE and VACUUM FULL; a rewrite of
the row in the same cluster gives it a later one, to which all stored snapshots are earlier, so nothing is refused.

Reading takes no lock. The row is only written by whoever holds the migration lock, outside of any transaction: in a subtransaction xmin would not be
what the column says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.cursors import OwnCursor
from sequent_py.database import for_parameters
from sequent_py.errors import ConfigurationError

Connection = psycopg.Connection[Any]

IS_MARKED_HERE = sql.SQL(
    "(marked_as = tableoid AND mod(marked_by::text::numeric, 4294967296) = xmin::text::numeric)"
)
"""The condition under which the row of ``home`` was written by whom it says; null where nobody has marked it."""


@dataclass(frozen=True)
class WrongViewSchema:
    """Tables that are recorded, and are not in the view schema that is set."""

    message: str
    remedy: str


class Home:
    """The row in one event store schema. Holds the schema's name and nothing else."""

    def __init__(self, schema: str) -> None:
        self._schema = schema

    def settle(self, connection: Connection, view_schema: str) -> None:
        """Record that all that is stored belongs to this cluster and this view schema, after both were looked at; for the holder of the migration lock.

        Writes nothing where that is recorded already.
        """
        table = for_parameters(sql.Identifier(self._schema, "home"))
        # Whoever deleted the row took a mark away, and no more: what is stored was looked at without.
        connection.execute(
            sql.SQL("INSERT INTO {0} SELECT WHERE NOT EXISTS (SELECT FROM {0})").format(table), ()
        )
        connection.execute(
            sql.SQL(
                "UPDATE {} SET marked_by = pg_catalog.pg_current_xact_id(), marked_as = tableoid, view_schema = %(view_schema)s"
                " WHERE {} IS NOT TRUE OR view_schema IS DISTINCT FROM %(view_schema)s"
            ).format(table, IS_MARKED_HERE),
            {"view_schema": view_schema},
        )

    def require_view_schema(self, connection: Connection, view_schema: str) -> None:
        """Refuse a view schema that the recorded tables are not in; a store that is missing, or older than this library, records none.

        Raises
        ------
        ConfigurationError
            With the one that they are in.
        """
        wrong = self.wrong_view_schema(connection, view_schema)
        if wrong is not None:
            raise ConfigurationError(wrong.message, remedy=wrong.remedy)

    def wrong_view_schema(self, connection: Connection, view_schema: str) -> WrongViewSchema | None:
        """Say what is wrong with that view schema; None where nothing is, or nothing can be known.

        Recorded tables that were moved by hand, so that none is left where they were, are at home where they are now.
        """
        if not self._is_readable(connection):
            return None
        query = sql.SQL("SELECT (SELECT view_schema FROM {}), array(SELECT physical_name FROM {} ORDER BY 1)")
        with OwnCursor(connection) as cursor:
            row = cursor.execute(
                query.format(
                    sql.Identifier(self._schema, "home"), sql.Identifier(self._schema, "view_tables")
                )
            ).fetchone()
        assert row is not None
        recorded, names = row
        if recorded == view_schema or not names:
            return None
        found = _schemas_with(connection, names)
        if recorded is None:
            # As learned from the catalog, until a phase begins. Where the tables are nowhere, or in part, others say what is missing.
            elsewhere = sorted(name for name, count in found.items() if count == len(names))
            return (
                _described(elsewhere[0], view_schema, names)
                if elsewhere and view_schema not in elsewhere
                else None
            )
        # Some may have been dropped by hand besides.
        was_moved = view_schema in found and recorded not in found
        return None if was_moved else _described(recorded, view_schema, names)

    def _is_readable(self, connection: Connection) -> bool:
        """Whether both tables are there for the present role to read: catalogs only, so that no transaction is aborted by asking."""
        query = (
            "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname IN ('home', 'view_tables')"
            " AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')"
        )
        with OwnCursor(connection) as cursor:
            return cursor.execute(query, (self._schema,)).fetchone() == (2,)


def _schemas_with(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Return how many tables of these names each schema has, of those that have any."""
    query = (
        "SELECT n.nspname::text, count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relname = ANY (%s) AND c.relkind IN ('r', 'p') GROUP BY n.nspname"
    )
    with OwnCursor(connection) as cursor:
        return dict(cursor.execute(query, (list(names),)).fetchall())


def _described(home: str, view_schema: str, names: Sequence[str]) -> WrongViewSchema:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    statement = sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(
        sql.Identifier(home), sql.Identifier(view_schema)
    )
    return WrongViewSchema(
        f"The tables of this store ({shown}) are in schema {home!r}, and view_schema is set to {view_schema!r}.",
        f'Set view_schema = "{home}" (SEQUENT_VIEW_SCHEMA). If the tables are to be in {view_schema!r} from now on, move all of them there:'
        f" {statement.as_string(None)}",
    )
