"""Staging: the events and rows of a slice, copied from one snapshot into temporary tables of a connection.

The tables are locked ACCESS SHARE before the snapshot is taken, so that no swap can come between the snapshot and the rows. Live: the
gate's row, in the same snapshot, must still name the version that is checked. Shadow: the ledger, in the same snapshot, says up to which
snapshot the tables have been replayed; a group's rows and its mark are one commit, so tables and ledger agree. A pass that is under way is
waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from psycopg import errors as pg
from psycopg import sql

from sequent_py.checks.omissions import NONE, Omissions, find_omissions
from sequent_py.checks.scratch import aggregate_column
from sequent_py.checks.slices import Slice
from sequent_py.errors import EventsEdited, MigrationError
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.event_store.gate import Gate
from sequent_py.persistors.tables import TableShape
from sequent_py.projectors import Projector
from sequent_py.records import Record
from sequent_py.replay import fence
from sequent_py.replay.edits import edits_in_window
from sequent_py.replay.estimate import current_snapshot
from sequent_py.replay.fold import handled_type_ids
from sequent_py.replay.ledger import Connection, Ledger
from sequent_py.replay.quarantine import Quarantine
from sequent_py.replay.reader import RawEvent, read_events
from sequent_py.replay.refold import BEGIN_ANEW
from sequent_py.windows import window_condition

CHUNK_EVENTS = 20_000
"""Staged events that are in memory at once."""
INDEXED_EVENTS = 10 * CHUNK_EVENTS
"""With more, staged events are indexed, so that what a chunk costs does not grow with their number."""
POLL_SECONDS = 0.1

_EVENTS = sql.Identifier("pg_temp", "sequent_staged_events")
_EVENT_COLUMNS = sql.SQL(
    "position, created_at, aggregate_id, sequence_number, event_type_id, payload, metadata"
)


@dataclass(frozen=True, slots=True)
class Target:
    """Which tables are checked, and as of when."""

    event_store_schema: str
    version: int
    migration_id: int | None = None
    """The unfinished migration whose shadow tables are checked; None: the live tables."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What a snapshot was like."""

    until: str | None
    """How far shadow tables have been replayed; None of live tables."""
    event_types: Mapping[str, int]
    omissions: Omissions
    """Aggregates of which a table is known not to be the fold: set aside by a replay, or, of all shadow tables, edited since their last
    pass, for the next one to re-fold."""


