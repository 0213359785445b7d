"""Passes over retired tables: they continue the ledger of the migration that retired them, from the snapshot of its cut-over.

That snapshot, not the last pass's, is where they begin: the tables were complete then, for all event types that their projectors handle,
because they served until then; the migration's own passes may have read fewer types, or there may be none. The first of these passes is
marked in the migration's row, in one transaction with the row counts that the tables have before it, so that whoever comes after a crash
goes on behind the last pass and counts from the same beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sequent_py.errors import EventsEdited, InvalidTransition
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.progress import Progress
from sequent_py.replay.edits import edits_in_window
from sequent_py.replay.groups import Group
from sequent_py.replay.ledger import Connection, Pass
from sequent_py.replay.refold import Edits, SpecialAggregate
from sequent_py.replay.replayer import Meanwhile
from sequent_py.replay.task import ReplayTask
from sequent_py.verification import Verification
from sequent_py.view_schema import guards
from sequent_py.view_schema.bookkeeping.relations import TableRole, ViewTable
from sequent_py.view_schema.building.passes import Passes, pending_events
from sequent_py.view_schema.context import Context, replayed_event_names, replayed_projectors
from sequent_py.view_schema.plans import ResolvedPlan, resolve
from sequent_py.view_schema.rollback_plan import RollbackPlan
from sequent_py.windows import parse_snapshot


class ReturnPasses(Passes):
    """The passes that bring the tables of one rollback up to date."""

    def __init__(
        self,
        context: Context,
        connection: Connection,
        plan: RollbackPlan,
        resolved: ResolvedPlan,
        *,
        workers: int,
        group_target_events: int,
        progress: Progress,
    ) -> None:
        super().__init__(
            context,
            connection,
            plan.migration,
            resolved,
            workers=workers,
            group_target_events=group_target_events,
            progress=progress,
        )
        self._return_pass = plan.migration.return_pass
        self._since = cut_over_snapshot(connection, plan)

    @property
    def has_begun(self) -> bool:
        """Whether there is a pass over these tables yet."""
        return self._return_pass is not None

    def last(self) -> Pass:
        """Return the newest pass; before the first over these tables, one that stands for the cut-over itself."""
        newest = self._context.ledger.latest_pass(self._connection, self._migration.id)
        if newest is not None and self._return_pass is not None:
            return newest
        return Pass(self._migration.id, newest.number if newest else 0, None, self._since, 0, True)

    def finish(self, meanwhile: Meanwhile = lambda _report: None) -> int:
        """Replay the unfinished groups of the newest pass over these tables, if there is one; return the events replayed by this run."""
        return super().finish(meanwhile) if self._return_pass is not None else 0

    def task(self) -> ReplayTask:
        """Describe the replay to workers; it sets nothing aside, for nobody could try it again."""
        return replace(super().task(), quarantine_limit=None, may_quarantine=False)

    def require_unedited(self) -> None:
        """Refuse to go on where events were edited since these tables retired, or since the last pass over them, in a way that cannot be re-folded.

        Raises
        ------
        EventsEdited
            They were.
        """
        try:
            super().require_unedited()
        except EventsEdited as error:
            error.remedy = (
                "Build them anew: list their projectors under a newer version, then sequent migrate online"
            )
            raise

    def _newest(self) -> Pass:
        return self.last()

    def _edits(self, *, since: str, until: str | None) -> Edits:
        # While they served these tables did not follow edits of events.
        first = self._served_since() if self._return_pass is None else since
        edits = edits_in_window(self._connection, self._context.schema, since=first, until=until)
        # Tables of different migrations: an aggregate that one of these left behind is whole in another, and has to become so in all.
        behind = self._context.quarantine.left_out_of_some(
            self._connection, self.task().physical_tables.values()
        )
        return replace(edits, aggregate_ids=edits.aggregate_ids | behind)

    def _served_since(self) -> str | None:
        """Return the oldest snapshot as of which one of these tables came to serve; None where one of them is unknown."""
        snapshots = [table.served_since for table in self._tables()]
        known = [text for text in snapshots if text is not None]
        if not known or len(known) < len(snapshots):
            return None
        return min(known, key=lambda text: parse_snapshot(text).xmax)

    def expected_rows(self) -> dict[str, int]:
        """Return how many rows the ledger says each table has."""
        changes = self._context.ledger.row_counts(
            self._connection, self._migration.id, from_pass=self._return_pass or 0
        )
        return {name: rows + changes.get(name, 0) for name, rows in self._rows_before().items()}

    def verification(self) -> Verification:
        """Return what compares these tables with a fresh fold by this code."""
        return Verification(
            event_store_schema=self._context.schema,
            projectors=replayed_projectors(self._resolved),
            tables=self._context.shadow_tables(self._connection, self._resolved),
            event_types=self._context.event_types,
            stored_types=stored_event_types(self._connection, self._context.schema),
            left_out=self.set_aside(),
        )

    def _raise_epoch(self) -> int:
        return self._context.versions.bump_epoch(self._connection, self._migration.id, is_rollback=True)

    def _create(self, new: Pass, groups: Sequence[Group], specials: Sequence[SpecialAggregate]) -> None:
        super()._create(new, groups, specials)
        if self._return_pass is None:
            versions, relations = self._context.versions, self._context.relations
            # Nobody writes to these tables before the pass is claimable, which is after this transaction; an erasure waits for it, too.
            relations.lock_tables(
                self._connection, [step.shadow_name for step in self._resolved.plan.replays]
            )
            counts = self.verification().count_rows(self._connection)
            for step in self._resolved.plan.replays:
                relations.record_rows(self._connection, step.shadow_name, counts[step.table_name])
            versions.begin_return(self._connection, self._migration.id, new.number)
            self._return_pass = new.number

    def _rows_before(self) -> Mapping[str, int]:
        return {table.table_name: table.rows or 0 for table in self._tables()}

    def _tables(self) -> list[ViewTable]:
        """Return the records of these tables."""
        names = {step.shadow_name for step in self._resolved.plan.replays}
        relations = self._context.relations
        return [
            table
            for role in (TableRole.RETIRED, TableRole.LIVE)
            for table in relations.tables(self._connection, role)
            if table.physical_name in names
        ]


def pending_return(context: Context, connection: Connection, plan: RollbackPlan) -> int:
    """Count the events that a rollback has to replay as of now; reads only.

    Raises
    ------
    ForeignTransactionIds
        The command would be refused: snapshots are another cluster's.
    InvalidTransition
        As :func:`cut_over_snapshot`.
    """
    if not plan.replay.replays:
        return 0
    guards.require_own_snapshots(connection, context.schema)
    since = cut_over_snapshot(connection, plan)
    newest = context.ledger.latest_pass(connection, plan.migration.id)
    if newest is not None and plan.migration.return_pass is not None:
        since = newest.until
    stored = stored_event_types(connection, context.schema)
    names = replayed_event_names(resolve(plan.replay, context.definition))
    ids = [stored[name] for name in names if name in stored]
    return pending_events(context, connection, since=since, event_type_ids=ids)


def cut_over_snapshot(connection: Connection, plan: RollbackPlan) -> str:
    """Return the snapshot that the tables were complete in.

    Raises
    ------
    InvalidTransition
        It is not recorded.
    """
    migration = plan.migration
    if migration.promoted_snapshot is None:
        raise InvalidTransition(
            f"What the tables of version {plan.target_version} held when they retired is not recorded: view migration {migration.id} was"
            " promoted by an older release, or transaction ids were repaired since.",
            remedy=f"Build what version {plan.target_version} needs anew: list its projectors under a newer version,"
            " then sequent migrate online",
        )
    return migration.promoted_snapshot
