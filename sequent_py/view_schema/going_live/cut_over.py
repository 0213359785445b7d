"""The cut-over without maintenance mode: every lock at once and for milliseconds, or none.

One connection, C, which holds ``migration_key()`` for its session, opens a transaction, locks the tables that are to serve as VACUUM would (which is in the way of nobody
else), and then, in this order

0. tables that stay and that foreign keys of the swap's tables refer to, in SHARE ROW EXCLUSIVE mode (:mod:`sequent_py.view_schema.tables.outside_tables`):
   whoever writes there and then appends has ended, and does not wait at the gate with what the swap is going to need;
1. ``gate_key()`` exclusively: every writer has ended, and new ones wait at the gate *before* they read the live version;
2. ``events`` in SHARE ROW EXCLUSIVE mode: nor does anybody write who was let around the gate (replication, disabled triggers);
3. the tables that serve, and before them the views that read them, in ACCESS EXCLUSIVE mode: nobody reads what is about to be renamed;
   then those of 0 that lose a foreign key.

Then ``last_window`` runs, on connections of its own: what it commits is a pass like any other, right whatever becomes of the swap. Then
``promote`` runs in C's transaction, which commits. Waiting writers find the new version live; none has failed for waiting.

Guarantees:

* If C, its process or its host dies at any moment before the commit, nothing was swapped and all locks are gone. Nobody need clear anything.
* Nobody is held up for longer than :data:`STALL_LIMIT_SECONDS`, whatever hangs: the server itself ends C's session soon after.
* Nobody fails for a deadlock with C, save where a lock timeout is set that is longer than half of ``deadlock_timeout``, for the gate. Each wait of C's is
  part of a cycle perhaps, such as: X holds a table and waits at the gate, C holds the gate and waits for the table. X looks for deadlocks when it has
  waited for ``deadlock_timeout``, and it has waited since C's first lock at the earliest; all of C's waits are over when half of that is.
* A try that does not get a lock in ``lock_timeout_seconds`` gives all of them back, so that whoever waited goes on, before the next.

How the locks are got. Asking for a lock that is not free makes a queue: everybody who comes later waits behind us, for somebody who may
take long. So, first, the transactions that have been open for long already are watched until they end. Then the locks are tried for
without waiting (which disturbs nobody) a number of times, at random distances: with a few hundred short writes per second there are gaps. Only
then are they waited for, briefly. The tries without waiting have another use: who reads a table and then appends, in one transaction,
holds the table and waits at the gate while we wait for the table; a queue at the gate collects such transactions, a gap has none. Where
they leave no gap, the budget ends and they are named.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql

from sequent_py.errors import CatchUpTooSlow, StallLimitExceeded
from sequent_py.progress import Progress
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.ddl.locks import view_locks
from sequent_py.view_schema.going_live.obstacles import Obstacles
from sequent_py.view_schema.tables.blockers import relation_holders
from sequent_py.view_schema.tables.outside_tables import OutsideTable, early_locks, late_locks, lock_late

Connection = psycopg.Connection[Any]
R = TypeVar("R")

FIRST_LOCK_TIMEOUT_SECONDS = 0.05
"""How long a try waits for each of its locks at first; everybody else waits behind it for that long. Doubled with each that fails, because
where transactions take that long, the same try would fail again and again."""
LOCK_TIMEOUT_SECONDS = 0.2
"""The longest."""
TRIES_WITHOUT_WAITING = 30
"""Before each one that waits. They take some 100 ms, and find a gap where writers are busy for nine tenths of the time."""
LONGEST_PAUSE_SECONDS = 0.005
FIRST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 2.0
MOST_GIVEN_BACK = 5
"""Where the window was too large this often, before or behind the locks, it will be again."""
STALL_LIMIT_SECONDS = 2.0
"""What the last window may take at most. The server ends a session that holds the locks idly for twice that: a coordinator that was
stopped, or cut off from the network, or a handler that hangs."""


@dataclass(frozen=True, slots=True)
class Stall:
    """How long a cut-over held others up: upper bounds, measured from a lock's request to the end of its transaction."""

    tries: int
    """How often the locks were asked for, those tries counted that disturbed nobody."""
    writers_milliseconds: float
    """The longest of all tries."""
    readers_milliseconds: float


