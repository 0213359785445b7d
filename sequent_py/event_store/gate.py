"""The gate: what every append passes. Owns the table ``gate``.

The gate is closed while ``maintenance`` is set, and while ``closed_by_migration`` is set *and* a session holds ``migration_key()``: a coordinator that
dies reopens it by dying. Writers take ``gate_key()`` shared until their transaction ends and then read the row (``check_gate`` in
the migrations says why no isolation level slips through), so after a closing has *committed* and :meth:`Gate.drain` has returned, no transaction is
writing events and none can begin to.

Nobody ever waits for ``gate_key()``: it is not locked exclusively, because the queue behind an exclusive request would hold back every writer
while an old one finishes. Draining watches ``pg_locks`` instead; the writers that arrive meanwhile are refused at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from sequent_py.database import for_parameters
from sequent_py.errors import ConcurrentMigration, DrainTimeout, MigrationError, StoreNotInstalled

POLL_SECONDS = 0.01
"""How often draining looks. A look costs the server 0.1 ms."""
QUERY_CHARACTERS = 80
"""How much of a blocking query is shown, literals left out: enough to recognise it, and no secrets."""
_LITERAL = re.compile(r"'(?:[^']|'')*(?:'|$)")
LOCK_TIMEOUT_SECONDS = 5.0
"""How long to wait for the gate row itself, which writers in REPEATABLE READ and SERIALIZABLE lock until they end."""


@dataclass(frozen=True, slots=True)
class GateState:
    """What the gate's row says, and whether that closes it now."""

    is_closed: bool
    maintenance: bool
    reason: str | None
    since: datetime | None
    closed_by_migration: int | None
    live_version: int


@dataclass(frozen=True, slots=True)
class Writer:
    """A transaction that holds the gate's key. ``pid`` is None for a prepared one, which has a ``gid``."""

    transaction: str
    pid: int | None
    gid: str | None
    user: str
    application: str
    open_seconds: float
    state: str
    query: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"prepared transaction {self.gid!r} of {self.user}, open for {self.open_seconds:.0f} s"
        return (
            f"pid {self.pid} ({self.user}, {self.application or 'no application name'}), "
            f"in a transaction for {self.open_seconds:.0f} s, {self.state}: {self.query or '?'}"
        )


