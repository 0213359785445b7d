"""Passes of a migration: creating the next one and running what is unfinished.

Creating a pass is: take a snapshot, find the aggregates that were edited since the last one, size window and histories, cut them into groups,
write all of it in one transaction. Nothing is decided twice: a pass that was written is finished before another is made, whoever comes next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from uuid import UUID

from sequent_py.collector import collector_paused
from sequent_py.errors import LostRow
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.ordering import ORDERINGS, Ordering
from sequent_py.progress import Progress
from sequent_py.replay import fence, refold, replayer
from sequent_py.replay.control import require_statistics, take_readings
from sequent_py.replay.edits import count_events, edits_in_window
from sequent_py.replay.estimate import current_snapshot, estimate_history, estimate_window
from sequent_py.replay.governor import Governor, note_hold
from sequent_py.replay.groups import Group, PartitionSample, cut_pass, events_of, group_target
from sequent_py.replay.ledger import Connection, Pass
from sequent_py.replay.limits import UNLIMITED, LagHistory
from sequent_py.replay.pools import waiting_copies
from sequent_py.replay.refold import Edits
from sequent_py.replay.replayer import Meanwhile, Replayer
from sequent_py.replay.same_code import code_document
from sequent_py.replay.task import ReplayTask
from sequent_py.view_schema.bookkeeping.code_records import (
    changed_tables,
    current_codes,
    migration_codes,
    record_migration_codes,
    tables_of_plan,
)
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.building import serial_order
from sequent_py.view_schema.building.pace import Pace
from sequent_py.view_schema.building.time_limit import TimeLimit
from sequent_py.view_schema.context import Context, replayed_event_names
from sequent_py.view_schema.fingerprints import described
from sequent_py.view_schema.plans import ResolvedPlan


class Passes:
    """The passes of one migration, driven by its coordinator."""

    def __init__(
        self,
        context: Context,
        connection: Connection,
        migration: ViewMigration,
        resolved: ResolvedPlan,
        *,
        workers: int,
        group_target_events: int,
        progress: Progress,
        limit: TimeLimit | None = None,
    ) -> None:
        self._limit = limit or TimeLimit(None)
        self._context = context
        self._connection = connection
        self._migration = migration
        self._resolved = resolved
        self._workers = workers
        self._target = context.replaying.limits.group_target(group_target_events)
        self._progress = progress
        self._epoch = migration.epoch
        self.is_urgent = False
        """Whether pause and limits do not count any more, see :meth:`hurry`."""
        self.was_held = False
        """Whether a pause or a limit has held up the groups that were replayed last."""

    @collector_paused()
    def take_over(self) -> None:
        """Fence whatever an earlier coordinator left running, before anything is claimed or dropped, and see to the order of what comes.

        Raises
        ------
        DrainTimeout
            A projector needs appends in line, and writers from before did not end in time; named.
        InsufficientPrivileges
            The limits of this run could not be watched.
        """
        limits = self._context.replaying.limits
        if limits.needs_statistics:
            require_statistics(self._connection)
        if (
            limits.max_replica_lag_seconds is not None
            and not take_readings(self._connection, limits, LagHistory()).replica_lags
        ):
            self._progress.note(
                "No standby or subscriber is connected: --max-replica-lag holds nothing back until one is."
            )
        evicted = fence.evict_workers(self._connection, self._context.schema)
        if evicted:
            self._progress.note(f"Ended {evicted} worker{'s'[: evicted > 1]} of an earlier run.")
        with self._connection.transaction():
            self._epoch = self._raise_epoch()
            self._context.ledger.take_over(self._connection, self._migration.id, epoch=self._epoch)
            self._context.control.begin_run(
                self._connection,
                self._migration.id,
                self._epoch,
                limits=limits,
                code=code_document(
                    self._context.definition,
                    [step.table_name for step in self._resolved.plan.replays],
                ),
            )
            self._record_code()
        if serial_order.needs_serial_appends(self._resolved.projectors):
            # Before any snapshot of this command, whatever an earlier one may have done of it.
            serial_order.establish(self._context, self._connection, self._progress)

    def _record_code(self) -> None:
        """Note which code works on an unfinished migration, and say so where an earlier run's was another."""
        if self._migration.state.is_finished:
            return
        schema = self._context.schema
        before = migration_codes(self._connection, schema, self._migration.id)
        now = current_codes(
            self._context.definition,
            tables_of_plan(self._resolved.plan),
            self._context.config.sql_path,
        )
        changes = changed_tables({table: (0, code) for table, code in before.items()}, now)
        if changes:
            # Going on is right after a handler was mended; whether it is, the comparison before the swap decides.
            folded = self._context.ledger.finished_groups(self._connection, self._migration.id)
            self._progress.note(
                f"Since the last run of this migration the code has changed ({described(changes)}); {folded} finished"
                f" group{'s were' if folded != 1 else ' was'} folded by the earlier code. If that makes other rows: sequent migrate abort, and begin anew."
            )
        if changes or not before:
            record_migration_codes(self._connection, schema, self._migration.id, now)

    def first(self, meanwhile: Meanwhile = lambda _report: None) -> int:
        """Replay the history up to a snapshot taken now, or finish an earlier run's pass; return the events replayed by this run.

        ``meanwhile`` may be called while workers replay, see :meth:`Replayer.run`.
        """
        if self._context.ledger.latest_pass(self._connection, self._migration.id) is None:
            until = current_snapshot(self._connection)
            samples, exact = dict[Ordering, Mapping[int, PartitionSample]](), True
            for ordering, type_ids in self._event_type_ids_by_ordering().items():
                samples[ordering], is_exact = estimate_history(
                    self._connection,
                    self._context.schema,
                    until=until,
                    event_type_ids=type_ids,
                    group_target=partial(group_target, target_events=self._target, workers=self._workers),
                )
                exact = exact and is_exact
            groups = cut_pass(samples, target_events=self._target, workers=self._workers)
            new = Pass(self._migration.id, 0, None, until, sum(map(events_of, samples.values())), exact)
            with self._connection.transaction():
                self._context.ledger.create_pass(self._connection, new, groups, epoch=self._epoch)
        return self.finish(meanwhile)

    def catch_up(self, *, tries_quarantined: bool = False) -> int:
        """Replay the window since the last pass up to a snapshot taken now, and re-fold what was edited in it; return the events.

        ``tries_quarantined``: also fold the aggregates that were set aside, each from the snapshot that its rows stand at; those that
        fold are released.

        Raises
        ------
        EventsEdited
            What was edited cannot be re-folded; no pass was made.
        """
        self.finish()
        with self._connection.transaction():
            self.create_next(tries_quarantined=tries_quarantined)
        return self.finish()

    def come_near(self, most_pending: int) -> Iterator[int]:
        """Finish what is unfinished and catch up, in passes that get shorter; yield the events of each.

        Ends when at most ``most_pending`` are left, or when passes are as short as they get.

        Raises
        ------
        CatchUpTooSlow
            Long passes do not get shorter.
        TimeLimitReached
            Between passes or groups; those that are finished are kept.
        """
        yield self.finish()
        limits = UNLIMITED if self.is_urgent else self._context.replaying.limits
        pace, pending, helps = Pace(limits), self.pending_events(), True
        while helps and pending > most_pending:
            self._limit.require()
            found, started = pending, time.monotonic()
            events = self.catch_up()
            # Counted as part of the pass: events come in meanwhile, too.
            pending = self.pending_events()
            seconds = time.monotonic() - started
            yield events
            if not self.was_held:
                helps = pace.note(found=found, left=pending, seconds=seconds)

    def create_next(self, *, tries_quarantined: bool = False) -> Pass:
        """Write the pass that follows the newest one, up to a snapshot taken now, in the caller's transaction; nothing may be unfinished.

        Raises
        ------
        EventsEdited
            As :meth:`catch_up`.
        """
        last = self.last()
        until = current_snapshot(self._connection)
        specials = self._special_aggregates(
            since=last.until, until=until, tries_quarantined=tries_quarantined
        )
        samples = self._sizes(specials, since=last.until, until=until)
        total = sum(map(events_of, samples.values()))
        # A window's count is exact: every event in it is committed. Nothing to read or to delete makes a pass without groups.
        samples = {
            ordering: sampled for ordering, sampled in samples.items() if events_of(sampled) or specials
        }
        workers = self._workers
        if total <= replayer.INLINE_EVENTS:
            # It is worth no other process than those that are there, which earlier passes have not taken.
            workers = min(workers, 1 + waiting_copies(self._context.replaying.pool))
        groups = cut_pass(samples, target_events=self._target, workers=workers, is_window=True)
        new = Pass(self._migration.id, last.number + 1, last.until, until, total, True)
        self._create(new, groups, specials)
        return new

    def _special_aggregates(
        self, *, since: str, until: str | None, tries_quarantined: bool
    ) -> tuple[refold.SpecialAggregate, ...]:
        edits = self._edits(since=since, until=until)
        quarantined = (
            self._context.quarantine.listed(self._connection, self._migration.id) if tries_quarantined else ()
        )
        specials = refold.special_aggregates(
            edits,
            [refold.SpecialAggregate(item.aggregate_id, item.snapshot_since, False) for item in quarantined],
            refold.find_obstacles(self._resolved.projectors),
        )
        if edits.aggregate_ids:
            refold.check_share(
                aggregates=len(edits.aggregate_ids),
                events=sum(self._histories(edits.aggregate_ids, until).values()),
                replayed_events=self._context.ledger.replayed_events(self._connection, self._migration.id),
            )
        return specials

    def _edits(self, *, since: str, until: str | None) -> Edits:
        """Return what was edited in a window, and has to be folded anew in these tables."""
        return edits_in_window(self._connection, self._context.schema, since=since, until=until)

    def _sizes(
        self, specials: Sequence[refold.SpecialAggregate], *, since: str, until: str
    ) -> dict[Ordering, Mapping[int, PartitionSample]]:
        """Size the window and the histories of the special aggregates, per ordering and partition."""
        special_ids = [special.aggregate_id for special in specials]
        left_out = {*special_ids, *self.set_aside()}
        found: dict[Ordering, Mapping[int, PartitionSample]] = {}
        for ordering, type_ids in self._event_type_ids_by_ordering().items():
            found[ordering] = samples = estimate_window(
                self._connection,
                self._context.schema,
                since=since,
                until=until,
                event_type_ids=type_ids,
                left_out=left_out,
            )
            # Other orderings have no special aggregates: neither edits nor a quarantine are taken on with them.
            histories = self._histories(special_ids, until) if ordering == "aggregate" else {}
            for partition, count in histories.items():
                sample = samples[partition]
                # Where they lie among the window's aggregates does not matter much: a poor sample makes uneven groups, never wrong ones.
                samples[partition] = PartitionSample(sample.estimated_events + count, sample.aggregate_ids)
        return found

    def _histories(self, aggregate_ids: Collection[UUID], until: str | None) -> dict[int, int]:
        return count_events(
            self._connection,
            self._context.schema,
            aggregate_ids,
            until=until,
            event_type_ids=self._event_type_ids(),
        )

    def set_aside(self) -> frozenset[UUID]:
        """Return the aggregates whose rows these tables do not hold in full: their builder has set them aside."""
        tables = self.task().physical_tables.values()
        return self._context.quarantine.left_out_of_all(self._connection, tables)

    def finish(self, meanwhile: Meanwhile = lambda _report: None) -> int:
        """Replay the unfinished groups of the newest pass; return the events replayed by this run."""
        replaying = Replayer(
            self.task(), self._context.migrations, self._context.event_types, self._context.replaying.pool
        )
        done = replaying.run(
            self._connection,
            self.last(),
            workers=self._workers,
            progress=self._progress,
            check=self._limit.require,
            meanwhile=meanwhile,
        )
        self.was_held = replaying.was_held
        return done.events_done

    def task(self) -> ReplayTask:
        """Describe the replay to workers, as of the present epoch."""
        task = self._context.task(self._migration, self._resolved.plan, epoch=self._epoch)
        return replace(task, is_governed=False, standby_url=None) if self.is_urgent else task

    def wait_while_held(self) -> bool:
        """Wait as long as replays are paused or a limit is exceeded, before work that is none of a worker's, in no transaction; whether that was so."""
        governor = Governor(
            self._context.schema,
            self._migration.id,
            self._epoch,
            listener=lambda hold: note_hold(self._progress, hold),
            sleep=self._sleep,
        )
        return governor.wait_while_held(self._connection)

    def _sleep(self, seconds: float) -> None:
        self._limit.require()
        time.sleep(seconds)

    def until_near(self, most_events: int, work: Callable[[], None]) -> None:
        """Do the work of catching up before a cut-over, and again where more than ``most_events`` have come in while replays were held.

        A pause may last for hours: what has come in meanwhile is compared as well, and not left to those who will wait.
        """
        work()
        has_replays = bool(self._resolved.plan.replays)
        while self.wait_while_held() and has_replays and self.pending_events() > most_events:
            work()

    def hurry(self) -> None:
        """Replay from here on whatever pause and limits say, and from the primary: writers wait for it."""
        self.is_urgent = True

    def on(self, connection: Connection) -> Passes:
        """Return the same passes, driven over another connection of this coordinator."""
        other = copy(self)
        other._connection = connection
        return other

    def require_unedited(self) -> None:
        """Refuse to go on where events were edited since the last pass in a way that the next one cannot re-fold.

        Raises
        ------
        EventsEdited
            They were.
        """
        last = self._newest()
        if last is not None:
            self._special_aggregates(since=last.until, until=None, tries_quarantined=False)

    def _newest(self) -> Pass | None:
        return self._context.ledger.latest_pass(self._connection, self._migration.id)

    def last(self) -> Pass:
        """Return the newest pass."""
        last = self._context.ledger.latest_pass(self._connection, self._migration.id)
        if last is None:
            # A migration with tables to replay has a first pass before anything else.
            raise LostRow(f"{self._context.schema}.replay_passes", f"view migration {self._migration.id}")
        return last

    def pending_events(self) -> int:
        """Count the events visible now that no pass covers, and those of aggregates that were edited since the last one."""
        since = self.last().until
        events = pending_events(
            self._context, self._connection, since=since, event_type_ids=self._event_type_ids()
        )
        edits = edits_in_window(self._connection, self._context.schema, since=since, until=None)
        # Each costs something even if no event of it is left: its rows must go.
        return (
            events + len(edits.aggregate_ids) + sum(self._histories(edits.aggregate_ids, until=None).values())
        )

    def expected_rows(self) -> dict[str, int]:
        """Return how many rows each table must have between two passes, by what the groups say they wrote."""
        return self._context.ledger.row_counts(self._connection, self._migration.id)

    def _raise_epoch(self) -> int:
        return self._context.versions.bump_epoch(self._connection, self._migration.id)

    def _create(
        self, new: Pass, groups: Sequence[Group], specials: Sequence[refold.SpecialAggregate]
    ) -> None:
        """Write a catch-up pass, in the caller's transaction."""
        self._context.ledger.create_pass(self._connection, new, groups, epoch=self._epoch, specials=specials)

    def _event_type_ids(self) -> list[int]:
        stored = stored_event_types(self._connection, self._context.schema)
        return [stored[name] for name in replayed_event_names(self._resolved) if name in stored]

    def _event_type_ids_by_ordering(self) -> dict[Ordering, list[int]]:
        """Return what each ordering's projectors read: an event is read once for every ordering that handles its type."""
        stored = stored_event_types(self._connection, self._context.schema)
        declared = {item.ordering for item in self._resolved.projectors}
        return {
            ordering: [
                stored[name] for name in replayed_event_names(self._resolved, ordering) if name in stored
            ]
            for ordering in ORDERINGS
            if ordering in declared
        }


def pending_events(
    context: Context, connection: Connection, *, since: str, event_type_ids: Sequence[int]
) -> int:
    """Count the events visible now and not in ``since``; reads only."""
    samples = estimate_window(
        connection,
        context.schema,
        since=since,
        until=current_snapshot(connection),
        event_type_ids=event_type_ids,
    )
    return sum(sample.estimated_events for sample in samples.values())
