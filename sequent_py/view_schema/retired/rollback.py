"""``rollback``: let the version of this code serve again, back or forth, without losing what was written meanwhile.

1. decide (:mod:`sequent_py.view_schema.rollback_plan`), and check that the tables are there and nothing stands in the way of the swap;
2. replay into the retired tables what has been written since they retired, pass after pass, until little is left;
3. compare a sample of aggregates with a fresh fold, and row counts with the ledger;
4. cut over without maintenance mode (:mod:`sequent_py.view_schema.going_live.cut_over`): while writers wait, the last window; then, in one transaction,
   the swap, the records, the gate's version, the state, and the snapshot from which the way in the other direction begins.

Until that transaction commits the version that serves goes on serving, and the migration's state does not change: a command that failed
or was killed leaves passes behind, which are right whatever comes next, and the same command goes on with them. So does, later, the
next one: ``online`` to another version does not care, and coming back through that version finds the passes again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psycopg

from sequent_py.errors import CatchUpTooSlow, StallLimitExceeded, VerificationFailed
from sequent_py.health.store_rows import require_append_order
from sequent_py.progress import Progress
from sequent_py.replay import fence
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.building import serial_order
from sequent_py.view_schema.building.passes import Passes
from sequent_py.view_schema.building.time_limit import TimeLimit
from sequent_py.view_schema.context import (
    Context,
    live_blueprints,
    retired_blueprints,
)
from sequent_py.view_schema.ddl import executor, swap
from sequent_py.view_schema.going_live import last_window
from sequent_py.view_schema.going_live.cut_over import Stall, cut_over
from sequent_py.view_schema.going_live.golive import CutOverLimits
from sequent_py.view_schema.going_live.last_window import LastWindow
from sequent_py.view_schema.planning import current_rollback
from sequent_py.view_schema.plans import resolve
from sequent_py.view_schema.reports import CutOverReport
from sequent_py.view_schema.retired.return_passes import ReturnPasses
from sequent_py.view_schema.retired.rollback_preview import check_rollback
from sequent_py.view_schema.rollback_plan import RollbackPlan
from sequent_py.view_schema.states import Command
from sequent_py.view_schema.tables import prepared

MOST_CATCH_UP_PASSES = 20
"""Over the connections of the last window, after passes with all workers have come near; more would not help."""


@dataclass(frozen=True, kw_only=True)
class RollbackReport(CutOverReport):
    """What ``rollback`` did. Its ``rows`` are those of the tables that were brought up to date, before the last window."""

    is_forth: bool = False
    returned_tables: tuple[str, ...] = ()
    writers_stall_milliseconds: float = 0.0
    readers_stall_milliseconds: float = 0.0


def run_rollback(
    context: Context,
    *,
    workers: int,
    group_target_events: int,
    limits: CutOverLimits,
    stall_limit_seconds: float | None,
    progress: Progress,
) -> RollbackReport:
    """Bring the retired tables up to date and swap them in.

    ``stall_limit_seconds``: how long writers and readers may wait at most; None: as long as for ``golive``.

    Raises
    ------
    InvalidTransition, PlanChanged, DependentObjects, DefinitionError, ConcurrentMigration
        Nothing was changed.
    ProjectionFailed, InvalidPayload, EventsEdited, VerificationFailed, WorkerFailed, CatchUpTooSlow, SwapLockTimeout, StallLimitExceeded
        The version that served serves on; finished groups are kept.
    """
    started = time.monotonic()
    if workers > 0:
        context.require_importable()
    with context.coordinating("rollback") as connection:
        plan = current_rollback(context, connection)
        if plan is None:
            version = context.definition.version
            return RollbackReport(from_version=version, target_version=version, is_noop=True)
        progress.step("checking")
        warnings = check_rollback(context, connection, plan)
        for warning in warnings:
            progress.note(warning)
        with context.noting_errors(connection, plan.migration.id):
            run = _Run(
                context,
                connection,
                plan,
                workers=workers,
                group_target_events=group_target_events,
                limits=limits,
                stall_limit_seconds=stall_limit_seconds,
                progress=progress,
            )
            with _with_remedy():
                run.prepare()
                result, stall = run.cut_over()
        return run.report(result, stall, seconds=time.monotonic() - started, warnings=warnings)


class _Run:
    """One run of the command, from the first pass to the commit."""

    def __init__(
        self,
        context: Context,
        connection: Connection,
        plan: RollbackPlan,
        *,
        workers: int,
        group_target_events: int,
        limits: CutOverLimits,
        stall_limit_seconds: float | None,
        progress: Progress,
    ) -> None:
        self._context = context
        self._connection = connection
        self._plan = plan
        self._limits = limits
        self._stall_limit_seconds = stall_limit_seconds
        self._progress = progress
        # Where nothing is to be replayed nobody asks for the cut-over's snapshot.
        self._passes = (
            ReturnPasses(
                context,
                connection,
                plan,
                resolve(plan.replay, context.definition),
                workers=workers,
                group_target_events=group_target_events,
                progress=progress,
            )
            if plan.replay.replays
            else None
        )
        self._catch_up_events = 0
        self._window_events = 0
        self._verified = 0
        self._rows: dict[str, int] = {}
        self._not_compared: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Bring the tables up to date and compare them with the log, while writers and readers go on."""
        if self._passes is None:
            # What a killed run left behind must not hold the tables all the same.
            fence.evict_workers(self._connection, self._context.schema)
            return
        passes = self._passes
        passes.take_over()
        passes.require_unedited()
        passes.until_near(self._limits.max_delta_events, lambda: self._catch_up_and_verify(passes))
        if self._catch_up_events:
            self._progress.step("analysing")
            names = [step.shadow_name for step in self._plan.replay.replays]
            executor.analyse(self._connection, self._context.config.view_schema, names)

    def _catch_up_and_verify(self, passes: ReturnPasses) -> None:
        self._catch_up(passes)
        self._progress.step("verifying")
        with _named(self._plan):
            self._verify(passes)
            # Here, and not while others wait: between two passes nobody writes to these tables.
            self._rows = passes.verification().check_counts(self._connection, passes.expected_rows())

    def _catch_up(self, passes: ReturnPasses) -> None:
        self._progress.step("catching up")
        for events in passes.come_near(self._limits.max_delta_events):
            self._catch_up_events += events
        if not passes.has_begun:
            # One pass there is in any case: with it the tables' row counts are recorded.
            self._catch_up_events += passes.catch_up()

    def _verify(self, passes: ReturnPasses) -> None:
        if self._limits.verify_sample == 0:
            return
        until = passes.last().until
        verification = passes.verification()
        aggregates = verification.sample(
            self._connection, until=until, size=self._limits.verify_sample, is_any_length=True
        )
        with self._context.connect("verifying") as reader:
            self._verified = verification.check_aggregates(self._connection, reader, aggregates, until=until)
        self._not_compared = verification.not_compared

    def cut_over(self) -> tuple[swap.SwapResult, Stall]:
        """Replay the last window and swap, while nobody writes.

        Raises
        ------
        CatchUpTooSlow, SwapLockTimeout, StallLimitExceeded
            The version that served serves on.
        """
        context, plan = self._context, self._plan
        if self._passes is not None:
            # Nothing is far behind any more: from here on neither a pause nor a limit comes between the tries.
            self._passes.hurry()
        self._read_ahead()
        with ExitStack() as stack:
            window = stack.enter_context(self._opened(self._passes)) if self._passes else None
            self._progress.step("cutting over")
            return cut_over(
                context,
                self._connection,
                # A table that is brought up to date in place is none of them: the last window writes it.
                tables=swap.serving_tables(plan.leaving, self._live),
                arriving=list(plan.exchange.returning.values()),
                views=self._views,
                outside=self._outside,
                writes_in_place=bool(plan.exchange.managed),
                approach=lambda: self._approach(window),
                last_window=lambda: self._replay(window),
                promote=self._promote,
                lock_timeout_seconds=self._limits.lock_timeout_seconds,
                budget_seconds=self._limits.lock_budget_seconds,
                progress=self._progress,
                command=Command.ROLLBACK,
                stall_limit_seconds=self._stall_limit_seconds,
            )

    def _read_ahead(self) -> None:
        """Read what the swap goes by, and plan its statements, for writers wait later; nobody but a coordinator, which we are, can change it."""
        context, plan = self._context, self._plan
        self._kept = retired_blueprints(context, self._connection, plan.migration.id)
        self._live = live_blueprints(context, self._connection)
        prepared.keep_plans(self._connection)
        swap.rehearse(
            self._connection, view_schema=context.config.view_schema, shadows=self._kept, live=self._live
        )
        self._views = swap.serving_views(
            self._connection,
            view_schema=context.config.view_schema,
            tables=[step.table_name for step in plan.leaving.replays],
            live=self._live,
        )
        self._outside = swap.outside(
            self._connection,
            view_schema=context.config.view_schema,
            plan=plan.swap,
            shadows=self._kept,
            live=self._live,
            leaving=plan.introduced,
        )

    def _opened(self, passes: Passes) -> AbstractContextManager[LastWindow]:
        return last_window.opened(
            self._context,
            passes,
            max_delta_events=self._limits.max_delta_events,
            max_lag_seconds=self._limits.max_lag_seconds,
        )

    def _approach(self, window: LastWindow | None) -> None:
        """Make the last window small, over the connections that will replay it; nobody waits yet."""
        if window is None or self._passes is None:
            return
        self._catch_up(self._passes)
        for replayed in window.approach(most_windows=MOST_CATCH_UP_PASSES, limit=TimeLimit(None)):
            self._catch_up_events += replayed.events

    def _replay(self, window: LastWindow | None) -> None:
        # A try that does not get all of its locks is repeated: what it has committed was right, and less is left.
        if window is not None:
            self._window_events += window.replay(must_be_little=True).events

    def _promote(self, connection: Connection) -> swap.SwapResult:
        """Swap and record, in the caller's transaction: from its commit on the code of the target version may append."""
        context, plan = self._context, self._plan
        if context.ledger.has_unfinished(connection, plan.migration.id):
            raise VerificationFailed(
                "Groups of the replay are unfinished; nothing was swapped.",
                remedy="Run: sequent migrate rollback",
            )
        require_append_order(connection, context.schema)
        result = swap.swap(
            connection,
            view_schema=context.config.view_schema,
            plan=plan.swap,
            shadows=self._kept,
            live=self._live,
            leaving=plan.introduced,
            view_locks=self._views,
            outside_locks=self._outside,
        )
        context.relations.exchange(connection, plan.migration.id, plan.exchange)
        context.versions.record_cut_over(connection, plan.migration.id)
        for blueprint in (*result.live, *result.retired_blueprints):
            context.relations.record_names(connection, blueprint.physical_name, blueprint.to_json())
        context.gate.go_live(connection, plan.target_version)
        context.versions.transition(connection, plan.migration.id, (plan.migration.state,), plan.to_state)
        serial_order.release(context, connection)
        return result

    def report(
        self, result: swap.SwapResult, stall: Stall, *, seconds: float, warnings: tuple[str, ...]
    ) -> RollbackReport:
        """Note how long writers waited, and say what was done; the version serves."""
        plan = self._plan
        with suppress(psycopg.Error):
            # Whatever becomes of this note.
            self._context.versions.record_stall(
                self._connection, plan.migration.id, stall.writers_milliseconds
            )
        return RollbackReport(
            migration_id=plan.migration.id,
            from_version=plan.from_version,
            target_version=plan.target_version,
            is_noop=False,
            is_forth=plan.is_forth,
            catch_up_events=self._catch_up_events,
            window_events=self._window_events,
            verified_aggregates=self._verified,
            rows=self._rows,
            returned_tables=tuple(plan.exchange.returning),
            retired_tables=result.retired,
            seconds=seconds,
            writers_stall_milliseconds=stall.writers_milliseconds,
            readers_stall_milliseconds=stall.readers_milliseconds,
            warnings=(*warnings, *result.warnings, *self._not_compared),
            repointed_views=result.repointed_views,
        )


@contextmanager
def _with_remedy() -> Iterator[None]:
    """Say what helps where a cut-over takes too long: there is no ``offline`` for going back, and no need of one."""
    try:
        yield
    except (CatchUpTooSlow, StallLimitExceeded) as error:
        raise type(error)(
            error.message,
            remedy="Run it again when less is written, or with more workers (--workers); or with nobody writing meanwhile, and time: sequent maintenance on --reason"
            ' "going back", then sequent migrate rollback --stall-limit 60, then sequent maintenance off',
        ) from error


@contextmanager
def _named(plan: RollbackPlan) -> Iterator[None]:
    """Say of tables that differ from the log whose they are, and what is left to do: there is nothing to abort."""
    try:
        yield
    except VerificationFailed as error:
        raise VerificationFailed(
            f"The kept tables of version {plan.target_version} are not equal to the log, and version {plan.from_version} serves on:"
            f" {error.message}",
            remedy=f"Is this the code that was deployed as version {plan.target_version}? If it is, somebody else changed those tables: build"
            " them anew by listing their projectors under a newer version, then sequent migrate online",
        ) from error