class Gate:
    """The gate of one event store. Every method takes the connection to work on, in READ COMMITTED.

    What changes the row commits by itself, unless the connection is in a transaction.
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema

    def read(self, connection: psycopg.Connection) -> GateState:
        """Return the gate's state. Takes no lock that a backup could block.

        Raises
        ------
        StoreNotInstalled
            There is no event store.
        """
        return GateState(*self._row(connection, _READ))

    def cut_overs(self, connection: psycopg.Connection) -> int:
        """Return how often the live version was set: what was read of its tables holds until that rises.

        Raises
        ------
        StoreNotInstalled
            There is no event store.
        """
        return self.served(connection)[1]

    def served(self, connection: psycopg.Connection) -> tuple[int, int]:
        """Return the live version, and how often it was set, as of one moment.

        Raises
        ------
        StoreNotInstalled
            There is no event store.
        """
        live_version, cut_overs = self._row(connection, "SELECT live_version, cut_overs FROM {gate}")
        return int(live_version), int(cut_overs)

    def has_serial_appends(self, connection: psycopg.Connection) -> bool:
        """Whether all appends form one line now.

        Raises
        ------
        StoreNotInstalled
            There is no event store.
        """
        return bool(self._row(connection, "SELECT serial_appends FROM {gate}")[0])

    def _row(self, connection: psycopg.Connection, query: LiteralString) -> tuple[Any, ...]:
        with _store_is_installed(self.schema):
            row = connection.execute(self._sql(query), []).fetchone()
        if row is None:
            raise self._lost_row()
        return row

    def _lost_row(self) -> StoreNotInstalled:
        return StoreNotInstalled(self.schema, "has lost the row of its gate")

    def maintenance_on(
        self,
        connection: psycopg.Connection,
        reason: str,
        *,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    ) -> GateState:
        """Close the gate until :meth:`maintenance_off`; a second time changes the reason and keeps the time.

        Does not wait for writers in flight: commit, then :meth:`drain`.

        Raises
        ------
        DrainTimeout
            Writers in REPEATABLE READ or SERIALIZABLE held the row for ``lock_timeout_seconds``; nothing was changed.
        """
        reason = " ".join(reason.split())
        if not reason:
            raise MigrationError("Maintenance mode needs a reason: writers are shown it.")
        self._update(connection, _MAINTENANCE_ON, [reason], lock_timeout_seconds)
        return self.read(connection)

    def maintenance_off(self, connection: psycopg.Connection) -> GateState:
        """End maintenance mode. A closing by a view migration stays as it is."""
        self._update(connection, _MAINTENANCE_OFF)
        return self.read(connection)

    def close_for_migration(
        self,
        connection: psycopg.Connection,
        migration_id: int,
        *,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    ) -> None:
        """Close the gate for as long as a session holds ``migration_key()``, or until :meth:`reopen`.

        Raises
        ------
        ConcurrentMigration
            Another migration has closed it and its coordinator lives, or nobody holds ``migration_key()``, so that it would stay open.
        DrainTimeout
            As in :meth:`maintenance_on`.
        """
        with connection.transaction():
            before = self.read(connection)
            is_others = before.closed_by_migration not in (None, migration_id)
            if is_others and before.is_closed and not before.maintenance:
                raise ConcurrentMigration(f"view migration {before.closed_by_migration}")
            self._update(connection, _CLOSE_FOR_MIGRATION, [migration_id], lock_timeout_seconds)
            if not self.read(connection).is_closed:
                raise ConcurrentMigration(
                    "nobody: the migration lock is not held, so the gate cannot be closed"
                )

    def reopen(self, connection: psycopg.Connection) -> None:
        """Take a migration's closing back. Maintenance mode stays as it is."""
        self._update(connection, _REOPEN)

    def set_live_version(self, connection: psycopg.Connection, version: int) -> None:
        """Set the version whose code may append. Belongs into the transaction of the swap, behind a drained gate."""
        self._update(connection, _SET_LIVE_VERSION, [version])

    def set_serial_appends(self, connection: psycopg.Connection, is_serial: bool) -> None:
        """Say whether all appends form one line. Transactions that passed the gate before the commit don't: wait for :meth:`writers`."""
        self._update(connection, _SET_SERIAL_APPENDS, [is_serial, is_serial])

    def go_live(self, connection: psycopg.Connection, version: int) -> None:
        """Set the version whose code may append and take a migration's closing back, in the transaction of the swap.

        One statement under the caller's ``lock_timeout``, for writers wait meanwhile. Maintenance mode stays as it is.

        Raises
        ------
        StoreNotInstalled
            The gate has lost its row: there is nowhere to say which version serves, and the swap must not commit.
        """
        if connection.execute(self._sql(_GO_LIVE), [version]).rowcount != 1:
            raise self._lost_row()

    def drain(self, connection: psycopg.Connection, timeout_seconds: float) -> None:
        """Wait until every transaction that passed the gate before now has ended.

        The closing must have committed: one that has not is invisible to writers, and there would always be more of them.

        Raises
        ------
        DrainTimeout
            Some are still there; names each. The gate is left closed.
        MigrationError
            The connection is in a transaction, or the gate is open.
        """
        if connection.info.transaction_status != TransactionStatus.IDLE:
            raise MigrationError(
                "Draining needs a closing that has committed; the connection is in a transaction."
            )
        deadline = time.monotonic() + timeout_seconds
        with _autocommit(connection):
            if not self.read(connection).is_closed:
                raise MigrationError("Draining needs a closed gate, and it is open.")
            waiting_for = {writer.transaction for writer in self.writers(connection)}
            while waiting_for:
                writers = self.writers(connection)
                waiting_for &= {writer.transaction for writer in writers}
                if waiting_for and time.monotonic() >= deadline:
                    raise drain_timeout(
                        [writer for writer in writers if writer.transaction in waiting_for], timeout_seconds
                    )
                if waiting_for:
                    time.sleep(POLL_SECONDS)
            if not self.read(connection).is_closed:
                raise MigrationError("The gate was opened again while it was being drained.")

    def writers(self, connection: psycopg.Connection) -> list[Writer]:
        """Return the transactions that hold the gate's key now, but for this connection's own; the oldest first."""
        with _store_is_installed(self.schema):
            rows = connection.execute(self._sql(_WRITERS), []).fetchall()
        return [Writer(*[*row[:-1], shown_query(row[-1])]) for row in rows]

    def _update(
        self,
        connection: psycopg.Connection,
        statement: LiteralString,
        parameters: list[Any] | None = None,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    ) -> None:
        """Change the row under a lock timeout, in a transaction of its own or in the caller's."""
        query = self._sql(statement)
        try:
            with _store_is_installed(self.schema), connection.transaction():
                previous = connection.execute("SELECT current_setting('lock_timeout')").fetchone()
                assert previous is not None
                connection.execute(
                    "SELECT set_config('lock_timeout', %s, true)", [f"{lock_timeout_seconds:.3f}s"]
                )
                connection.execute(query, parameters or [])
                # The caller's transaction goes on; its lock_timeout is the caller's.
                connection.execute("SELECT set_config('lock_timeout', %s, true)", previous)
        except psycopg.errors.LockNotAvailable as error:
            raise drain_timeout(self.writers(connection), lock_timeout_seconds) from error

    def _sql(self, statement: LiteralString) -> sql.Composed:
        """Fill in names; the result is executed with parameters, if only an empty list, for the sake of a % in a name."""
        return sql.SQL(statement).format(
            gate=for_parameters(sql.Identifier(self.schema, "gate")),
            gate_key=for_parameters(sql.Identifier(self.schema, "gate_key")),
            migration_key=for_parameters(sql.Identifier(self.schema, "migration_key")),
        )