def cut_over(
    context: Context,
    connection: Connection,
    *,
    tables: Sequence[str],
    arriving: Sequence[str] = (),
    views: Sequence[tuple[str, str]] = (),
    last_window: Callable[[], None],
    promote: Callable[[Connection], R],
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    budget_seconds: float,
    progress: Progress,
    outside: Sequence[OutsideTable] = (),
    writes_in_place: bool = False,
    command: str = "golive",
    approach: Callable[[], None] = lambda: None,
    stall_limit_seconds: float | None = None,
) -> tuple[R, Stall]:
    """Run ``last_window`` and ``promote`` while nobody writes events, and nobody reads ``tables``; commit, and return what promote returned.

    ``tables`` are the physical names, in the view schema, of those that serve and will be renamed or altered; not those that the last
    window writes. ``arriving`` are the physical names of those that will serve: only the swap locks them against all, and who is in its way is waited for, and named. ``views`` is what ``swap.serving_views`` says of them, ``outside`` what ``swap.outside`` does. ``writes_in_place``: the last window writes tables that serve, which may
    refer to those outside, or be among them; what is needed of them behind the gate is asked for when it is done. ``approach`` is called before each round of tries, with no lock
    held, to make the last window small. Where it does not become so, or a last window is too large all the same, they raise ``CatchUpTooSlow``: all locks are given back and there is another round, a few times.
    ``last_window`` runs while all locks are held: it must use other connections than ``connection``, opened before, and
    with a short ``lock_timeout``, for the server cannot see that we wait for ourselves. ``promote`` runs in C's transaction. No lock is waited for
    longer than ``lock_timeout_seconds``, and at first for less; if a lock is not to be had there, all is rolled back and tried again, ``last_window`` included.
    ``stall_limit_seconds`` replaces :data:`STALL_LIMIT_SECONDS`.

    Raises
    ------
    SwapLockTimeout
        The locks could not be had within ``budget_seconds``; names who holds what. ``command`` is what to run again.
    CatchUpTooSlow
        The last window was too large each time.
    StallLimitExceeded
        The last window, or one statement of the swap, took too long.
    Exception
        Whatever ``last_window`` and ``promote`` raise. C's transaction has been rolled back in every case: nothing is swapped.
    """
    attempt = _CutOver(
        context,
        connection,
        tables,
        arriving,
        views,
        outside,
        writes_in_place,
        approach,
        last_window,
        promote,
        lock_timeout_seconds,
        STALL_LIMIT_SECONDS if stall_limit_seconds is None else stall_limit_seconds,
        progress,
        command,
    )
    return attempt.run(budget_seconds)


class _NotNow(Exception):
    """A lock was not to be had; everything has been given back."""


