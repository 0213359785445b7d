"""Tables that stay, and that foreign keys of a swap's tables refer to: the application's ``customers``, say.

Taking such a key off locks the other table ACCESS EXCLUSIVE, and putting one on locks it SHARE ROW EXCLUSIVE. Whoever writes there and then
appends, in one transaction, holds it while it waits at the gate; so a cut-over that came for it behind the gate would meet such writers
head-on. Therefore it comes for it first:

1. before the gate, SHARE ROW EXCLUSIVE: writers of that table have ended, and hold nothing that we are going to want. Its readers go on, and so do
   appends in flight, whose rows are checked against it under weaker locks;
2. behind the gate, with the tables that serve: ACCESS EXCLUSIVE where a key is taken off, for which only its readers can be in the way. Not by waiting
   in the queue (:func:`lock_late`).

Where somebody reads that table at any time, 2 finds no gap. So every other try that waits asks for ACCESS EXCLUSIVE at once, in the queue and before the gate.

A managed table that is not part of the swap is written behind the gate, and so it is locked there only.

LOCK TABLE takes a right that a role may lack which may refer to the table (UPDATE, DELETE, TRUNCATE or, since PostgreSQL 17, MAINTAIN). Then the swap's own statements
lock it, as late as that: right, but harder to get past busy writers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.view_schema.tables.blueprints import SuspendedConstraint

Connection = psycopg.Connection[Any]

POLL_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class OutsideTable:
    """A table that stays, and what a swap does to the foreign keys that refer to it."""

    oid: int
    schema: str
    name: str
    is_left: bool
    """Whether a key is taken off; otherwise one is put on only."""
    is_managed: bool
    """Whether it is written behind the gate."""
    is_partitioned: bool
    may_lock: bool

    @property
    def described(self) -> str:
        """Its name, with the schema."""
        return f"{self.schema}.{self.name}"

    @property
    def relation(self) -> sql.Composed:
        """How LOCK TABLE names it: with its partitions, which keys are on, too, but not with tables that inherit from it."""
        only = sql.SQL("" if self.is_partitioned else "ONLY ")
        return sql.SQL("{}{}").format(only, sql.Identifier(self.schema, self.name))


# What conflicts with the mode that is needed; None is any.
BLOCKING_MODES = (
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)

# The server's own words (pg_get_constraintdef), with every name quoted that has to be.
_NAME = r'(?:[^"(),.\s]+|"(?:[^"]|"")+")'
_REFERENCES = re.compile(rf'FOREIGN KEY \((?:[^"()]|"(?:[^"]|"")+")*\) REFERENCES ((?:{_NAME}\.)?{_NAME})\(')

_FIND = """
    WITH left_ones AS (
        SELECT DISTINCT k.confrelid AS oid FROM pg_catalog.pg_constraint k
        JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname = %(view_schema)s AND c.relname = ANY (%(leaving)s))
    SELECT c.oid::int8, n.nspname, c.relname, c.oid IN (SELECT oid FROM left_ones),
           n.nspname = %(view_schema)s AND c.relname = ANY (%(managed)s), c.relkind = 'p',
           pg_catalog.has_table_privilege(c.oid, %(privileges)s)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE (c.oid IN (SELECT oid FROM left_ones)
           OR c.oid IN (SELECT pg_catalog.to_regclass(t) FROM unnest(%(references)s::text[]) t))
      AND NOT (n.nspname = %(view_schema)s AND c.relname = ANY (%(replaced)s))
    ORDER BY 2, 3
"""


def outside_tables(
    connection: Connection,
    view_schema: str,
    *,
    leaving: Collection[str],
    replaced: Collection[str],
    managed: Collection[str],
    suspended: Iterable[SuspendedConstraint],
) -> list[OutsideTable]:
    """Return the tables outside a swap that its foreign keys refer to, in the order in which they must be locked.

    ``leaving`` are the physical names of tables whose keys are taken off, ``replaced`` those of all tables that the swap locks anyway,
    ``managed`` those of all live ones. ``suspended`` are the keys that are put on.
    """
    is_maintainable = connection.info.server_version >= 170000
    rows = connection.execute(
        _FIND,
        {
            "view_schema": view_schema,
            "leaving": list(leaving),
            "replaced": list(replaced),
            "managed": list(managed),
            "references": [name for item in suspended if (name := referenced_name(item.definition))],
            "privileges": "UPDATE, DELETE, TRUNCATE" + (", MAINTAIN" if is_maintainable else ""),
        },
    ).fetchall()
    return [OutsideTable(*row) for row in rows]


def referenced_name(definition: str) -> str | None:
    """Return the name that a foreign key's definition refers to, quoted as there; None where it does not look like the server's."""
    found = _REFERENCES.match(definition)
    return found[1] if found else None


def early_locks(tables: Sequence[OutsideTable]) -> sql.Composed | None:
    """Return the statement, but for ``NOWAIT``, that keeps writers out before the gate; None where there is nothing to be locked."""
    return _lock([item for item in tables if not item.is_managed], "SHARE ROW EXCLUSIVE")


def late_locks(tables: Sequence[OutsideTable]) -> list[sql.Composed]:
    """Return the statements, but for ``NOWAIT``, that take all that the swap needs."""
    added = _lock([item for item in tables if not item.is_left], "SHARE ROW EXCLUSIVE")
    left = _lock([item for item in tables if item.is_left], "ACCESS EXCLUSIVE")
    return [statement for statement in (added, left) if statement is not None]


def lock_late(connection: Connection, tables: Sequence[OutsideTable], *, seconds: float) -> None:
    """Take all that the swap needs, in the caller's transaction, and never by standing in a queue.

    Who holds one lock of a table and queues for a stronger one makes PostgreSQL end, at once and without regard to ``deadlock_timeout``, whoever holds a weaker lock
    there and asks for more: a transaction that selects from the table and then updates it.

    Raises
    ------
    psycopg.errors.LockNotAvailable
        Not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    for statement in late_locks(tables):
        while True:
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("{} NOWAIT").format(statement), prepare=False)
                break
            except errors.LockNotAvailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)


def _lock(tables: Iterable[OutsideTable], mode: str) -> sql.Composed | None:
    relations = [item.relation for item in tables if item.may_lock]
    if not relations:
        return None
    return sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.SQL(", ").join(relations), _MODES[mode])


_MODES = {name: sql.SQL(name) for name in ("SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE")}
