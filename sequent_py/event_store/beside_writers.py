"""Work beside writers: a transaction that does its work while everybody appends, and has them wait for its commit alone.

A standstill (:mod:`sequent_py.event_store.standstill`) keeps away, while a transaction does its work, everything that could make that work wrong. Where the
work is long it is cheaper to look afterwards: it is done first, and then, at a standstill of milliseconds, it is either confirmed
that nobody was in between, and committed, or rolled back and done again.

Locks: those of the work from its beginning; the gate's key, exclusively, from the standstill to the commit. A writer that waits for a lock of the
work holds the gate's key, so the standstill cannot come about: the work is rolled back, and the writer, which finds everything as
it was, goes first. So nobody ever meets half of the work, and nobody fails.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from sequent_py.event_store.gate import POLL_SECONDS, Gate, drain_timeout
from sequent_py.event_store.standstill import (
    ACTION_LOCK_TIMEOUT_SECONDS,
    LOCK_TIMEOUT_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    OLD_WRITER_SECONDS,
    Busy,
    hold_gate,
    limit_locks,
)

TRIES = 3
"""How often work is done in vain. Who is in between each time is always there."""

T = TypeVar("T")


class Overtaken(Exception):
    """Somebody was in between; the work is to be done again."""


def beside_writers(
    connection: psycopg.Connection[Any],
    schema: str,
    work: Callable[[], T],
    confirm: Callable[[T, int], None],
    *,
    budget_seconds: float,
    on_stall: Callable[[float], object],
) -> T | None:
    """Do ``work`` in a transaction of its own, and commit it at a standstill; return what it returns, None where others were always in between.

    ``connection`` must be in autocommit. ``confirm`` gets what the work returned, and the live version at the standstill; like the
    work it may raise :class:`Overtaken`. ``on_stall`` is told how long writers were held back, at each try.

    Raises
    ------
    DrainTimeout
        Writers were in flight, or locks were held, for all of the budget; names the writers. Nothing was changed.
    MaintenanceModeActive
        The gate is closed. Nothing was changed.
    """
    deadline = time.monotonic() + budget_seconds
    backoff = LOCK_TIMEOUT_SECONDS
    tries = 0
    while tries < TRIES:
        try:
            with _Stall(on_stall) as stall, connection.transaction():
                limit_locks(connection, ACTION_LOCK_TIMEOUT_SECONDS)
                done = work()
                confirm(done, _standstill(connection, schema, deadline, stall))
                return done
        except Overtaken:
            tries += 1
            _let_pass(connection, schema, deadline)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(backoff * random.uniform(0.5, 1.5))
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
        if time.monotonic() >= deadline and tries < TRIES:
            raise drain_timeout(Gate(schema).writers(connection), budget_seconds)
    return None


def _let_pass(connection: psycopg.Connection[Any], schema: str, deadline: float) -> None:
    """Wait for the writers that are in flight: what they write would overtake the next try, too, and no standstill comes about before them."""
    gate = Gate(schema)
    since = time.monotonic()
    while time.monotonic() < deadline:
        waited = time.monotonic() - since
        if not any(writer.open_seconds > waited for writer in gate.writers(connection)):
            return
        time.sleep(POLL_SECONDS)


class _Stall:
    """Measures from the request for the gate's key to the end of the transaction, or of the request."""

    def __init__(self, on_stall: Callable[[float], object]) -> None:
        self._on_stall = on_stall
        self._since: float | None = None

    def __enter__(self) -> _Stall:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        self._since = time.monotonic()

    def end(self) -> None:
        if self._since is not None:
            self._on_stall(time.monotonic() - self._since)
            self._since = None


def _standstill(connection: psycopg.Connection[Any], schema: str, deadline: float, stall: _Stall) -> int:
    """Wait for the gate's key, without giving up the work for it; return the live version."""
    gate = Gate(schema)
    backoff = LOCK_TIMEOUT_SECONDS
    started = time.monotonic()
    while True:
        writers = gate.writers(connection)
        if not any(writer.open_seconds > OLD_WRITER_SECONDS for writer in writers):
            stall.begin()
            try:
                # A savepoint: a request that is given up must not undo the work.
                with connection.transaction():
                    return hold_gate(connection, schema)
            except Busy:
                stall.end()
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
        if _wait_for_us(connection, {writer.pid for writer in writers if writer.pid is not None}):
            raise Overtaken
        if time.monotonic() >= deadline:
            raise drain_timeout(gate.writers(connection), deadline - started)
        # Writers that queued behind the request go first.
        time.sleep(
            POLL_SECONDS if not writers else min(backoff, LOCK_TIMEOUT_SECONDS) * random.uniform(0.5, 1.5)
        )


def _wait_for_us(connection: psycopg.Connection[Any], writers: set[int]) -> bool:
    """Whether one of these backends waits for a lock of ours, or for somebody who does."""
    waits: dict[int, list[int]] = dict(
        connection.execute(
            "SELECT DISTINCT ON (pid) pid, pg_blocking_pids(pid) FROM pg_locks WHERE NOT granted AND pid IS NOT NULL"
        ).fetchall()
    )
    own = connection.info.backend_pid
    found, ahead = set(writers), list(writers)
    while ahead:
        blockers = waits.get(ahead.pop(), [])
        if own in blockers:
            return True
        ahead += [pid for pid in blockers if pid not in found]
        found.update(blockers)
    return False