class Staging:
    """The staged copies of one target's tables on one connection."""

    def __init__(
        self,
        connection: Connection,
        target: Target,
        projectors: Sequence[type[Projector]],
        tables: Mapping[type[Record], TableShape],
    ) -> None:
        self._connection = connection
        self._target = target
        self._projectors = projectors
        self._tables = tables
        self._staged = {
            record: sql.Identifier("pg_temp", f"sequent_staged_{number}")
            for number, record in enumerate(tables)
        }

    def prepare(self) -> None:
        """Create the temporary tables, once per connection."""
        self._connection.execute(
            sql.SQL("CREATE TEMP TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(
                _EVENTS, _EVENT_COLUMNS, sql.Identifier(self._target.event_store_schema, "events")
            )
        )
        for record, staged in self._staged.items():
            table = self._tables[record]
            self._connection.execute(
                sql.SQL("CREATE TEMP TABLE {} AS SELECT * FROM {} WITH NO DATA").format(
                    staged, sql.Identifier(table.schema, table.name)
                )
            )

    def rows(self, record: type[Record]) -> sql.Identifier:
        """Return the relation with a table's staged rows."""
        return self._staged[record]

    def count(self, record: type[Record]) -> int:
        """Count a table's staged rows."""
        row = self._connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(self._staged[record])
        ).fetchone()
        assert row is not None
        rows: Any = row[0]
        return int(rows)

    def stage(self, which: Slice, records: Sequence[type[Record]]) -> Staged:
        """Copy a slice's events, but for aggregates that every table lacks, and its rows of these tables, but for aggregates that the table lacks."""
        connection = self._connection
        with self._one_snapshot(records) as staged:
            ids = sorted(handled_type_ids(self._projectors, staged.event_types))
            copied = connection.execute(
                sql.SQL(
                    "INSERT INTO {} SELECT {} FROM {} WHERE {} AND event_type_id = ANY({}::int[]) AND {} AND {}"
                ).format(
                    _EVENTS,
                    _EVENT_COLUMNS,
                    sql.Identifier(self._target.event_store_schema, "events"),
                    which.condition(),
                    sql.Literal(ids),
                    window_condition(None, staged.until),
                    _but_for(staged.omissions.everywhere(self._names()), "aggregate_id"),
                )
            )
            for record in records:
                owner = self._owner(record)
                self._copy_rows(
                    record,
                    sql.SQL("{} AND {}").format(
                        which.condition(owner, includes_null=True),
                        _but_for(staged.omissions.of(self._name(record)), owner),
                    ),
                )
        if copied.rowcount > INDEXED_EVENTS:
            self._index_events()
        return staged

    def _index_events(self) -> None:
        """Let each chunk of a long aggregate be found without a look at all of them."""
        self._connection.execute(
            sql.SQL("CREATE INDEX IF NOT EXISTS sequent_staged_positions ON {} (position)").format(_EVENTS)
        )
        # Else nothing tells the planner that the events lie in this order.
        self._connection.execute(sql.SQL("ANALYZE {}").format(_EVENTS))

    def stage_whole(self, records: Sequence[type[Record]]) -> Staged:
        """Copy whole tables, without events; none of those that lack an aggregate."""
        with self._one_snapshot(records) as staged:
            if staged.until is None:
                # What this transaction sees, as a value: another connection reads exactly that later.
                staged = replace(staged, until=current_snapshot(self._connection))
            for record in records:
                if not staged.omissions.of(self._name(record)):
                    self._copy_rows(record, sql.SQL("true"))
        return staged

    def _name(self, record: type[Record]) -> str:
        return self._tables[record].record_shape.table_name

    def _names(self) -> list[str]:
        return [self._name(record) for record in self._tables]

    def _owner(self, record: type[Record]) -> str:
        column = aggregate_column(self._tables[record])
        assert column is not None, "slices are for tables whose rows name their aggregate"
        return column

    def _copy_rows(self, record: type[Record], condition: sql.Composable) -> None:
        table = self._tables[record]
        self._connection.execute(
            sql.SQL("INSERT INTO {} SELECT * FROM {} WHERE {}").format(
                self._staged[record], sql.Identifier(table.schema, table.name), condition
            )
        )

    def events(self) -> Iterator[list[RawEvent]]:
        """Yield the staged events in position order, in lists: nothing else could run on the connection beside a stream."""
        after = -1
        while True:
            query = sql.SQL("SELECT {} FROM {} WHERE position > {} ORDER BY position LIMIT {}").format(
                _EVENT_COLUMNS, _EVENTS, sql.Literal(after), sql.Literal(CHUNK_EVENTS)
            )
            chunk = list(read_events(self._connection, query))
            if chunk:
                yield chunk
            if len(chunk) < CHUNK_EVENTS:
                return
            after = chunk[-1][0]

    @contextmanager
    def _one_snapshot(self, records: Sequence[type[Record]]) -> Iterator[Staged]:
        """Open the transaction that stages: tables locked, snapshot taken, version seen."""
        connection, target = self._connection, self._target
        self._refuse_other_version()
        # TRUNCATE of a temporary table is a catalog change: outside, so that the snapshot's transaction stays as short as can be.
        for relation in (_EVENTS, *self._staged.values()):
            connection.execute(sql.SQL("TRUNCATE {}").format(relation))
        while True:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                # LOCK TABLE takes no snapshot: the next statement does, once no swap of these tables can be under way.
                self._lock(records)
                self._refuse_other_version()
                until = self._replayed_until()
                if until is not None or target.migration_id is None:
                    event_types = stored_event_types(connection, target.event_store_schema)
                    yield Staged(until, event_types, self._omissions(until))
                    return
            if fence.coordinator(connection, target.event_store_schema) is None:
                raise MigrationError(
                    "The shadow tables are between two snapshots: a pass is unfinished, and nobody is at work on it.",
                    remedy="Run: sequent migrate online, then sequent migrate verify",
                )
            time.sleep(POLL_SECONDS)

    def _omissions(self, until: str | None) -> Omissions:
        schema = self._target.event_store_schema
        names = {table.name: table.record_shape.table_name for table in self._tables.values()}
        found = Quarantine(schema).left_out_by_table(self._connection, names)
        missing = {names[physical]: aggregates for physical, aggregates in found.items()}
        if until is None:
            return find_omissions(missing, self._projectors)
        edits = edits_in_window(self._connection, schema, since=until, until=None)
        if edits.boundless:
            raise EventsEdited(
                "Events were truncated since the last pass: nobody can say which rows of the shadow tables still hold.",
                remedy=BEGIN_ANEW,
            )
        return find_omissions(
            {name: missing.get(name, NONE) | edits.aggregate_ids for name in names.values()}, self._projectors
        )

    def _lock(self, records: Sequence[type[Record]]) -> None:
        tables = [self._tables[record] for record in records]
        if not tables:
            return
        try:
            self._connection.execute(
                sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(
                    sql.SQL(", ").join(sql.Identifier(table.schema, table.name) for table in tables)
                )
            )
        except pg.UndefinedTable as error:
            raise MigrationError(
                f"The tables were renamed or dropped while they were being checked: {error.diag.message_primary}.",
                remedy="See: sequent migrate status",
            ) from error

    def _refuse_other_version(self) -> None:
        target = self._target
        live_version = Gate(target.event_store_schema).read(self._connection).live_version
        if target.migration_id is None and live_version != target.version:
            raise MigrationError(
                f"Version {live_version} went live while version {target.version} was being checked.",
                remedy="Run it again with the code of the live version: sequent migrate verify",
            )
        if target.migration_id is not None and live_version >= target.version:
            raise MigrationError(
                f"Version {live_version} went live while its tables were being checked beside the live ones.",
                remedy="Check them where they are: sequent migrate verify",
            )

    def _replayed_until(self) -> str | None:
        """Return the snapshot that the shadow tables stand at; None while a pass is under way, and for live tables."""
        migration_id = self._target.migration_id
        if migration_id is None:
            return None
        ledger = Ledger(self._target.event_store_schema)
        last = ledger.latest_pass(self._connection, migration_id)
        if last is None:
            raise MigrationError(
                f"View migration {migration_id} has been given up.", remedy="See: sequent migrate status"
            )
        return None if ledger.has_unfinished(self._connection, migration_id) else last.until


def _but_for(left_out: frozenset[UUID], column: str) -> sql.Composable:
    """Compose a condition that leaves aggregates out, and rows that name none in."""
    if not left_out:
        return sql.SQL("true")
    return sql.SQL("({} = ANY ({}::uuid[])) IS NOT TRUE").format(
        sql.Identifier(column), sql.Literal([str(aggregate_id) for aggregate_id in sorted(left_out)])
    )
