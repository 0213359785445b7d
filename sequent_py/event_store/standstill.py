"""A standstill: a short transaction during which nobody else writes events.

``gate_key()`` is taken exclusively, for the transaction: every writer in flight has ended, and new ones wait *before* they read versions
or the gate's row. They wait, they don't fail. A request that queues holds back the writers behind it, so it is given up after
:data:`LOCK_TIMEOUT_SECONDS` and repeated; while a writer is at work that is older than :data:`OLD_WRITER_SECONDS`, we wait without queueing.

Writers in REPEATABLE READ and SERIALIZABLE whose snapshot is older than the standstill would decide on events that are gone. The gate's row is therefore written
anew: they lock it when they pass the gate, and get a serialization failure.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from sequent_py.event_store.gate import POLL_SECONDS, Gate, drain_timeout
from sequent_py.event_store.store_errors import translated

LOCK_TIMEOUT_SECONDS = 0.05
ACTION_LOCK_TIMEOUT_SECONDS = 1.0
"""How long what is done at the standstill may wait for a lock, on a row say, while writers wait; then it is given up and repeated."""
OLD_WRITER_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 1.0

T = TypeVar("T")


class Busy(Exception):
    """Writers did not end in time."""


def at_standstill(
    connection: psycopg.Connection[Any],
    schema: str,
    action: Callable[[int], T],
    *,
    budget_seconds: float,
    on_stall: Callable[[float], object] = lambda seconds: None,
) -> T:
    """Run ``action`` with the live version, in a transaction of its own at a standstill, and return what it returns.

    ``on_stall`` is told how long writers were held back, at each try.

    ``connection`` must be in autocommit. ``action`` may be run several times: what a try did whose locks did not come is rolled back.

    Raises
    ------
    DrainTimeout
        Writers were in flight, or locks were held, for all of the budget; names the writers. Nothing was changed.
    MaintenanceModeActive
        The gate is closed. Nothing was changed.
    """
    gate = Gate(schema)
    deadline = time.monotonic() + budget_seconds
    backoff = LOCK_TIMEOUT_SECONDS
    while True:
        writers = gate.writers(connection)
        if not any(writer.open_seconds > OLD_WRITER_SECONDS for writer in writers):
            asked = time.monotonic()
            try:
                try:
                    with connection.transaction():
                        return action(hold_gate(connection, schema))
                finally:
                    on_stall(time.monotonic() - asked)
            except (Busy, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                # Jitter keeps two such commands from meeting for ever; writers that queued behind the try go first.
                time.sleep(backoff * random.uniform(0.5, 1.5))
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
        if time.monotonic() >= deadline:
            raise drain_timeout(gate.writers(connection), budget_seconds)
        time.sleep(POLL_SECONDS)


def hold_gate(connection: psycopg.Connection[Any], schema: str) -> int:
    """Take the key for this transaction, then pass the gate as every writer does; return the live version.

    Raises
    ------
    Busy
        Writers held it for :data:`LOCK_TIMEOUT_SECONDS`.
    MaintenanceModeActive
        The gate is closed.
    """
    with translated(schema, connection):
        return _hold_gate(connection, schema)


def limit_locks(connection: psycopg.Connection[Any], seconds: float) -> None:
    """Let no lock be waited for longer in this transaction."""
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{seconds * 1000:.0f}ms",))


def _hold_gate(connection: psycopg.Connection[Any], schema: str) -> int:
    limit_locks(connection, LOCK_TIMEOUT_SECONDS)
    try:
        connection.execute(
            sql.SQL("SELECT pg_advisory_xact_lock({}())").format(sql.Identifier(schema, "gate_key"))
        )
    except psycopg.errors.LockNotAvailable as error:
        raise Busy from error
    limit_locks(connection, ACTION_LOCK_TIMEOUT_SECONDS)
    row = connection.execute(
        sql.SQL("SELECT live_version FROM {}()").format(sql.Identifier(schema, "check_gate_v2"))
    ).fetchone()
    connection.execute(sql.SQL("UPDATE {} SET id = id").format(sql.Identifier(schema, "gate")))
    assert row is not None
    return int(row[0])
