"""Liveness and fencing by session advisory locks.

The coordinator of a view migration holds ``migration_key()`` exclusively on its own connection, every worker holds ``worker_key()``
shared on the connection that writes. Both locks die with their session, so that no flag ever has to be cleared by hand. A new
coordinator terminates every backend that still holds the worker lock and waits until they are gone: their open groups roll back, and
what they would claim next carries a newer epoch (see :mod:`sequent_py.replay.ledger`).
"""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg
from psycopg import sql

from sequent_py.errors import ConcurrentMigration, InsufficientPrivileges, WorkerFailed
from sequent_py.event_store.gate import Gate
from sequent_py.roles.assume import as_login

Connection = psycopg.Connection[tuple[object, ...]]

FENCE_TIMEOUT_SECONDS = 30.0
"""A terminated backend ends within milliseconds unless it is stuck in the kernel; past this we refuse to go on beside it."""
PATIENCE_SECONDS = 1.0
"""How long the migration lock is waited for: the session of a coordinator that was killed outlives it by some milliseconds, and whoever starts it anew may be faster."""
_POLL_SECONDS = 0.02

_HOLDERS = """
    SELECT a.pid, a.application_name, host(a.client_addr), a.backend_start
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.classid = ((({schema}.{key}() >> 32) & 4294967295))::oid AND l.objid = (({schema}.{key}() & 4294967295))::oid
"""


def _holders(connection: Connection, schema: str, key: str) -> list[tuple[int, str, str | None]]:
    query = sql.SQL(_HOLDERS).format(schema=sql.Identifier(schema), key=sql.Identifier(key))
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]  # type: ignore[misc]


def coordinator(connection: Connection, schema: str) -> str | None:
    """Describe the process that runs a migration now, None when nobody does."""
    for pid, application, host in _holders(connection, schema, "migration_key"):
        return f"{application or 'unknown'} (backend {pid}{f', from {host}' if host else ''})"
    return None


def become_coordinator(connection: Connection, schema: str) -> None:
    """Take the migration lock for the life of this session.

    A closing of the gate that is found is taken back: whoever made it is dead, for the lock was free, and our holding the lock must not make
    it count again.

    Raises
    ------
    ConcurrentMigration
        Another session has held it for :data:`PATIENCE_SECONDS`; named where it can be seen.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _has_taken_lock(connection, schema):
        if time.monotonic() > deadline:
            raise ConcurrentMigration(coordinator(connection, schema) or "")
        time.sleep(_POLL_SECONDS)
    gate = Gate(schema)
    if gate.read(connection).closed_by_migration is not None:
        # Who may not is told by the guards, with the grant that is missing.
        with suppress(psycopg.errors.InsufficientPrivilege):
            gate.reopen(connection)


def _has_taken_lock(connection: Connection, schema: str) -> bool:
    row = connection.execute(
        sql.SQL("SELECT pg_try_advisory_lock({}.migration_key())").format(sql.Identifier(schema))
    ).fetchone()
    return row is not None and row[0] is True


def resign(connection: Connection, schema: str) -> None:
    """Give the migration lock back: closing the connection does so too, but the next command may be faster than the server."""
    with suppress(psycopg.Error):
        connection.execute(
            sql.SQL("SELECT pg_advisory_unlock({}.migration_key())").format(sql.Identifier(schema))
        )


def become_worker(connection: Connection, schema: str) -> None:
    """Hold the worker lock for the life of this session."""
    connection.execute(
        sql.SQL("SELECT pg_advisory_lock_shared({}.worker_key())").format(sql.Identifier(schema))
    )


def worker_count(connection: Connection, schema: str) -> int:
    """Count the sessions that hold the worker lock."""
    return len(_holders(connection, schema, "worker_key"))


def _terminate(connection: Connection, pid: int) -> None:
    try:
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
    except psycopg.errors.InsufficientPrivilege as error:
        raise InsufficientPrivileges(
            f"Backend {pid} is a worker of an earlier run by another login, which this one may not end.",
            remedy="Run the command with that login, or have its workers ended, or: GRANT pg_signal_backend TO this login.",
        ) from error


def evict_workers(connection: Connection, schema: str) -> int:
    """Terminate every worker backend and wait until it is gone; return how many there were.

    Only the coordinator may call this, before it starts workers of its own.

    Raises
    ------
    WorkerFailed
        A backend is still there after :data:`FENCE_TIMEOUT_SECONDS`.
    """
    orphans = {pid for pid, _, _ in _holders(connection, schema, "worker_key")}
    deadline = time.monotonic() + FENCE_TIMEOUT_SECONDS
    remaining = set(orphans)
    while remaining:
        with as_login(connection):
            for pid in remaining:
                _terminate(connection, pid)
        time.sleep(_POLL_SECONDS)
        remaining = {pid for pid, _, _ in _holders(connection, schema, "worker_key")}
        orphans |= remaining
        if remaining and time.monotonic() > deadline:
            raise WorkerFailed(
                f"Worker backends {sorted(remaining)} of an earlier run do not end.",
                remedy="End them on the database server, then run the same command again.",
            )
    return len(orphans)
