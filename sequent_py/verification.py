"""Verification: shadow rows against a fresh fold of the events, and row counts against the ledger.

The fold runs through the *live* persistor, straight SQL on empty copies of the tables (through the plain one where an aggregate is very long), while the shadow rows were written by the replay
persistor: two implementations, one log. Everything happens in one transaction on temporary tables that is rolled back; the shadow tables
are only read. Columns whose values the database drew (serial ids, ``gen_random_uuid()``) are not compared. This is the check before a
promotion; ``sequent migrate verify`` (:mod:`sequent_py.view_schema.comparison.verify`) looks at everything.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from typing import cast
from uuid import UUID

from psycopg import sql
from psycopg.pq import TransactionStatus

from sequent_py.checks.comparison import compare, lacking
from sequent_py.checks.contention import repeated
from sequent_py.checks.plain import PlainPersistor
from sequent_py.checks.scratch import ScratchTable, create_scratch_table
from sequent_py.checks.slices import Slice
from sequent_py.database import for_parameters
from sequent_py.errors import VerificationFailed
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.tables import TableShape
from sequent_py.persistors.tracing import Tracer
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, record_shape
from sequent_py.replay.edits import edited_after, edits_in_window
from sequent_py.replay.fold import Fold
from sequent_py.replay.groups import PARTITION_COUNT
from sequent_py.replay.ledger import Connection
from sequent_py.replay.reader import read_events
from sequent_py.scopes import ScopedSample, scoped_samples
from sequent_py.windows import window_condition

SAMPLED_EVENTS = 10_000
"""What a sample may fold in all, by default: the live persistor costs a few statements per event, so this takes some seconds."""
LONG_EVENTS = 5_000
"""An aggregate with more is folded in memory: 10,000 events took 8.5 s by statements and 1.9 s in memory, and 400,000 were not done by statements in ten minutes (busy machine)."""
EXAMPLES = 5
_CANDIDATE_PAGES = 200


class Verification:
    """Checks the shadow tables of one migration."""

    def __init__(
        self,
        *,
        event_store_schema: str,
        projectors: Sequence[type[Projector]],
        tables: Mapping[type[Record], TableShape],
        event_types: EventTypes,
        stored_types: Mapping[str, int],
        left_out: Collection[UUID] = (),
    ) -> None:
        """``left_out``: aggregates that are set aside, of which the tables hold a prefix; they are not compared."""
        self._left_out = frozenset(left_out)
        self._schema = event_store_schema
        self._projectors = projectors
        self._tables = tables
        self._event_types = event_types
        self._stored_types = stored_types
        self._prepared: tuple[Connection, dict[type[Record], ScratchTable]] | None = None
        self._unfolded: set[str] = set()
        self._too_long = 0
        self._long: set[UUID] = set()
        """Aggregates of a sample that statements in one transaction would never get done with; see :meth:`_fold`."""

    @property
    def not_compared(self) -> tuple[str, ...]:
        """Say what samples left out because it would have been too long to fold: tables of an ordering, single aggregates."""
        found = [
            f"{name} was not compared with a fresh fold: its ordering needs more events for that than a sample has."
            " sequent migrate verify --all compares it."
            for name in sorted(self._unfolded)
        ]
        if self._too_long:
            were = "aggregate of the sample was" if self._too_long == 1 else "aggregates of the sample were"
            found.append(
                f"{self._too_long} {were} not compared with a fresh fold, for too many events."
                " sequent migrate verify --all compares them."
            )
        return tuple(found)

    def prepare(self, connection: Connection) -> None:
        """Create the scratch tables ahead; they stay as long as the connection, and checks on it take some milliseconds less per table.

        For a cut-over, in which everybody waits for the last check.
        """
        with connection.transaction():
            self._prepared = connection, self._create_scratch(connection)

    def refresh(self, connection: Connection, *, left_out: Collection[UUID]) -> None:
        """Read the ids of the stored event types again, for new types may have come since; replace what is left out."""
        self._stored_types = stored_event_types(connection, self._schema)
        self._left_out = frozenset(left_out)

    def _create_scratch(
        self, connection: Connection, *, for_one_transaction: bool = False
    ) -> dict[type[Record], ScratchTable]:
        return {
            record: create_scratch_table(connection, table, number, for_one_transaction=for_one_transaction)
            for number, (record, table) in enumerate(self._tables.items())
        }

    def _scratch(self, connection: Connection) -> dict[type[Record], ScratchTable]:
        """Return empty scratch tables, in the caller's transaction, which is to be rolled back."""
        if self._prepared is None or self._prepared[0] is not connection:
            return self._create_scratch(connection, for_one_transaction=True)
        for table in self._prepared[1].values():
            table.empty(connection)
        return self._prepared[1]

    def sample(
        self,
        connection: Connection,
        *,
        until: str,
        size: int,
        since: str | None = None,
        most_events: int = SAMPLED_EVENTS,
        is_any_length: bool = False,
    ) -> list[UUID]:
        """Pick up to ``size`` aggregates at random among those with events in the window, but for those that are set aside.

        They have ``most_events`` in all at most, whole histories counted, and none has more than a fifth of that; :attr:`not_compared` says when
        that left some out. ``is_any_length``: where all that were met are longer, the shortest of them is picked all the same, for a
        sample of nothing would prove nothing.
        """
        if size <= 0:
            return []
        longest = max(most_events // 5, 1)
        condition = window_condition(since, until)
        found: list[tuple[UUID, int]] = []
        too_long: list[UUID] = []
        per_partition = -(-size // PARTITION_COUNT)
        for partition in range(PARTITION_COUNT):
            table = sql.Identifier(self._schema, f"events_{partition:02d}")
            escaped = for_parameters(table)
            rows = connection.execute(
                sql.SQL(
                    "WITH candidates AS (SELECT DISTINCT aggregate_id FROM {table} {pages} WHERE {condition}"
                    " AND aggregate_id <> ALL (%(left_out)s::uuid[])),"
                    " picked AS (SELECT aggregate_id FROM candidates ORDER BY random() LIMIT %(limit)s)"
                    " SELECT p.aggregate_id, c.events FROM picked p, LATERAL (SELECT count(*) AS events FROM (SELECT FROM {table} e"
                    " WHERE e.aggregate_id = p.aggregate_id LIMIT %(longest)s + 1) AS counted) AS c"
                ).format(table=escaped, pages=self._pages(connection, table, since), condition=condition),
                {"limit": per_partition, "longest": longest, "left_out": list(self._left_out)},
            )
            for aggregate_id, count in cast(Iterable[tuple[UUID, int]], rows):
                if count <= longest:
                    found.append((aggregate_id, count))
                else:
                    too_long.append(aggregate_id)
        random.shuffle(found)
        chosen: list[UUID] = []
        events = 0
        for aggregate_id, count in found:
            if len(chosen) < size and events + count <= most_events:
                chosen.append(aggregate_id)
                events += count
        if is_any_length and not chosen and too_long:
            chosen.append(shortest := self._shortest(connection, too_long))
            too_long.remove(shortest)
        self._too_long += len(too_long)
        return chosen

    def _shortest(self, connection: Connection, aggregate_ids: Sequence[UUID]) -> UUID:
        row = connection.execute(
            sql.SQL(
                "SELECT aggregate_id, count(*) FROM {} WHERE aggregate_id = ANY (%s) GROUP BY aggregate_id ORDER BY count(*), aggregate_id LIMIT 1"
            ).format(for_parameters(sql.Identifier(self._schema, "events"))),
            (list(aggregate_ids),),
        ).fetchone()
        assert row is not None
        aggregate_id, events = cast(tuple[UUID, int], row)
        if events > LONG_EVENTS:
            self._long.add(aggregate_id)
        return aggregate_id

    @staticmethod
    def _pages(connection: Connection, table: sql.Identifier, since: str | None) -> sql.Composable:
        """Sample pages of a large partition; a window is read whole, by its index."""
        if since is not None:
            return sql.SQL("")
        row = connection.execute(
            "SELECT pg_relation_size(%s::regclass) / 8192", (table.as_string(connection),)
        ).fetchone()
        assert row is not None
        pages = int(row[0])  # type: ignore[call-overload]
        if pages <= _CANDIDATE_PAGES:
            return sql.SQL("")
        return sql.SQL("TABLESAMPLE SYSTEM ({})").format(sql.Literal(100.0 * _CANDIDATE_PAGES / pages))

    def check_aggregates(
        self,
        connection: Connection,
        reader: Connection,
        aggregate_ids: Sequence[UUID],
        *,
        until: str,
        most_events: int = SAMPLED_EVENTS,
    ) -> int:
        """Compare the shadow rows of these aggregates with a fresh fold; return how many were compared.

        ``until`` must be the snapshot that the shadow tables have been replayed to. Aggregates whose events were edited after it are
        not compared: the next pass re-folds them. Tables with the ordering ``partition`` are compared by whole partitions of the aggregates, those with
        ``global`` as a whole, where ``most_events`` are enough for that; :attr:`not_compared` names the others.

        Raises
        ------
        VerificationFailed
            With the first differing rows.
        OrderingViolated
            A handler met rows of other aggregates, or partition keys, than its projector's ordering says.
        ProjectionFailed
            A handler raised in the fold.
        psycopg.OperationalError
            A deadlock or a lock that could not be had, each time that the fold was tried again.
        """
        aggregate_ids = [item for item in aggregate_ids if item not in self._left_out]
        if not aggregate_ids:
            return 0
        samples, unfolded = scoped_samples(
            connection, self._schema, self._projectors, aggregate_ids, until=until, most_events=most_events
        )
        self._unfolded |= {
            record_shape(record).table_name
            for projector in unfolded
            for record in projector_definition(projector).records
        }

        def found() -> tuple[frozenset[UUID], list[str]]:
            return self._folded_and_compared(connection, reader, samples, until)

        # In a transaction of the caller's, a cut-over for example, it is for that to be tried again.
        is_alone = connection.info.transaction_status == TransactionStatus.IDLE
        edited, differences = repeated(found) if is_alone else found()
        aggregate_ids = [item for item in aggregate_ids if item not in edited]
        if differences:
            raise VerificationFailed(
                f"The shadow tables differ from a fresh fold of {len(aggregate_ids)} aggregates: "
                + "; ".join(differences[:EXAMPLES])
                + ".",
                remedy="A handler that depends on anything but the events of one aggregate, or whose code changed since online, does this: "
                "see sequent migrate verify. Mend it, then: sequent migrate abort, sequent migrate online.",
                differences=differences,
            )
        return len(aggregate_ids)

    def _folded_and_compared(
        self, connection: Connection, reader: Connection, samples: Sequence[ScopedSample], until: str
    ) -> tuple[frozenset[UUID], list[str]]:
        """Return which aggregates were edited meanwhile, and what differs but for these; writes nothing that stays."""
        with connection.transaction(force_rollback=True):
            scratch = self._scratch(connection)
            for sample in samples:
                self._fold(connection, reader, scratch, sample, until)
            # Asked after reading: whatever edit was read is known by now.
            edited = edits_in_window(connection, self._schema, since=until, until=None).aggregate_ids
            differences = [
                difference
                for sample in samples
                # Only single aggregates can be left out; with another ordering the next pass refuses the edit.
                if sample.ordering == "aggregate" or not edited
                for record in self._tables
                if record in sample.records
                for difference in _differences(connection, scratch[record], sample.without(edited))
            ]
        return edited, differences

    def _fold(
        self,
        connection: Connection,
        reader: Connection,
        scratch: Mapping[type[Record], ScratchTable],
        sample: ScopedSample,
        until: str,
    ) -> None:
        """Fold a sample into the scratch tables, and look who meets which rows.

        A very long aggregate is folded through the plain persistor: here no version of a row goes before the end of the transaction, and statements
        would look at all of them with every update.
        """
        tracer = Tracer(sample.projectors, sample.partition_keys)
        tables = {record: table.fold for record, table in scratch.items()}
        is_long = not self._long.isdisjoint(sample.aggregate_ids or ())
        plain = PlainPersistor(connection, tables) if is_long else None
        fold = Fold(
            sample.projectors,
            tracer.around(plain or LivePersistor(connection, tables)),
            self._event_types,
            self._stored_types,
        )
        query = sample.query(
            self._schema,
            event_type_ids=fold.event_type_ids,
            until=until,
            left_out_query=edited_after(self._schema, until),
        )
        with closing(read_events(reader, query)) as raw_events:
            fold.apply(tracer.watch(raw_events))
        if plain is not None:
            plain.flush()
        tracer.require_none()

    def count_rows(self, connection: Connection) -> dict[str, int]:
        """Count the rows of every shadow table, by the table's plain name."""
        counts = {}
        for shadow in self._tables.values():
            row = connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(shadow.schema, shadow.name))
            ).fetchone()
            assert row is not None
            counts[shadow.record_shape.table_name] = int(row[0])  # type: ignore[call-overload]
        return counts

    def check_counts(self, connection: Connection, expected: Mapping[str, int]) -> dict[str, int]:
        """Compare the tables' row counts with what all groups say they wrote; return the counts.

        Raises
        ------
        VerificationFailed
            Something else wrote to a shadow table, or a group was lost or done twice.
        """
        counts = self.count_rows(connection)
        wrong = [
            f"{name} has {count} rows, its groups wrote {expected.get(name, 0)}"
            for name, count in counts.items()
            if count != expected.get(name, 0)
        ]
        if wrong:
            raise VerificationFailed(
                f"Row counts do not agree with the ledger: {'; '.join(wrong)}.",
                remedy="Something else writes to the shadow tables. Find it, then: sequent migrate abort, sequent migrate online.",
                differences=wrong,
            )
        return counts