class _CutOver(Generic[R]):
    """One cut-over and its tries."""

    def __init__(
        self,
        context: Context,
        connection: Connection,
        tables: Sequence[str],
        arriving: Sequence[str],
        views: Sequence[tuple[str, str]],
        outside: Sequence[OutsideTable],
        writes_in_place: bool,
        approach: Callable[[], None],
        last_window: Callable[[], None],
        promote: Callable[[Connection], R],
        lock_timeout_seconds: float,
        stall_limit_seconds: float,
        progress: Progress,
        command: str,
    ) -> None:
        self._context = context
        self._connection = connection
        self._tables = sorted(set(tables))
        self._arriving = sorted(set(arriving))
        self._obstacles = Obstacles(
            context, connection, progress, [*self._tables, *self._arriving], outside, command
        )
        self._views = views
        self._outside = outside
        self._writes_in_place = writes_in_place
        self._waits = 0
        """How many tries have waited."""
        self._approach = approach
        self._last_window = last_window
        self._promote = promote
        self._longest_lock_timeout = lock_timeout_seconds
        self._lock_timeout = min(FIRST_LOCK_TIMEOUT_SECONDS, lock_timeout_seconds)
        self._stall_limit = stall_limit_seconds
        self._progress = progress
        self._command = command
        self._tries = 0
        self._writers_seconds = 0.0
        self._readers_seconds = 0.0
        self._writers_since: float | None = None
        self._readers_since: float | None = None
        self._longest_wait = 0.0
        """Half of deadlock_timeout, for all locks of a try."""
        self._began = 0.0
        self._asked_for = ""
        """The lock that this try has asked for last, for messages."""

    def run(self, budget_seconds: float) -> tuple[R, Stall]:
        deadline = time.monotonic() + budget_seconds
        backoff = FIRST_BACKOFF_SECONDS
        given_back = 0
        self._longest_wait = self._half_of_deadlock_timeout()
        while True:
            if long := self._obstacles.wait_for_long_ones(self._lock_timeout, deadline):
                raise self._obstacles.timeout(long, budget_seconds, self._asked_for)
            try:
                self._approach()
                return self._try_some_times(), self._stall()
            except CatchUpTooSlow as error:
                given_back += 1
                if error.is_final or given_back == MOST_GIVEN_BACK or time.monotonic() > deadline:
                    raise
                self._progress.note(f"{error.message} Catching up again.")
                continue
            except _NotNow as error:
                found = self._obstacles.found()
                if time.monotonic() + backoff > deadline:
                    raise self._obstacles.timeout(found, budget_seconds, self._asked_for) from error
            self._obstacles.note("Waiting for a gap to swap the tables in", found)
            # Jitter keeps two such tools from meeting for ever.
            time.sleep(backoff * random.uniform(0.5, 1.5))
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            self._lock_timeout = min(self._lock_timeout * 2, self._longest_lock_timeout)

    def _try_some_times(self) -> R:
        """Look for a gap a number of times, then wait for one, briefly."""
        for _ in range(TRIES_WITHOUT_WAITING):
            try:
                return self._try(is_waiting=False)
            except _NotNow:
                time.sleep(random.uniform(0.0, LONGEST_PAUSE_SECONDS))
        return self._try(is_waiting=True)

    def _stall(self) -> Stall:
        return Stall(self._tries, self._writers_seconds * 1000, self._readers_seconds * 1000)

    # One try

    def _try(self, is_waiting: bool) -> R:
        self._tries += 1
        self._writers_since = self._readers_since = None
        self._began = time.monotonic()
        try:
            with self._connection.transaction():
                # For the gate. Nobody can wait for us meanwhile, unless we have locked something before.
                self._set_limits(max(round(self._lock_timeout * 1000), 1))
                self._lock(is_waiting)
                self._run_last_window()
                if self._writes_in_place:
                    self._lock_outside(is_waiting)
                # What the swap waits for counts, too.
                self._set_limits(self._wait_milliseconds())
                self._asked_for = "one of the swap's own"
                return self._promote(self._connection)
        except (pg.LockNotAvailable, pg.DeadlockDetected) as error:
            raise _NotNow from error
        except (pg.IdleInTransactionSessionTimeout, pg.QueryCanceled) as error:
            if self._writers_since is None or time.monotonic() - self._writers_since < self._stall_limit:
                raise
            raise self._took_too_long() from error
        finally:
            self._measure()

    def _measure(self) -> None:
        now = time.monotonic()
        if self._writers_since is not None:
            self._writers_seconds = max(self._writers_seconds, now - self._writers_since)
        if self._readers_since is not None:
            self._readers_seconds = max(self._readers_seconds, now - self._readers_since)

    def _half_of_deadlock_timeout(self) -> float:
        row = self._connection.execute(
            "SELECT extract(epoch FROM pg_catalog.current_setting('deadlock_timeout')::interval / 2)::float8"
        ).fetchone()
        assert row is not None
        return float(row[0])

    def _wait_milliseconds(self) -> int:
        """How long the next lock may be waited for. What is free may be locked however late it is: that is no waiting."""
        left = self._began + self._longest_wait - time.monotonic()
        return max(int(min(self._lock_timeout, left) * 1000), 1)

    def _set_limits(self, lock_timeout_milliseconds: int) -> None:
        self._connection.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),"
            " set_config('idle_in_transaction_session_timeout', %s, true)",
            (
                f"{lock_timeout_milliseconds}ms",
                f"{round(self._stall_limit * 1000)}ms",
                f"{round(self._stall_limit * 2000)}ms",
            ),
        )

    def _lock(self, is_waiting: bool) -> None:
        """Take the locks; the order is the module's."""
        if self._arriving:
            # What vacuums them would be in the swap's way: it is found before anybody is held up, and kept out. The last window may write beside this lock.
            self._asked_for = ", ".join(self._arriving)
            self._lock_tables(
                self._locked(self._arriving, sql.SQL("SHARE UPDATE EXCLUSIVE")), is_waiting=False
            )
        if (early := early_locks(self._outside)) is not None:
            self._asked_for = _named(item for item in self._outside if not item.is_managed)
            self._writers_since = time.monotonic()
            self._waits += is_waiting
            if self._waits % 2 == 0 and is_waiting and not self._writes_in_place:
                # Where it is always being read nothing but the queue helps, and appends in flight may have to give way.
                self._readers_since = self._writers_since
                for statement in late_locks([item for item in self._outside if not item.is_managed]):
                    self._lock_tables(statement, is_waiting)
            else:
                self._lock_tables(early, is_waiting)
            if is_waiting:
                self._set_limits(self._wait_milliseconds())
        self._lock_gate(is_waiting)
        # Never waited for: a writer around append_events locks the table first, and is at the gate now, behind us.
        # Not its partitions, which vacuum and ANALYZE lock for as long as they take; who writes there is looked for instead.
        # By a function: the statement takes the right to write events, which a migrator has not.
        self._asked_for = "events"
        lock_events = sql.Identifier(self._context.schema, "lock_events_v1")
        self._connection.execute(sql.SQL("SELECT {}()").format(lock_events))
        self._lock_what_is_read(is_waiting)
        self._asked_for = "events"
        around = relation_holders(
            self._connection,
            event_store_schema=self._context.schema,
            view_schema=self._context.config.view_schema,
            tables=(),
        )
        if any(not item.is_at_gate for item in around):
            raise _NotNow

    def _lock_gate(self, is_waiting: bool) -> None:
        gate_key = sql.Identifier(self._context.schema, "gate_key")
        self._asked_for = "the gate"
        asked = time.monotonic()
        if is_waiting:
            self._writers_since = self._writers_since or asked
            self._connection.execute(sql.SQL("SELECT pg_advisory_xact_lock({}())").format(gate_key))
            return
        query = sql.SQL("SELECT pg_try_advisory_xact_lock({}())").format(gate_key)
        if self._connection.execute(query).fetchone() != (True,):
            raise _NotNow
        self._writers_since = self._writers_since or asked

    def _lock_what_is_read(self, is_waiting: bool) -> None:
        if self._tables:
            self._readers_since = self._readers_since or time.monotonic()
            # Before the tables, as their readers do: whoever holds a view and waits for its table would keep us from the view.
            for statement in view_locks(self._views):
                self._asked_for = "the views of the tables"
                self._wait_for(statement, self._wait_milliseconds() if is_waiting else 1)
            self._asked_for = ", ".join(self._tables)
            self._lock_tables(self._locked(self._tables, sql.SQL("ACCESS EXCLUSIVE")), is_waiting)
        if not self._writes_in_place:
            self._lock_outside(is_waiting)

    def _lock_outside(self, is_waiting: bool) -> None:
        if self._outside:
            self._readers_since = self._readers_since or time.monotonic()
            self._asked_for = _named(self._outside)
            lock_late(
                self._connection,
                self._outside,
                seconds=self._wait_milliseconds() / 1000 if is_waiting else 0.0,
            )

    def _locked(self, tables: Iterable[str], mode: sql.SQL) -> sql.Composed:
        names = [sql.Identifier(self._context.config.view_schema, name) for name in tables]
        return sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.SQL(", ").join(names), mode)

    def _lock_tables(self, statement: sql.Composed, is_waiting: bool) -> None:
        if is_waiting:
            self._wait_for(statement, self._wait_milliseconds())
        else:
            self._connection.execute(sql.SQL("{} NOWAIT").format(statement))

    def _wait_for(self, statement: sql.Composed, milliseconds: int) -> None:
        # In one go: a lock that is free costs one round trip.
        setting = sql.SQL("SET LOCAL lock_timeout = {}; {}").format(sql.Literal(milliseconds), statement)
        self._connection.execute(setting, prepare=False)

    def _run_last_window(self) -> None:
        self._last_window()
        assert self._writers_since is not None
        if time.monotonic() - self._writers_since > self._stall_limit:
            raise self._took_too_long()

    def _took_too_long(self) -> StallLimitExceeded:
        is_golive = self._command == "golive"
        return StallLimitExceeded(
            f"The cut-over had held writers up for {self._stall_limit:g} s without an end; it was given up, and nothing was swapped.",
            remedy=f"Run sequent migrate {self._command} again when there is less to do"
            + (", or, for a cut-over that may take longer: sequent migrate offline" if is_golive else ""),
        )


def _named(tables: Iterable[OutsideTable]) -> str:
    return ", ".join(item.described for item in tables)