def drain_timeout(writers: list[Writer], waited_seconds: float) -> DrainTimeout:
    """Return the error that names what was waited for, and how to end it."""
    names = "; ".join(map(str, writers)) or "a transaction that locks the gate's row"
    remedies = [
        f"SELECT pg_terminate_backend({writer.pid});"
        if writer.pid is not None
        else f"COMMIT PREPARED {sql.Literal(writer.gid).as_string(None).strip()}; (or ROLLBACK PREPARED)"
        for writer in writers
    ]
    return DrainTimeout(
        f"Writers were still in flight after {waited_seconds:g} s: {names}.",
        remedy=" ".join(["Let them finish, or end them, then run the command again.", *remedies]),
    )


def shown_query(query: str | None) -> str:
    """Return enough of a statement to recognise it, without its literals."""
    text = _LITERAL.sub("'…'", " ".join((query or "").split()))
    return text if len(text) <= QUERY_CHARACTERS else text[:QUERY_CHARACTERS] + "…"


@contextmanager
def _store_is_installed(schema: str) -> Iterator[None]:
    try:
        yield
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.InvalidSchemaName,
    ) as error:
        raise StoreNotInstalled(schema) from error


@contextmanager
def _autocommit(connection: psycopg.Connection) -> Iterator[None]:
    """Look again and again without keeping a transaction, whose snapshot would hold back vacuum."""
    previous = connection.autocommit
    connection.autocommit = True
    try:
        yield
    finally:
        if not connection.closed:
            connection.autocommit = previous


_READ = """
SELECT
    g.maintenance OR (
        g.closed_by_migration IS NOT NULL AND EXISTS (
            SELECT FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.granted AND l.objsubid = 1
              AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
              AND (l.classid::bigint << 32 | l.objid::bigint) = {migration_key}()
        )
    ),
    g.maintenance, g.maintenance_reason, g.maintenance_since, g.closed_by_migration, g.live_version
FROM {gate} g
"""
_MAINTENANCE_ON = """
UPDATE {gate} SET maintenance = true, maintenance_reason = %s,
    maintenance_since = coalesce(maintenance_since, clock_timestamp())
"""
_MAINTENANCE_OFF = """
UPDATE {gate} SET maintenance = false, maintenance_reason = NULL, maintenance_since = NULL WHERE maintenance
"""
_CLOSE_FOR_MIGRATION = "UPDATE {gate} SET closed_by_migration = %s"
_REOPEN = "UPDATE {gate} SET closed_by_migration = NULL WHERE closed_by_migration IS NOT NULL"
_GO_LIVE = "UPDATE {gate} SET live_version = %s, cut_overs = cut_overs + 1, closed_by_migration = NULL"
_SET_LIVE_VERSION = "UPDATE {gate} SET live_version = %s, cut_overs = cut_overs + 1"
_SET_SERIAL_APPENDS = "UPDATE {gate} SET serial_appends = %s WHERE serial_appends <> %s"

# A transaction is known by its virtual id. A prepared one keeps that of the session that prepared it, has no pid, and is found in
# pg_prepared_xacts by the lock on its own transaction id.
_WRITERS = """
SELECT l.virtualtransaction, l.pid, p.gid, coalesce(a.usename, p.owner, '?'), coalesce(a.application_name, ''),
       coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8,
       coalesce(a.state, '?'), a.query
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks x
    ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = {gate_key}()
  AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY 6 DESC, 2
"""
