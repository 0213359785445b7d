"""A moment: several questions about the view schema, answered as of one snapshot.

A swap that commits between two questions would make their answers contradict each other: the live version of before, the tables of after. So
they are asked in one REPEATABLE READ, read-only transaction. It takes no locks but those of reading, writes nothing, and is over when the answers
are there; what takes long (folding, sampling the log) does not belong into it.

Rows, those of the system catalogs among them, are read as of the snapshot. What the server's functions say of an object (``pg_get_viewdef``,
``::regclass``) is as of the present, and that cannot be had otherwise: a failure therefore counts only if no cut-over came in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

from sequent_py.errors import SequentError
from sequent_py.event_store.gate import Gate
from sequent_py.replay.ledger import Connection

MOST_READINGS = 5
"""Cut-overs are minutes apart; this only bounds what cannot be."""

T = TypeVar("T")


def at_one_moment(connection: Connection, schema: str, read: Callable[[], T]) -> T:
    """Return what ``read`` returns, which asks ``connection`` (in autocommit) as of one snapshot; it may be called again, and must not write.

    Raises
    ------
    StoreNotInstalled
        There is no gate.
    Exception
        Whatever ``read`` raises while nothing is swapped.
    """
    gate = Gate(schema)
    for _ in range(MOST_READINGS - 1):
        seen: int | None = None
        try:
            with _one_snapshot(connection):
                seen = gate.cut_overs(connection)
                return read()
        except (SequentError, psycopg.Error):
            if seen is None or connection.closed or gate.cut_overs(connection) == seen:
                raise
    with _one_snapshot(connection):
        return read()


def settled_moment(connection: Connection, schema: str, read: Callable[[], T]) -> T:
    """Return what ``read`` returns as of one snapshot, with no cut-over since; for what tells of failures itself instead of raising them.

    As :func:`at_one_moment`, but that a reading which a cut-over came into counts for nothing, whatever it returned. Where no gate can be read there is none to
    come in between.
    """
    gate = Gate(schema)
    for _ in range(MOST_READINGS - 1):
        seen = _cut_overs(gate, connection)
        with _one_snapshot(connection):
            result = read()
        if _cut_overs(gate, connection) == seen:
            return result
    with _one_snapshot(connection):
        return read()


def _cut_overs(gate: Gate, connection: Connection) -> int | None:
    try:
        return gate.cut_overs(connection)
    except (SequentError, psycopg.errors.ProgrammingError):
        return None


@contextmanager
def _one_snapshot(connection: Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def between_cut_overs(connection: Connection, schema: str, work: Callable[[], T]) -> tuple[T, int]:
    """Return what ``work`` returns, with no cut-over since it began, and how many there had been; it may be called again.

    For what cannot be read in one transaction. ``connection`` is in autocommit.

    Raises
    ------
    StoreNotInstalled
        There is no gate.
    Exception
        Whatever ``work`` raises while nothing is swapped.
    """
    gate = Gate(schema)
    for _ in range(MOST_READINGS - 1):
        seen = gate.cut_overs(connection)
        try:
            result = work()
        except (SequentError, psycopg.Error):
            if connection.closed or gate.cut_overs(connection) == seen:
                raise
        else:
            if gate.cut_overs(connection) == seen:
                return result, seen
    seen = gate.cut_overs(connection)
    return work(), seen
