"""The fold of one group: its events through the projectors into the tables, whole, or of some of its aggregates.

A worker writes a group whole. Whoever looks for the events whose rows a table refuses (:mod:`sequent_py.replay.violations`) writes parts of it,
or the beginning of a part. Both read what the pass says: its window, and its special aggregates from where they stand.

Reads events on the reader, writes rows on the writer, in the caller's transaction or savepoint, which after an error is to be rolled back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from psycopg import sql

from sequent_py.declared.groups import Compilations, FoldedInSql, fold_in_server
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.persistors.ahead import AccessPaths
from sequent_py.persistors.deferred import DeferredConstraints
from sequent_py.persistors.replay import AGGREGATES_PER_STATEMENT, ReplayPersistor
from sequent_py.persistors.tables import TableShape
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, record_shape
from sequent_py.replay.edits import edited_after
from sequent_py.replay.fold import Fold, handled_type_ids
from sequent_py.replay.ledger import ClaimedGroup, Connection
from sequent_py.replay.quarantine import Quarantine
from sequent_py.replay.reader import (
    RawEvent,
    aggregates_query,
    group_source,
    in_aggregate_order,
    in_order,
    in_position_order,
    read_events,
)
from sequent_py.replay.refold import SpecialAggregate

BATCH_EVENTS = 20_000
"""So far can be read ahead in catch-up, and once rows have spilled: few round trips, bounded memory."""


@dataclass(frozen=True)
class Folding:
    """What the groups of a migration are folded with."""

    event_store_schema: str
    projectors: Sequence[type[Projector]]
    tables: Mapping[type[Record], TableShape]
    event_types: EventTypes
    deferred: DeferredConstraints
    max_rows_in_memory: int
    paths: AccessPaths = field(default_factory=AccessPaths)
    """What handlers look up, learned from one group for the next."""
    compilations: Compilations = field(init=False)
    """Declared projections as SQL, composed for one group and used for the next."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "compilations", Compilations(self.tables))


