"""``offline``: finish the replay and swap the tables, with the gate closed to writers.

1. with the gate open: catch up until little is left, and compare a sample of aggregates with a fresh fold;
2. close the gate, drain writers in flight;
3. replay the last window, check row counts and the aggregates of that window;
4. one transaction: swap, alters, version, state, gate; short lock timeout, retried within a budget.

Until that transaction commits the old tables serve. Whatever fails before it reopens the gate and leaves ``online_done`` with all of its
work; a process that dies reopens the gate by dying, because the gate is closed only while the migration lock is held.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from psycopg import errors as pg

from sequent_py.errors import SwapLockTimeout
from sequent_py.progress import Progress
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.ddl import executor, swap
from sequent_py.view_schema.going_live.promotion import SMALL_WINDOW_EVENTS, Promotion, Stopwatch, resumed
from sequent_py.view_schema.planning import current_plan
from sequent_py.view_schema.reports import OfflineReport
from sequent_py.view_schema.states import Command
from sequent_py.view_schema.tables.autovacuum import make_way
from sequent_py.view_schema.tables.blockers import listed, outside_holders, row_holders

WINDOW_SAMPLE = 10
"""Aggregates of the last window that are compared while the gate is closed."""
WINDOW_SAMPLE_EVENTS = 250
"""Their events in all: each costs about a millisecond of the time that writers are refused."""
LOCK_TIMEOUT_SECONDS = 1.0
"""Where none is configured: only readers wait behind a try, for the gate has refused the writers."""
FIRST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 2.0


def run_offline(
    context: Context,
    *,
    workers: int,
    group_target_events: int,
    drain_timeout_seconds: float,
    lock_timeout_seconds: float | None,
    lock_budget_seconds: float,
    verify_sample: int,
    accept_quarantined: frozenset[UUID],
    progress: Progress,
) -> OfflineReport:
    """Promote the shadow tables of the unfinished migration.

    ``lock_timeout_seconds``: how long a try of the swap may wait for its locks at most; None: :data:`LOCK_TIMEOUT_SECONDS`.

    Raises
    ------
    MigrationNotStarted, InvalidTransition, PlanChanged, ConcurrentMigration
        Nothing was changed.
    AggregatesQuarantined
        Aggregates are set aside that ``accept_quarantined`` does not name; found before or after the gate was closed.
    DrainTimeout, VerificationFailed, SwapLockTimeout, ProjectionFailed, InvalidPayload
        The old tables serve, the gate is as it was found, the work is kept.
    """
    watch = Stopwatch()
    with context.coordinating("offline") as connection:
        plan = current_plan(context, connection)
        if plan.is_noop:
            return OfflineReport(
                from_version=plan.from_version, target_version=plan.target_version, is_noop=True
            )
        promotion = resumed(
            context,
            connection,
            plan,
            Command.OFFLINE,
            workers=workers,
            group_target_events=group_target_events,
            watch=watch,
            progress=progress,
            accept_quarantined=accept_quarantined,
        )
        cut_over = _CutOver(promotion)
        with context.noting_errors(connection, promotion.migration.id):
            cut_over.approach(verify_sample)
            with cut_over.gate_closed(drain_timeout_seconds):
                cut_over.finish_replay(verify_sample)
                result = cut_over.promote(
                    LOCK_TIMEOUT_SECONDS if lock_timeout_seconds is None else lock_timeout_seconds,
                    lock_budget_seconds,
                )
        return cut_over.report(result)


class _CutOver:
    """The part of ``offline`` that the gate's closing divides."""

    def __init__(self, promotion: Promotion) -> None:
        self._promotion = promotion
        self._context, self._connection = promotion.context, promotion.connection
        self._resolved, self._passes = promotion.resolved, promotion.passes
        self._watch, self._progress = promotion.watch, promotion.progress
        self._window_events = 0
        self._warnings: tuple[str, ...] = ()
        self._closing = Stopwatch()

    def approach(self, verify_sample: int) -> None:
        """Do with the gate open whatever can be done with the gate open."""
        self._warnings = self._promotion.enter()
        self._promotion.prepare()
        self._passes.until_near(SMALL_WINDOW_EVENTS, lambda: self._catch_up_and_verify(verify_sample))

    def _catch_up_and_verify(self, verify_sample: int) -> None:
        if not self._resolved.plan.replays:
            return
        self._catch_up()
        with self._watch.step("verifying", self._progress):
            self._promotion.verify(until=self._passes.last().until, since=None, size=verify_sample)
        # Writers went on while we compared.
        self._catch_up()

    def _catch_up(self) -> None:
        """Replay until only a small window is left, or writers prove to be as fast as we are."""
        self._promotion.catch_up(lambda: self._passes.pending_events() <= SMALL_WINDOW_EVENTS)

    @contextmanager
    def gate_closed(self, drain_timeout_seconds: float) -> Iterator[None]:
        """Close the gate and drain it; whatever fails inside reopens it and leaves ``online_done``."""
        gate = self._context.gate
        self._closing = Stopwatch()
        # From here on writers are refused: neither a pause nor a limit makes them wait longer.
        self._passes.hurry()
        with self._connection.transaction():
            self._promotion.begin()
            gate.close_for_migration(self._connection, self._promotion.migration.id)
        try:
            with self._watch.step("draining writers", self._progress):
                gate.drain(self._connection, drain_timeout_seconds)
            yield
        except BaseException as error:
            self._promotion.give_up(error)
            raise

    def finish_replay(self, verify_sample: int) -> None:
        """Replay the last window and check it; nobody writes meanwhile."""
        if not self._resolved.plan.replays:
            return
        with self._watch.step("replaying the last window", self._progress):
            # The closed gate refuses edits, too: none can come after this.
            self._passes.require_unedited()
            before = self._passes.last()
            self._window_events = self._passes.catch_up()
            self._promotion.require_accepted()
        with self._watch.step("checking the last window", self._progress):
            self._promotion.verify(
                until=self._passes.last().until,
                since=before.until,
                size=min(verify_sample, WINDOW_SAMPLE) if self._window_events else 0,
                most_events=WINDOW_SAMPLE_EVENTS,
            )
            self._promotion.check_counts()

    def promote(self, lock_timeout_seconds: float, lock_budget_seconds: float) -> swap.SwapResult:
        """Swap in one transaction; a try that does not get its locks in time is rolled back and repeated."""
        deadline = time.monotonic() + lock_budget_seconds
        backoff = FIRST_BACKOFF_SECONDS
        with self._watch.step("swapping", self._progress):
            while True:
                try:
                    return self._promote_once(lock_timeout_seconds)
                except (pg.LockNotAvailable, pg.DeadlockDetected) as error:
                    if time.monotonic() + backoff > deadline:
                        raise SwapLockTimeout(
                            f"The tables could not be locked within {lock_budget_seconds:g} s: {self._blockers()}.",
                            remedy="End those transactions, or give --lock-timeout or --lock-budget; then: sequent migrate offline",
                        ) from error
                    self._progress.note(f"Waiting for the tables' locks: {self._blockers()}.")
                    make_way(self._connection, self._context.config.view_schema, self._tables())
                    # Readers that queued behind the try go first; jitter keeps two such tools from meeting for ever.
                    time.sleep(backoff * random.uniform(0.5, 1.5))
                    backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _promote_once(self, lock_timeout_seconds: float) -> swap.SwapResult:
        connection = self._connection
        with connection.transaction():
            connection.execute(
                "SELECT set_config('lock_timeout', %s, true)",
                (f"{max(round(lock_timeout_seconds * 1000), 1)}ms",),
            )
            result = self._promotion.promote()
            self._context.versions.record_stall(
                connection, self._promotion.migration.id, self._closing.seconds_in_all * 1000
            )
        return result

    def _tables(self) -> list[str]:
        """Return the tables that are swapped or altered."""
        plan = self._resolved.plan
        tables = [name for step in plan.replays for name in (step.table_name, step.shadow_name)]
        return tables + [step.table_name for step in plan.alters]

    def _blockers(self) -> str:
        """Name the sessions that hold locks on the tables to be swapped, or may have locked the rows that tell of them."""
        holders = executor.lock_holders(self._connection, self._context.config.view_schema, self._tables())
        if rows := row_holders(self._connection, event_store_schema=self._context.schema):
            holders.append(listed(rows))
        outside = outside_holders(
            self._connection,
            event_store_schema=self._context.schema,
            outside=self._promotion.outside_tables(),
        )
        if outside:
            holders.append(listed(outside))
        return "; ".join(holders) or "the holder is gone"

    def report(self, result: swap.SwapResult) -> OfflineReport:
        """Say what was done; the version is live and the gate open."""
        plan = self._resolved.plan
        return OfflineReport(
            migration_id=self._promotion.migration.id,
            from_version=plan.from_version,
            target_version=plan.target_version,
            is_noop=False,
            catch_up_events=self._promotion.catch_up_events,
            window_events=self._window_events,
            verified_aggregates=self._promotion.verified,
            rows=self._promotion.rows,
            retired_tables=tuple(result.retired),
            seconds=self._watch.seconds_in_all,
            closed_seconds=self._closing.seconds_in_all,
            step_seconds=self._watch.seconds,
            warnings=(*self._warnings, *result.warnings, *self._promotion.not_compared),
            accepted_quarantined=self._promotion.left_behind,
            repointed_views=result.repointed_views,
        )
