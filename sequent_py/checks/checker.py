"""The checker: compares slices of managed tables with a fresh fold of their events, one connection each.

A slice is staged (:mod:`~sequent_py.checks.staging`), its staged events are folded into scratch tables, and those are compared with the staged rows. There are two folds:

* by statements, through the live persistor (:mod:`~sequent_py.checks.scratch_fold`), for slices that are lists, and for whole tables;
* in memory, through the plain persistor (:mod:`~sequent_py.checks.plain_fold`), for ranges, of which there are many. Where its rows differ from the table's, or it fails,
  the slice is folded by statements as well, and what that says counts: nobody is told of a difference that the application's own persistor would not make.

Neither has anything in common with the replay's memory. Writes to temporary tables only. A process that dies leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.checks.comparison import RelationComparison, compare
from sequent_py.checks.omissions import Omissions, tables_of_projector
from sequent_py.checks.plain_fold import PlainFold
from sequent_py.checks.scratch import ScratchTable, create_scratch_table
from sequent_py.checks.scratch_fold import ScratchFold
from sequent_py.checks.slices import Slice
from sequent_py.checks.staging import Staged, Staging, Target
from sequent_py.errors import SequentError
from sequent_py.event_classes import EventTypes
from sequent_py.persistors.tables import TableShape
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record
from sequent_py.replay.groups import WHOLE_STORE
from sequent_py.replay.ledger import Connection
from sequent_py.replay.reader import RawEvent, group_source, in_position_order, read_events

EXAMPLES = 5


@dataclass(frozen=True)
class SliceResult:
    """What one slice showed."""

    events: int
    rows: Mapping[str, int]
    """Rows that the slice has in each table."""
    comparisons: Mapping[str, RelationComparison]
    uncompared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns that could not be compared, because the fold drew them."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By table that lacks any: aggregates of the slice that were not compared in it, set aside by a replay or edited since the last pass."""
    strayed: tuple[str, ...] = ()
    """Tables to which the slice's events wrote rows of other aggregates: they can only be compared whole."""
    is_disputed: bool = False
    """Whether the fold in memory made other rows than the tables have, and the one by statements the same."""

    @property
    def is_equal(self) -> bool:
        """Whether no row differs."""
        return not any(comparison.differences for comparison in self.comparisons.values())


