"""Passes of a migration: creating the next one and running what is unfinished.

Creating a pass is: take a snapshot, size its window, cut it into groups, write all of it in one transaction. Nothing is decided twice: a
pass that was written is finished before another is made, whoever comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from sequent_py.errors import EventsEdited
from sequent_py.event_types import stored_event_types
from sequent_py.progress import Progress
from sequent_py.replay import fence
from sequent_py.replay.estimate import current_snapshot, estimate_history, estimate_window
from sequent_py.replay.groups import Group, cut
from sequent_py.replay.ledger import Connection, Pass
from sequent_py.replay.replayer import Replayer
from sequent_py.replay.worker import ReplayTask
from sequent_py.store import edits_since
from sequent_py.view_schema.context import Context, replayed_event_names
from sequent_py.view_schema.plans import ResolvedPlan
from sequent_py.view_schema.versions import ViewMigration


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
    ) -> None:
        self._context = context
        self._connection = connection
        self._migration = migration
        self._resolved = resolved
        self._workers = workers
        self._target = group_target_events
        self._progress = progress
        self._epoch = migration.epoch

    def take_over(self) -> None:
        """Fence whatever an earlier coordinator left running, before anything is claimed or dropped."""
        evicted = fence.evict_workers(self._connection, self._context.schema)
        if evicted:
            self._progress.note(f"Ended {evicted} worker{'s'[: evicted > 1]} of an earlier run.")
        with self._connection.transaction():
            self._epoch = self._raise_epoch()
            self._context.ledger.take_over(self._connection, self._migration.id, epoch=self._epoch)

    def first(self) -> int:
        """Replay the history up to a snapshot taken now, or finish an earlier run's pass; return the events replayed by this run."""
        if self._context.ledger.latest_pass(self._connection, self._migration.id) is None:
            until = current_snapshot(self._connection)
            samples, is_exact = estimate_history(
                self._connection, self._context.schema, until=until, event_type_ids=self._event_type_ids()
            )
            estimated = sum(sample.estimated_events for sample in samples.values())
            groups = cut(samples, target_events=self._target, workers=self._workers)
            new = Pass(self._migration.id, 0, None, until, estimated, is_exact)
            with self._connection.transaction():
                self._context.ledger.create_pass(self._connection, new, groups, epoch=self._epoch)
        return self.finish()

    def catch_up(self) -> int:
        """Replay the window since the last pass up to a snapshot taken now; return its events."""
        self.finish()
        with self._connection.transaction():
            self.create_next()
        return self.finish()

    def create_next(self) -> Pass:
        """Write the pass that follows the newest one, up to a snapshot taken now, in the caller's transaction; nothing may be unfinished."""
        last = self.last()
        until = current_snapshot(self._connection)
        samples = estimate_window(
            self._connection,
            self._context.schema,
            since=last.until,
            until=until,
            event_type_ids=self._event_type_ids(),
        )
        total = sum(sample.estimated_events for sample in samples.values())
        # A window's count is exact: every event in it is committed. Nothing to read makes a pass without groups.
        groups = cut(samples, target_events=self._target, workers=self._workers) if total else ()
        new = Pass(self._migration.id, last.number + 1, last.until, until, total, True)
        self._create(new, groups)
        return new

    def finish(self) -> int:
        """Replay the unfinished groups of the newest pass; return the events replayed by this run."""
        replayer = Replayer(self.task(), self._context.migrations, self._context.event_types)
        done = replayer.run(self._connection, self.last(), workers=self._workers, progress=self._progress)
        return done.events_done

    def task(self) -> ReplayTask:
        """Describe the replay to workers, as of the present epoch."""
        return self._context.task(self._migration, self._resolved.plan, epoch=self._epoch)

    def on(self, connection: Connection) -> Passes:
        """Return the same passes, driven over another connection of this coordinator."""
        other = copy(self)
        other._connection = connection
        return other

    def require_unedited(self) -> None:
        """Refuse to go on where events that may have been replayed were edited or deleted since.

        Raises
        ------
        EventsEdited
            They were, by this many statements.
        """
        since = self._context.ledger.first_snapshot(self._connection, self._migration.id)
        edits = edits_since(self._connection, self._context.schema, since) if since is not None else 0
        if edits:
            raise EventsEdited(
                f"Events were edited or deleted ({edits} statement{'s'[: edits != 1]}) since the migration began: the new tables may hold"
                " what is no longer in the log.",
                remedy="Begin anew: sequent migrate abort, then sequent migrate online",
            )

    def last(self) -> Pass:
        """Return the newest pass."""
        last = self._context.ledger.latest_pass(self._connection, self._migration.id)
        assert last is not None, "a migration with tables to replay has a first pass before any other"
        return last

    def pending_events(self) -> int:
        """Count the events visible now that no pass covers."""
        return pending_events(
            self._context, self._connection, since=self.last().until, event_type_ids=self._event_type_ids()
        )

    def expected_rows(self) -> dict[str, int]:
        """Return how many rows each table must have between two passes, by what the groups say they wrote."""
        return self._context.ledger.row_counts(self._connection, self._migration.id)

    def _raise_epoch(self) -> int:
        return self._context.versions.bump_epoch(self._connection, self._migration.id)

    def _create(self, new: Pass, groups: Sequence[Group]) -> None:
        """Write a catch-up pass, in the caller's transaction."""
        self._context.ledger.create_pass(self._connection, new, groups, epoch=self._epoch)

    def _event_type_ids(self) -> list[int]:
        stored = stored_event_types(self._connection, self._context.schema)
        return [stored[name] for name in replayed_event_names(self._resolved) if name in stored]


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
