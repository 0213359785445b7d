"""``golive``: finish the replay and swap the tables, without maintenance mode: writers and readers wait for milliseconds.

1. catch up, compare a sample of the aggregates and all row counts with the log, and catch up until little is left;
2. :func:`~sequent_py.view_schema.going_live.cut_over.cut_over`: lock the gate, the events and the serving tables for a moment;
3. replay the last window, check of it what the time allows, swap, and record all of it in one transaction.

Little is left when at most ``max_delta`` events are pending, or when replaying them is expected to take at most ``max_lag_seconds``: as long as
the latest window took, times how many more events there are. (The age of the oldest pending event would say less: an application may date its
events as it likes, and a transaction that was open for an hour brings events an hour old, which take no longer than others.)

With a limit of time in all it ends between steps, passes and groups, at the latest before it asks for the locks again.

Until the swap has committed the old tables serve. Whatever fails before, or dies, leaves ``online_done`` with all of its work: nobody waits any
longer, because the locks have died with their session.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import psycopg

from sequent_py.errors import SwapLockTimeout, TimeLimitReached
from sequent_py.progress import Progress
from sequent_py.view_schema.building.time_limit import TimeLimit
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.ddl import swap
from sequent_py.view_schema.going_live import last_window
from sequent_py.view_schema.going_live.cut_over import LOCK_TIMEOUT_SECONDS, Stall, cut_over
from sequent_py.view_schema.going_live.last_window import LastWindow, Replayed
from sequent_py.view_schema.going_live.promotion import (
    MOST_CATCH_UP_PASSES,
    SMALL_WINDOW_EVENTS,
    Promotion,
    Stopwatch,
    resumed,
)
from sequent_py.view_schema.planning import current_plan
from sequent_py.view_schema.reports import PromotionReport
from sequent_py.view_schema.states import Command

MAX_DELTA_EVENTS = SMALL_WINDOW_EVENTS
MAX_LAG_SECONDS = 0.05
CHECK_WITHIN_SECONDS = 0.04
"""What is checked under the locks must be done, as far as one can tell, by this time after they were had."""
WINDOW_SAMPLE = 10
WINDOW_SAMPLE_EVENTS = 250


@dataclass(frozen=True, slots=True)
class CutOverLimits:
    """What the cut-over of ``golive`` or ``rollback`` may take from others; a replay's limits are :class:`sequent_py.replay.limits.Limits`."""

    max_delta_events: int = MAX_DELTA_EVENTS
    max_lag_seconds: float = MAX_LAG_SECONDS
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS
    lock_budget_seconds: float = 60.0
    verify_sample: int = 100
    max_seconds: float | None = None
    """In all, as far as it can stop; None: as long as it takes."""


@dataclass(frozen=True, kw_only=True)
class GoliveReport(PromotionReport):
    """What ``golive`` did."""

    is_window_checked: bool = False
    """Whether there was time to compare the last window's aggregates with a fresh fold, too."""
    tries: int = 0
    """How often the locks were asked for."""
    writers_stall_milliseconds: float = 0.0
    """How long an append can have waited at most, by any one try."""
    readers_stall_milliseconds: float = 0.0
    """How long a query of the tables can have waited at most, by any one try."""


def run_golive(
    context: Context,
    *,
    workers: int,
    group_target_events: int,
    limits: CutOverLimits,
    accept_quarantined: frozenset[UUID],
    progress: Progress,
) -> GoliveReport:
    """Promote the shadow tables of the unfinished migration while the application runs.

    Raises
    ------
    MigrationNotStarted, InvalidTransition, PlanChanged, ConcurrentMigration
        Nothing was changed.
    AggregatesQuarantined, SwapLockTimeout, StallLimitExceeded, CatchUpTooSlow, TimeLimitReached, VerificationFailed, EventsEdited, ProjectionFailed, InvalidPayload
        The old tables serve, the work is kept.
    """
    watch, limit = Stopwatch(), TimeLimit(limits.max_seconds)
    with context.coordinating("golive") as connection:
        plan = current_plan(context, connection)
        if plan.is_noop:
            return GoliveReport(
                from_version=plan.from_version, target_version=plan.target_version, is_noop=True
            )
        promotion = resumed(
            context,
            connection,
            plan,
            Command.GOLIVE,
            workers=workers,
            group_target_events=group_target_events,
            watch=watch,
            progress=progress,
            accept_quarantined=accept_quarantined,
            limit=limit,
        )
        golive = _Golive(promotion, limits, limit)
        with context.noting_errors(connection, promotion.migration.id), golive.saying_how_far():
            golive.verify()
            result, stall = golive.cut_over()
        return golive.report(result, stall)


