"""Re-folding live rows: after events were edited by hand, or once an aggregate that was left behind can be projected.

An edit of events does not touch the live tables: they hold what the events were. For each aggregate, in one transaction: its rows in
the live tables are deleted, all of its events are folded by this code's projectors, and whatever left it behind is taken back. Readers see its
old rows or its new ones. After a crash each aggregate is as it was or done.

What could make that wrong: an append to this aggregate between our reading of its events and our commit, whose rows we would write twice or not
at all; an edit of its events; a swap, which puts other tables under the plain names; a change of who is left behind, while somebody
appends by what was. An append to another aggregate is none of these. But nothing that an append locks tells its aggregate (an expected
version is checked by the key of ``events`` alone), so an aggregate's appends can only be kept away by keeping away all. Therefore they
are not, while events are read and folded, however many these are: the transaction looks at the end, at a standstill of milliseconds, whether one of
these has happened since its snapshot, and is done again if so (:mod:`sequent_py.event_store.beside_writers`). Swaps are kept away from
the beginning, by a lock on the tables that lets readers and writers pass. An append to the aggregate itself may wait for its rows
meanwhile. Only an aggregate that is appended to all the time is folded at a standstill as a whole, and for no longer than :data:`LONGEST_STALL_SECONDS`.

That takes tables whose rows can be told apart by aggregate. Others are left as they are, and the report names them; but an aggregate that was
left behind in one of them is refused. The unit is a :class:`Lane`: projectors that write one table between them are folded together or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.errors import MigrationError, SequentError, StallLimitExceeded
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.beside_writers import Overtaken, beside_writers
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.event_store.gate import Gate
from sequent_py.event_store.standstill import at_standstill
from sequent_py.persistors.deferred import read_deferred
from sequent_py.persistors.refusals import naming_refusals
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import ProjectorDefinition
from sequent_py.records import Record, record_shape
from sequent_py.replay.edits import edits_in_window
from sequent_py.replay.estimate import current_snapshot
from sequent_py.replay.fold import Fold
from sequent_py.replay.quarantine import Quarantine
from sequent_py.replay.reader import RawEvent, aggregates_query, in_order, read_events
from sequent_py.replay.refold import find_obstacles
from sequent_py.view_schema.migrations import MigrationsDefinition, tables_of
from sequent_py.windows import window_condition

Connection = psycopg.Connection[Any]


LONGEST_STALL_SECONDS = 2.0
"""How long an aggregate that is appended to all the time may hold up all appends, unless the caller says otherwise: some 60 000 events."""

REBUILD = "Rebuild the tables: declare their projectors under a new version, then sequent migrate online"


@dataclass(frozen=True)
class Lane:
    """Projectors that share tables, directly or through others: what is folded together."""

    projectors: tuple[ProjectorDefinition, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """The plain names of all of their tables."""
        return tuple(dict.fromkeys(table for item in self.projectors for table in tables_of(item)))

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why single aggregates cannot be folded anew; nothing when they can."""
        return find_obstacles(self.projectors)


def lanes(projectors: Iterable[ProjectorDefinition]) -> tuple[Lane, ...]:
    """Divide projectors so that no two lanes share a table; pure."""
    found: list[Lane] = []
    for item in projectors:
        met = [lane for lane in found if not set(lane.tables).isdisjoint(tables_of(item))]
        found = [lane for lane in found if lane not in met]
        found.append(Lane((*(each for lane in met for each in lane.projectors), item)))
    return tuple(found)


@dataclass(frozen=True)
class NotFolded:
    """Projectors whose tables were left as they are."""

    projectors: tuple[str, ...]
    tables: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class RefoldReport:
    """What was folded anew."""

    aggregate_ids: tuple[UUID, ...]
    events: int
    deleted_rows: Mapping[str, int]
    """By table."""
    inserted_rows: Mapping[str, int]
    released: int
    """Aggregates that had been left behind in a replay, and are whole now."""
    not_folded: tuple[NotFolded, ...] = ()
    """Tables that were left alone: they show the aggregates as they did before."""
    stall_seconds: float = 0.0
    """How long appends were held up at most, at one time."""


@dataclass(frozen=True)
class _Seen:
    """What a re-fold has seen, to be confirmed before it is committed."""

    aggregate_id: UUID
    snapshot: str
    gate: tuple[int, int]
    """The live version, and how often it was set."""
    report: RefoldReport


