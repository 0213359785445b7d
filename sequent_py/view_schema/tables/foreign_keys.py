"""Foreign keys from managed tables to tables that stay, which a table has only while it serves.

A shadow or retired table that refers to others would disturb them: its rows, old or half replayed, keep theirs from being deleted, and
each row written to it locks the one that it refers to. So such a key is taken off when the table is created or retires, and put on again,
checked, when it is promoted. References among tables that are built together stay, for nobody else is at either end. Dropping and adding
one locks the other table too, until the transaction ends; the caller's ``lock_timeout`` bounds the wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.errors import MigrationError
from sequent_py.view_schema.tables import prepared
from sequent_py.view_schema.tables.blueprints import SuspendedConstraint
from sequent_py.view_schema.tables.script import searching

Connection = psycopg.Connection[Any]

_OUTGOING = """
    WITH tables AS (
        SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = ANY (%s))
    SELECT c.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid)
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid IN (SELECT oid FROM tables) AND k.confrelid NOT IN (SELECT oid FROM tables)
    ORDER BY 1, 2
"""

_COPIES = """
    SELECT r.relname, k.conname, p.conname
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_constraint p ON p.oid = k.conparentid AND p.conrelid <> k.conrelid
    JOIN pg_catalog.pg_class r ON r.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
    WHERE k.contype = 'f' AND k.conname <> p.conname AND n.nspname = %s AND r.relname = ANY (%s)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.conrelid = k.conrelid AND o.conname = p.conname)
    ORDER BY r.relispartition, 1, 2
"""


def name_copies(connection: Connection, schema: str, tables: Collection[str]) -> None:
    """Give the copies that partitions have of a foreign key the key's name again, as PostgreSQL did when it made them."""
    for table, name, wanted in connection.execute(_COPIES, (schema, list(tables))).fetchall():
        statement = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}")
        connection.execute(
            statement.format(sql.Identifier(schema, table), sql.Identifier(name), sql.Identifier(wanted))
        )


def outgoing(connection: Connection, schema: str, tables: Collection[str]) -> list[SuspendedConstraint]:
    """Return the foreign keys from ``tables`` to any other table, under their present names."""
    # Printed for an empty search path, so that they mean the same when they come back.
    with searching(connection, []):
        return [
            SuspendedConstraint(*row)
            for row in prepared.execute(connection, _OUTGOING, (schema, list(tables))).fetchall()
        ]


def suspend(
    connection: Connection, schema: str, constraints: Sequence[SuspendedConstraint]
) -> Sequence[SuspendedConstraint]:
    """Drop these foreign keys, and return them."""
    for item in constraints:
        statement = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
        connection.execute(statement.format(sql.Identifier(schema, item.table), sql.Identifier(item.name)))
    return constraints


def resume(connection: Connection, schema: str, suspended: Iterable[SuspendedConstraint]) -> None:
    """Add suspended foreign keys again, under plain names; every row is checked.

    Raises
    ------
    MigrationError
        A row refers to nothing, or the other table has changed.
    """
    for item in suspended:
        statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
            sql.Identifier(schema, item.table), sql.Identifier(item.name), sql.SQL(item.definition)
        )
        try:
            connection.execute(statement, prepare=False)
        except (errors.IntegrityError, errors.ProgrammingError) as error:
            detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
            raise MigrationError(
                f"The foreign key {item.name} of {item.table} cannot be put back: {error.diag.message_primary}{detail}.",
                remedy="Make the other table fit, then go on.",
            ) from error