class _Golive:
    """The steps, and what they found."""

    def __init__(self, promotion: Promotion, limits: CutOverLimits, limit: TimeLimit) -> None:
        self._promotion = promotion
        self._context, self._connection = promotion.context, promotion.connection
        self._plan = promotion.resolved.plan
        self._has_replays = bool(self._plan.replays)
        self._passes, self._watch, self._progress = promotion.passes, promotion.watch, promotion.progress
        self._limits, self._limit = limits, limit
        self._window_events = 0
        self._is_window_checked = False
        self._warnings: tuple[str, ...] = ()

    def verify(self) -> None:
        """Catch up and compare with the log, while the application goes on."""
        self._warnings = self._promotion.enter()
        self._promotion.prepare()
        self._passes.until_near(self._limits.max_delta_events, self._catch_up_and_verify)

    def _catch_up_and_verify(self) -> None:
        if not self._has_replays:
            return
        self._catch_up()
        self._limit.require()
        with self._watch.step("verifying", self._progress):
            self._promotion.verify(
                until=self._passes.last().until, since=None, size=self._limits.verify_sample
            )
            # Exact here as under the locks: between two passes nobody writes the shadow tables.
            self._promotion.check_counts()
        # Writers went on while we compared.
        self._catch_up()

    @contextmanager
    def saying_how_far(self) -> Iterator[None]:
        """Say of a run that took as long as it was given how far it came, and how it goes on."""
        try:
            yield
        except TimeLimitReached as error:
            doing = self._watch.latest
            came = f"{self._promotion.catch_up_events:,} events were caught up"
            ledger = self._context.ledger
            if self._has_replays and ledger.has_unfinished(self._connection, self._promotion.migration.id):
                latest = self._passes.last()
                done = ledger.progress(self._connection, self._promotion.migration.id, latest.number)
                came += f", {done.groups_done} of {done.groups_total} groups of the next pass are done"
            if self._has_replays:
                came += f", and {self._passes.pending_events():,} more are pending"
            raise TimeLimitReached(
                f"{error.message} That was while {doing or 'it began'}: {came}.",
                remedy="The old tables serve, and what is finished is kept. Go on with: sequent migrate golive, with a longer --max-time or"
                " when less is written; or: sequent migrate offline",
            ) from error

    def _catch_up(self) -> None:
        """Come near with all workers, in passes that get shorter; the last window's connections do the rest, for they know how long it takes.

        Raises
        ------
        CatchUpTooSlow
            Passes do not get shorter.
        """
        with self._watch.step("catching up", self._progress):
            for events in self._passes.come_near(self._limits.max_delta_events):
                self._promotion.catch_up_events += events

    def cut_over(self) -> tuple[swap.SwapResult, Stall]:
        """Lock, replay the last window, swap; whatever fails leaves ``online_done``."""
        # Nothing is far behind any more: from here on neither a pause nor a limit comes between the tries.
        self._passes.hurry()
        with ExitStack() as stack:
            window = (
                stack.enter_context(
                    last_window.opened(
                        self._context,
                        self._passes,
                        max_delta_events=self._limits.max_delta_events,
                        max_lag_seconds=self._limits.max_lag_seconds,
                    )
                )
                if self._has_replays
                else None
            )
            self._promotion.rehearse()
            self._limit.require()
            with self._connection.transaction():
                self._promotion.begin()
            try:
                with self._within_limit() as budget_seconds, self._watch.step("cutting over", self._progress):
                    return cut_over(
                        self._context,
                        self._connection,
                        tables=self._promotion.serving_tables(),
                        arriving=self._promotion.shadow_tables(),
                        views=self._promotion.serving_views(),
                        outside=self._promotion.outside_tables(),
                        approach=lambda: self._approach(window),
                        last_window=lambda: self._replay(window),
                        promote=lambda _connection: self._promotion.promote(),
                        lock_timeout_seconds=self._limits.lock_timeout_seconds,
                        budget_seconds=budget_seconds,
                        progress=self._progress,
                        command=Command.GOLIVE,
                    )
            except BaseException as error:
                self._promotion.give_up(error)
                raise

    @contextmanager
    def _within_limit(self) -> Iterator[float]:
        """Yield how long the locks may be tried for; a time-out that the limit in all brought about says so."""
        remaining = self._limit.remaining_seconds
        try:
            yield min(self._limits.lock_budget_seconds, remaining)
        except SwapLockTimeout as error:
            if remaining >= self._limits.lock_budget_seconds:
                raise
            reached = self._limit.reached()
            reached.message += f" {error.message}"
            raise reached from error

    def _approach(self, window: LastWindow | None) -> None:
        """Make the last window small, with the connections that will replay it; nobody waits yet. Raises what :meth:`LastWindow.approach` does."""
        self._limit.require()
        if window is None:
            return
        self._catch_up()
        for replayed in window.approach(most_windows=MOST_CATCH_UP_PASSES, limit=self._limit):
            self._promotion.catch_up_events += replayed.events
            if window.check_seconds is None:
                self._promotion.verified += self._check(window, replayed)
            # Before anybody waits, if it can be known before.
            self._promotion.require_accepted()
            # Here, so that the collector does not take its tens of milliseconds while everybody waits.
            gc.collect()

    def _replay(self, window: LastWindow | None) -> None:
        """Replay the last window, with everybody waiting, and check it if there is time."""
        if window is None:
            return
        started = time.monotonic()
        replayed = window.replay(must_be_little=True)
        # Of a try that then did not get a lock of the swap, too: what it committed stays.
        self._window_events += replayed.events
        expected = window.check_seconds
        elapsed = time.monotonic() - started
        self._is_window_checked = expected is not None and elapsed + expected <= CHECK_WITHIN_SECONDS
        if self._is_window_checked:
            self._promotion.verified += self._check(window, replayed)

    def _check(self, window: LastWindow, replayed: Replayed) -> int:
        with self._promotion.accepting():
            return window.check(
                replayed,
                sample=min(self._limits.verify_sample, WINDOW_SAMPLE),
                most_events=WINDOW_SAMPLE_EVENTS,
            )
        return 0

    def report(self, result: swap.SwapResult, stall: Stall) -> GoliveReport:
        """Note how long writers waited, and say what was done; the version is live."""
        with suppress(psycopg.Error):
            # Whatever becomes of this note.
            self._context.versions.record_stall(
                self._connection, self._promotion.migration.id, stall.writers_milliseconds
            )
        return GoliveReport(
            migration_id=self._promotion.migration.id,
            from_version=self._plan.from_version,
            target_version=self._plan.target_version,
            is_noop=False,
            catch_up_events=self._promotion.catch_up_events,
            window_events=self._window_events,
            verified_aggregates=self._promotion.verified,
            is_window_checked=self._is_window_checked,
            rows=self._context.ledger.row_counts(self._connection, self._promotion.migration.id),
            retired_tables=tuple(result.retired),
            seconds=self._watch.seconds_in_all,
            tries=stall.tries,
            writers_stall_milliseconds=stall.writers_milliseconds,
            readers_stall_milliseconds=stall.readers_milliseconds,
            step_seconds=self._watch.seconds,
            warnings=(*self._warnings, *result.warnings, *self._promotion.not_compared),
            accepted_quarantined=self._promotion.left_behind,
            repointed_views=result.repointed_views,
        )