class Refolding:
    """Re-folds aggregates into the live tables."""

    def __init__(
        self,
        connection: Connection,
        *,
        event_store_schema: str,
        view_schema: str,
        definitions: Sequence[MigrationsDefinition],
        event_types: EventTypes,
        budget_seconds: float,
        longest_stall_seconds: float = LONGEST_STALL_SECONDS,
    ) -> None:
        self._connection = connection
        self._schema = event_store_schema
        self._gate = Gate(event_store_schema)
        self._view_schema = view_schema
        self._definitions = {item.version: item for item in definitions}
        self._event_types = event_types
        self._budget_seconds = budget_seconds
        self._longest_stall_seconds = longest_stall_seconds
        self._stall_seconds = 0.0

    def run(self, aggregate_ids: Sequence[UUID]) -> RefoldReport:
        """Make the live rows of these aggregates the fold of their events, one transaction each; of one without events, none.

        Raises
        ------
        MigrationError
            No version is live, or none of this code's; or the rows of a table that an aggregate was left behind in, or of every table, cannot
            be told apart by aggregate. Nothing was changed.
        ProjectionFailed, InvalidPayload
            An event cannot be projected, or a table refuses the aggregate's rows. It is as it was, those before it are done.
        StallLimitExceeded
            The aggregate is appended to all the time, and has too many events to fold while appends wait. It is as it was, those before it are done.
        MaintenanceModeActive, DrainTimeout
            As in :func:`~sequent_py.event_store.standstill.at_standstill`.
        """
        definition = self._definition_of(self._gate.read(self._connection).live_version)
        ids = tuple(dict.fromkeys(aggregate_ids))
        # All of them before the first is touched. Each is looked at again in its transaction: tables may be swapped until then.
        self._foldable(definition, ids)
        events, released = 0, 0
        deleted: dict[str, int] = {}
        inserted: dict[str, int] = {}
        not_folded: dict[NotFolded, None] = {}
        for aggregate_id in ids:
            done = self._run(aggregate_id)
            events += done.events
            released += done.released
            for total, part in ((deleted, done.deleted_rows), (inserted, done.inserted_rows)):
                for table, rows in part.items():
                    total[table] = total.get(table, 0) + rows
            not_folded |= dict.fromkeys(done.not_folded)
        return RefoldReport(ids, events, deleted, inserted, released, tuple(not_folded), self._stall_seconds)

    def _run(self, aggregate_id: UUID) -> RefoldReport:
        seen = beside_writers(
            self._connection,
            self._schema,
            partial(self._work, aggregate_id),
            self._confirm,
            budget_seconds=self._budget_seconds,
            on_stall=self._note_stall,
        )
        if seen is not None:
            return seen.report
        return at_standstill(
            self._connection,
            self._schema,
            partial(self._refold_in_time, aggregate_id),
            budget_seconds=self._budget_seconds,
            on_stall=self._note_stall,
        )

    def _note_stall(self, seconds: float) -> None:
        self._stall_seconds = max(self._stall_seconds, seconds)

    def _work(self, aggregate_id: UUID) -> _Seen:
        """Fold the aggregate while everybody appends."""
        gate = self._gate.served(self._connection)
        definition = self._definition_of(gate[0])
        tables = [table for lane in self._foldable(definition, [aggregate_id]) for table in lane.tables]
        self._connection.execute(
            sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(
                sql.SQL(", ").join(sql.Identifier(self._view_schema, table) for table in tables)
            )
        )
        if self._gate.served(self._connection) != gate:
            raise Overtaken
        # Before anything is deleted: rows of an event that this sees are seen by every later statement, and an event that it does not see is
        # found at the standstill.
        snapshot = current_snapshot(self._connection)
        try:
            with self._connection.transaction():
                report = self._refold(aggregate_id, gate[0], snapshot)
        except SequentError as error:
            # Half an edit was read, perhaps: what cannot be projected may be gone by now.
            if self._is_edited(aggregate_id, snapshot):
                raise Overtaken from error
            raise
        return _Seen(aggregate_id, snapshot, gate, report)

    def _confirm(self, seen: _Seen, live_version: int) -> None:
        """Look, while nobody writes events, whether anybody was in between.

        Raises
        ------
        Overtaken
            Somebody was.
        """
        appended = self._connection.execute(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE aggregate_id = {}::uuid AND {})").format(
                sql.Identifier(self._schema, "events"),
                sql.Literal(str(seen.aggregate_id)),
                window_condition(seen.snapshot, None),
            )
        ).fetchone()
        if (
            self._gate.served(self._connection) != seen.gate
            or appended != (False,)
            or self._is_edited(seen.aggregate_id, seen.snapshot)
        ):
            raise Overtaken

    def _is_edited(self, aggregate_id: UUID, since: str) -> bool:
        edits = edits_in_window(self._connection, self._schema, since=since, until=None)
        return aggregate_id in edits.aggregate_ids or edits.boundless > 0

    def _refold_in_time(self, aggregate_id: UUID, live_version: int) -> RefoldReport:
        """Fold the aggregate while everybody waits, and give up when that takes too long."""
        limit = self._longest_stall_seconds
        self._connection.execute(
            "SELECT set_config('statement_timeout', %s, true)", (f"{max(round(limit * 1000), 1)}ms",)
        )
        try:
            return self._refold(
                aggregate_id,
                live_version,
                current_snapshot(self._connection),
                deadline=time.monotonic() + limit,
            )
        except psycopg.errors.QueryCanceled as error:
            raise self._took_too_long(aggregate_id) from error

    def _took_too_long(self, aggregate_id: UUID) -> StallLimitExceeded:
        return StallLimitExceeded(
            f"Aggregate {aggregate_id} is appended to all the time, so that it can only be folded anew while appends wait; they had for"
            f" {self._longest_stall_seconds:g} s without an end. It is as it was.",
            remedy=f"Run it again when less is appended to it, or let appends wait longer: sequent aggregates refold {aggregate_id} --max-stall SECONDS",
        )

    def _definition_of(self, live_version: int) -> MigrationsDefinition:
        definition = self._definitions.get(live_version)
        if definition is None:
            has = " and ".join(map(str, self._definitions))
            raise MigrationError(
                f"This code has the projectors of version {has}, and version {live_version} is live; nothing was changed."
                if live_version
                else "No version is live yet, so there are no rows to fold anew.",
                remedy=f"Run it with the code of version {live_version}." if live_version else "",
            )
        return definition

    def _foldable(self, definition: MigrationsDefinition, aggregate_ids: Sequence[UUID]) -> tuple[Lane, ...]:
        """Return what can be folded anew of these aggregates.

        Raises
        ------
        MigrationError
            That is nothing; or not all that one of them was left behind in.
        """
        every = lanes(definition.projectors)
        free = tuple(lane for lane in every if not lane.obstacles)
        behind = Quarantine(self._schema).unprojected(self._connection, aggregate_ids)
        for aggregate_id, tables in behind.items():
            needed = [lane for lane in every if not tables.isdisjoint(lane.tables)]
            obstacles = [obstacle for lane in needed for obstacle in lane.obstacles]
            if obstacles:
                raise MigrationError(
                    f"Aggregate {aggregate_id} was left behind in {_listed(tables)}, and cannot be folded anew there: {'; '.join(obstacles)}.",
                    remedy=REBUILD,
                )
        if not free:
            obstacles = [obstacle for lane in every for obstacle in lane.obstacles]
            raise MigrationError(
                f"Single aggregates cannot be folded anew: {'; '.join(obstacles)}.", remedy=REBUILD
            )
        return free

    def _refold(
        self, aggregate_id: UUID, live_version: int, snapshot: str, *, deadline: float | None = None
    ) -> RefoldReport:
        """Replace the aggregate's rows by the fold of its events that ``snapshot``, taken before, sees; in the caller's transaction."""
        definition = self._definition_of(live_version)
        chosen = self._foldable(definition, [aggregate_id])
        folding = {item.name for lane in chosen for item in lane.projectors}
        # In the declared order, in which an event meets them.
        definitions = [item for item in definition.projectors if item.name in folding]
        projectors = [item.projector for item in definitions]
        persistor = ReplayPersistor(self._connection, self._tables(definitions), backing="table")
        fold = Fold(
            projectors,
            persistor,
            self._event_types,
            stored_event_types(self._connection, self._schema),
        )
        persistor.delete_aggregates([aggregate_id])
        query = aggregates_query(
            self._schema,
            [aggregate_id],
            event_type_ids=fold.event_type_ids,
            until=snapshot,
        )
        # Read to the end first: handlers may look rows up on this connection, which is in COPY mode until then.
        raw_events = list(in_order(read_events(self._connection, query)))
        with naming_refusals(persistor, projectors, aggregate_id):
            events = fold.apply(self._in_time(raw_events, aggregate_id, deadline))
            changes = persistor.flush()
            read_deferred(self._connection, persistor.shapes.values()).check(self._connection)
        # A live table has its plain name.
        tables = [table for lane in chosen for table in lane.tables]
        released = Quarantine(self._schema).release(self._connection, [aggregate_id], tables)
        return RefoldReport(
            (aggregate_id,),
            events,
            {record_shape(record).table_name: delta.deleted for record, delta in changes.items()},
            {record_shape(record).table_name: delta.inserted for record, delta in changes.items()},
            released,
            tuple(
                NotFolded(
                    tuple(item.name for item in lane.projectors), lane.tables, "; ".join(lane.obstacles)
                )
                for lane in lanes(definition.projectors)
                if lane not in chosen
            ),
        )

    def _in_time(
        self, raw_events: Iterable[RawEvent], aggregate_id: UUID, deadline: float | None
    ) -> Iterator[RawEvent]:
        for raw in raw_events:
            if deadline is not None and time.monotonic() > deadline:
                raise self._took_too_long(aggregate_id)
            yield raw

    def _tables(self, projectors: Iterable[ProjectorDefinition]) -> dict[type[Record], TableShape]:
        """Read the live tables' shapes, where nothing can be swapped underneath."""
        records = dict.fromkeys(record for item in projectors for record in item.records)
        return {
            record: read_table_shape(
                self._connection, record_shape(record), self._view_schema, record_shape(record).table_name
            )
            for record in records
        }


def _listed(tables: Collection[str]) -> str:
    return " and ".join(sorted(tables))