class SliceChecker:
    """Checks slices on one autocommit connection, which nobody else uses meanwhile."""

    def __init__(
        self,
        connection: Connection,
        target: Target,
        projectors: Sequence[type[Projector]],
        tables: Mapping[type[Record], TableShape],
        event_types: EventTypes,
    ) -> None:
        self._connection = connection
        self._schema = target.event_store_schema
        self._projectors = projectors
        self._event_types = event_types
        self._scratch: dict[type[Record], ScratchTable] = {}
        self._staging = Staging(connection, target, projectors, tables)
        self._tables = tables
        self._prepare()

    def _prepare(self) -> None:
        connection = self._connection
        with connection.transaction():
            # Nothing of what is committed here is worth waiting for a disk.
            connection.execute("SET synchronous_commit = off")
            connection.execute("SET jit = off")
            self._staging.prepare()
            for number, (record, table) in enumerate(self._tables.items()):
                self._scratch[record] = create_scratch_table(connection, table, number)

    def check(self, which: Slice, tables: Sequence[str]) -> SliceResult:
        """Compare the slice's rows in these tables (plain names), which have an ``aggregate_id``.

        Raises
        ------
        MigrationError
            The tables are no longer those that were to be checked.
        ProjectionFailed, InvalidPayload
            The code cannot fold an event.
        """
        records = self._records(tables)
        staged = self._staging.stage(which, records)
        in_memory = self._folded_in_memory(which, records, staged)
        if in_memory is not None and in_memory.is_equal:
            return in_memory
        fold = self._fold(self._projectors, staged)
        with fold.opened():
            events = sum(fold.apply(chunk) for chunk in self._staging.events())
            result = self._slice_result(which, records, staged, events)
        return replace(result, is_disputed=in_memory is not None and result.is_equal)

    def _folded_in_memory(
        self, which: Slice, records: Sequence[type[Record]], staged: Staged
    ) -> SliceResult | None:
        """Return what the plain fold of a range shows; None where it is none, or the fold fails."""
        if not which.is_range:
            return None
        fold = PlainFold(
            self._connection,
            self._scratch,
            self._projectors,
            self._event_types,
            staged.event_types,
            staged.omissions,
        )
        try:
            events = fold.run(self._staging.events())
        except (SequentError, psycopg.Error):
            # The fold by statements says it, if it is so.
            return None
        return self._slice_result(which, records, staged, events)

    def _slice_result(
        self, which: Slice, records: Sequence[type[Record]], staged: Staged, events: int
    ) -> SliceResult:
        """Compare what was folded; while the scratch tables have it."""
        strayed = [record for record in records if which.is_range and self._has_strays(record, which)]
        return self._result(
            records,
            events,
            own=None if which.is_range else which,
            left_out=self._left_out(records, staged.omissions, which),
            strayed=strayed,
        )

    def check_whole(self, reader: Connection, tables: Sequence[str], on_events: Any = None) -> SliceResult:
        """Compare whole tables with a fold of all events, in position order; for rows that cannot be attributed to an aggregate.

        Not compared are tables of which aggregates would have to be left out; the result names those. Copies the tables, but not the log: a second connection streams the events that the copy's snapshot sees. Edits of events meanwhile
        would go unnoticed; the caller looks for them. The reading is one statement, as long as the fold takes, which vacuum waits for.
        """
        records = self._records(tables)
        staged = self._staging.stage_whole(records)
        # Which rows are theirs, nobody knows.
        left_out = self._left_out(records, staged.omissions, Slice())
        records = [record for record in records if self._scratch[record].name not in left_out]
        if not records:
            return SliceResult(0, {}, {}, left_out=left_out)
        assert staged.until is not None
        projectors = [
            item
            for item in self._projectors
            if not any(staged.omissions.of(table) for table in tables_of_projector(item))
        ]
        fold = self._fold(projectors, replace(staged, omissions=Omissions({})))
        source = group_source(
            self._schema, WHOLE_STORE, event_type_ids=fold.event_type_ids, since=None, until=staged.until
        )
        with fold.opened():
            with closing(read_events(reader, in_position_order(source))) as raw_events:
                events = fold.apply(_counted(raw_events, on_events))
            return self._result(records, events, left_out=left_out)

    def _records(self, tables: Sequence[str]) -> list[type[Record]]:
        return [record for record, table in self._scratch.items() if table.name in tables]

    def _result(
        self,
        records: Sequence[type[Record]],
        events: int,
        *,
        own: Slice | None = None,
        left_out: Mapping[str, tuple[str, ...]],
        strayed: Sequence[type[Record]] = (),
    ) -> SliceResult:
        names = {record: self._scratch[record].name for record in records}
        results = {record: self._compare(record, own) for record in records}
        return SliceResult(
            events,
            {names[record]: self._staging.count(record) for record in records},
            {names[record]: results[record][0] for record in records},
            {names[record]: results[record][1] for record in records},
            left_out,
            tuple(names[record] for record in strayed),
        )

    def _left_out(
        self, records: Sequence[type[Record]], omissions: Omissions, which: Slice
    ) -> dict[str, tuple[str, ...]]:
        found = {
            self._scratch[record].name: tuple(
                str(item) for item in sorted(omissions.of(self._scratch[record].name)) if which.holds(item)
            )
            for record in records
        }
        return {table: aggregates for table, aggregates in found.items() if aggregates}

    def _fold(self, projectors: Sequence[type[Projector]], staged: Staged) -> ScratchFold:
        return ScratchFold(
            self._connection,
            self._scratch,
            projectors,
            self._event_types,
            staged.event_types,
            staged.omissions,
        )

    def _has_strays(self, record: type[Record], which: Slice) -> bool:
        row = self._connection.execute(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE ({}) IS NOT TRUE)").format(
                self._scratch[record].relation, which.condition(_owner(self._scratch[record]))
            )
        ).fetchone()
        assert row is not None
        return bool(row[0])

    def _compare(
        self, record: type[Record], which: Slice | None
    ) -> tuple[RelationComparison, tuple[str, ...]]:
        """Compare what was staged (left) with the fold (right); of listed aggregates only their own rows."""
        scratch = self._scratch[record]
        columns = scratch.compared(scratch.drawn(self._connection))
        names = [column.name for column in columns]
        own = sql.SQL("true") if which is None else which.condition(_owner(self._scratch[record]))
        comparison = compare(
            self._connection,
            self._staging.rows(record),
            sql.SQL("(SELECT * FROM {} WHERE {}) f").format(scratch.relation, own),
            columns=columns,
            key=scratch.key(self._connection, names),
            examples=EXAMPLES,
        )
        return comparison, tuple(c.name for c in scratch.columns if c.name not in names)


def _owner(table: ScratchTable) -> str:
    column = table.aggregate_column
    assert column is not None, "slices are for tables whose rows name their aggregate"
    return column


def tables_of_projectors(projectors: Sequence[type[Projector]]) -> dict[type[Record], None]:
    """Return the records that projectors manage, each once."""
    return dict.fromkeys(record for item in projectors for record in projector_definition(item).records)


def _counted(raw_events: Iterator[RawEvent], on_events: Any) -> Iterator[RawEvent]:
    for number, raw_event in enumerate(raw_events, 1):
        yield raw_event
        if on_events is not None and number % 1_000 == 0:
            on_events(1_000)