def _differences(
    connection: Connection, table: ScratchTable, aggregate_ids: Sequence[UUID] | None
) -> list[str]:
    """Compare the rows of these aggregates (left; None: all rows) with their fold (right), and say what differs."""
    columns = table.compared(table.drawn(connection))
    shadow = sql.Identifier(table.original.schema, table.original.name)
    if aggregate_ids is None:
        found = compare(
            connection,
            sql.SQL("(SELECT * FROM {}) s").format(shadow),
            sql.SQL("(SELECT * FROM {}) f").format(table.relation),
            columns=columns,
            key=table.key(connection, [column.name for column in columns]),
            examples=EXAMPLES,
        )
    elif table.aggregate_column is None:
        # Nobody can say which of the shadow's rows belong to the sample: the fold's must be among them.
        found = lacking(connection, shadow, table.relation, columns=columns, examples=EXAMPLES)
    else:
        own = Slice(aggregate_ids=tuple(aggregate_ids)).condition(table.aggregate_column)
        found = compare(
            connection,
            sql.SQL("(SELECT * FROM {} WHERE {}) s").format(shadow, own),
            sql.SQL("(SELECT * FROM {} WHERE {}) f").format(table.relation, own),
            columns=columns,
            key=table.key(connection, [column.name for column in columns]),
            examples=EXAMPLES,
        )
    return [
        *(f"{table.name}: only in the shadow: {text}" for text in found.described_left),
        *(f"{table.name}: only in the fold: {text}" for text in found.described_right),
        *(f"{table.name}: {change}" for change in found.changed_examples),
    ]