class GroupFold:
    """One claimed group, and the connections of the worker that claimed it."""

    def __init__(
        self,
        folding: Folding,
        claimed: ClaimedGroup,
        specials: Sequence[SpecialAggregate],
        reader: Connection,
        writer: Connection,
    ) -> None:
        self._folding, self.claimed, self._specials = folding, claimed, specials
        self._reader, self.writer = reader, writer
        self._quarantine = Quarantine(folding.event_store_schema)
        self.projectors = [item for item in folding.projectors if item.ordering == claimed.group.ordering]
        records = {record for item in self.projectors for record in projector_definition(item).records}
        self.tables = {record: table for record, table in folding.tables.items() if record in records}
        # Anew for each group: a worker that goes on from one pass to the next must not miss a type that is new since.
        self._stored_types = stored_event_types(writer, folding.event_store_schema)
        self._persistor, self._fold = self._begin()
        self.events_read = 0
        """How many events the last :meth:`write` has read."""
        self.last_event: RawEvent | None = None
        """The last one of them."""
        self.takes_turns = False
        """Whether :meth:`run` folds one aggregate after another, where :attr:`may_take_turns`. A window has few events of each, and what one touches is then still in
        the processor's cache for the next."""
        self.events_handled = 0
        """How many events handlers were given, of all that this group has read."""

    @property
    def writing(self) -> str | None:
        """The name of the table that was written when the last write failed; None where it is not known."""
        return None if self._persistor.writing is None else self._persistor.writing.name

    def event_type(self, raw: RawEvent) -> str:
        """Return the type of an event that this group has read."""
        return self._fold.event_type(raw[4])

    @property
    def may_take_turns(self) -> bool:
        """Whether its aggregates may be folded one after another instead of all together in position order.

        Where a window is cut into several groups, no handler can count on an order across aggregates.
        """
        group = self.claimed.group
        is_cut = group.lower is not None or group.upper is not None
        return self.claimed.since is not None and group.ordering == "aggregate" and is_cut

    def run(self) -> tuple[int, dict[str, int]]:
        """Fold the whole group, once; return how many events it has, and by how many rows each table has grown.

        Special aggregates that were set aside before and fold now are released.
        """
        events = self._refold()
        fold, row_changes = self._fold, Counter[str]()
        done_in_sql, folded = self._run_in_sql() if self.claimed.since is None else ([], None)
        if folded is not None:
            events += folded.events
            row_changes.update(folded.row_changes)
            others = [item for item in self.projectors if item not in done_in_sql]
            fold = Fold(others, self._persistor, self._folding.event_types, self._stored_types)
        if fold.event_type_ids:
            in_turn = in_aggregate_order if self.takes_turns else in_position_order
            query = in_turn(self._window_source()(fold.event_type_ids))
            with closing(read_events(self._reader, query)) as raw_events:
                events += self._fold_in_batches(raw_events, fold)
        # One flush for special and other aggregates: what one of them gives up and another takes (a unique name) is then no conflict.
        for record, delta in self._persistor.flush().items():
            row_changes[record_shape(record).table_name] += delta.inserted - delta.deleted
        self._check_deferred()
        return events, dict(row_changes)

    def _run_in_sql(self) -> tuple[list[type[Projector]], FoldedInSql | None]:
        """Write the rows of declared projections that SQL can do, of the window of a first pass; which they are, and what that came to.

        None where SQL finds something odd: nothing is written then, and the handlers fold all of it.
        """
        compiled = self._folding.compilations.of(self.projectors, self._stored_types)
        in_sql: list[type[Projector]] = list(compiled.by_projector)
        if not in_sql:
            return [], None
        others = [item for item in self.projectors if item not in in_sql]
        # An event of the group counts once, however many projectors read it.
        counted_elsewhere = handled_type_ids(others, self._stored_types)
        return in_sql, fold_in_server(
            self._reader,
            self.writer,
            self._folding.compilations,
            compiled,
            self._window_source(),
            counted_elsewhere=counted_elsewhere,
        )

    def aggregates(self) -> list[SpecialAggregate]:
        """Return what the group folds, in the order of its beginning in the window; those that were set aside before come last."""
        query = sql.SQL("SELECT aggregate_id FROM ({}) AS e GROUP BY aggregate_id ORDER BY min(position)")
        window = [
            SpecialAggregate(row[0], self.claimed.since, False)  # type: ignore[arg-type]
            for row in self._reader.execute(query.format(self._window_query()))
        ]
        specials = self._folded_specials()
        return [
            *(special for special in specials if special.is_edited),
            *window,
            *(special for special in specials if not special.is_edited),
        ]

    def write(self, aggregates: Sequence[SpecialAggregate] | None, most_events: int | None = None) -> None:
        """Fold some of :meth:`aggregates` and write their rows, on top of what is there; None stands for the whole window.

        ``most_events``: only so many of their events, from the first.
        """
        self.begin_anew()
        self.events_read, self.last_event = 0, None
        if aggregates is None:
            raw_events = read_events(self._reader, self._window_query())
        else:
            self._persistor.delete_aggregates([item.aggregate_id for item in aggregates if item.is_edited])
            raw_events = self._events_of(aggregates)
        with closing(raw_events):
            self._fold_in_batches(self._noted(islice(raw_events, most_events)))
        self._persistor.flush()
        self._check_deferred()

    def delete_failed(self) -> None:
        """Delete the rows of aggregates that were edited and that this very pass has set aside: what was edited is nowhere kept."""
        failed = self._failed_in_this_pass()
        self.begin_anew()
        self._persistor.delete_aggregates(
            [item.aggregate_id for item in self._specials if item.is_edited and item.aggregate_id in failed]
        )

    def begin_anew(self) -> None:
        """Forget what was folded; the caller has rolled back what was written."""
        self._persistor, self._fold = self._begin()

    def _begin(self) -> tuple[ReplayPersistor, Fold]:
        persistor = ReplayPersistor(
            self.writer,
            self.tables,
            backing="none" if self.claimed.since is None else "table",
            max_rows_in_memory=self._folding.max_rows_in_memory,
        )
        fold = Fold(self.projectors, persistor, self._folding.event_types, self._stored_types)
        persistor.read_ahead(fold, self._folding.paths)
        return persistor, fold

    def _check_deferred(self) -> None:
        self._persistor.writing = None
        self._folding.deferred.check(self.writer)

    def _refold(self) -> int:
        """Fold the group's special aggregates; return their events.

        Of edited ones the rows go first, also of those that were set aside in this very pass: what was edited is nowhere kept.
        """
        if not self._specials:
            return 0
        self._persistor.delete_aggregates([item.aggregate_id for item in self._specials if item.is_edited])
        specials = self._folded_specials()
        with closing(self._events_of(specials)) as raw_events:
            events = self._fold_in_batches(in_order(raw_events))
        self._quarantine.release(
            self.writer, [item.aggregate_id for item in specials], self._physical_names()
        )
        return events

    def _folded_specials(self) -> list[SpecialAggregate]:
        failed = self._failed_in_this_pass() if self._specials else ()
        return [special for special in self._specials if special.aggregate_id not in failed]

    def _failed_in_this_pass(self) -> set[UUID]:
        return {
            item.aggregate_id
            for item in self._quarantine.listed(self.writer, self.claimed.migration_id)
            if item.pass_number == self.claimed.pass_number
        }

    def _window_query(self) -> sql.Composed:
        return in_position_order(self._window_source()(self._fold.event_type_ids))

    def _window_source(self) -> Callable[[Sequence[int]], sql.Composed]:
        """Return the group's window, of which each reader names the event types that it wants."""
        schema, claimed = self._folding.event_store_schema, self.claimed
        # As this transaction knows them: a pass that is one transaction with its groups has committed neither. Those edited after
        # the pass's snapshot, in contrast, must be as the reading statement sees them.
        left_out = {
            *(special.aggregate_id for special in self._specials),
            *self._quarantine.left_out_of_all(self.writer, self._physical_names()),
        }
        return lambda event_type_ids: group_source(
            schema,
            claimed.group,
            event_type_ids=event_type_ids,
            since=claimed.since,
            until=claimed.until,
            left_out=left_out,
            left_out_query=edited_after(schema, claimed.until),
        )

    def _physical_names(self) -> list[str]:
        """Return the names of all tables that the pass writes, whatever their ordering."""
        return [table.name for table in self._folding.tables.values()]

    def _events_of(self, aggregates: Sequence[SpecialAggregate]) -> Generator[RawEvent, None, None]:
        """Yield the events of these aggregates, some aggregates at a time; in position order within each."""
        schema, until = self._folding.event_store_schema, self.claimed.until
        by_since: dict[str | None, list[UUID]] = {}
        for item in aggregates:
            by_since.setdefault(item.since, []).append(item.aggregate_id)
        for since, aggregate_ids in by_since.items():
            for start in range(0, len(aggregate_ids), AGGREGATES_PER_STATEMENT):
                query = aggregates_query(
                    schema,
                    aggregate_ids[start : start + AGGREGATES_PER_STATEMENT],
                    event_type_ids=self._fold.event_type_ids,
                    since=since,
                    until=until,
                    left_out_query=edited_after(schema, until),
                )
                with closing(read_events(self._reader, query)) as raw_events:
                    yield from raw_events

    def _noted(self, raw_events: Iterable[RawEvent]) -> Iterator[RawEvent]:
        for raw in raw_events:
            self.events_read += 1
            self.last_event = raw
            yield raw

    def _fold_in_batches(self, raw_events: Iterable[RawEvent], fold: Fold | None = None) -> int:
        """Fold events by all of the group's projectors, or by those of another fold into the same persistor."""
        events, fold = 0, fold or self._fold
        stream = iter(raw_events)
        while batch := list(islice(stream, BATCH_EVENTS)):
            events += fold.apply_batch(batch)
            self.events_handled += len(batch)
        return events
