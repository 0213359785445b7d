"""Verification: shadow rows against a fresh fold of the events, and row counts against the ledger.

The fold runs through the *live* persistor, straight SQL on empty copies of the tables, while the shadow rows were written by the replay
persistor: two implementations, one log. Everything happens in one transaction on temporary tables that is rolled back; the shadow tables
are only read. Columns whose values the database draws (serial ids, ``gen_random_uuid()``) are not compared.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.errors import VerificationFailed
from sequent_py.events import EventTypes
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Projector
from sequent_py.records import Record
from sequent_py.replay.edits import edited_after, edits_in_window
from sequent_py.replay.fold import Fold
from sequent_py.replay.groups import PARTITION_COUNT
from sequent_py.replay.ledger import Connection
from sequent_py.replay.reader import aggregates_query, read_events
from sequent_py.windows import window_condition

SAMPLED_EVENTS = 10_000
"""What a sample may fold in all, by default: the live persistor costs a few statements per event, so this takes some seconds."""
EXAMPLES = 5
_CANDIDATE_PAGES = 200


@dataclass(frozen=True)
class Difference:
    """A row that only one side has."""

    table_name: str
    side: str
    """``shadow`` or ``fold``."""
    values: Mapping[str, object]

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r:.60}" for name, value in self.values.items())
        return f"{self.table_name}: only in the {self.side}: {shown}"


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

    def sample(
        self,
        connection: Connection,
        *,
        until: str,
        size: int,
        since: str | None = None,
        most_events: int = SAMPLED_EVENTS,
    ) -> list[UUID]:
        """Pick up to ``size`` aggregates at random among those with events in the window.

        They have ``most_events`` in all at most, whole histories counted, and none has more than a fifth of that.
        """
        if size <= 0:
            return []
        longest = max(most_events // 5, 1)
        condition = window_condition(since, until)
        found: list[tuple[UUID, int]] = []
        per_partition = -(-size // PARTITION_COUNT)
        for partition in range(PARTITION_COUNT):
            table = sql.Identifier(self._schema, f"events_{partition:02d}")
            escaped = for_parameters(table)
            rows = connection.execute(
                sql.SQL(
                    "WITH candidates AS (SELECT DISTINCT aggregate_id FROM {table} {pages} WHERE {condition}),"
                    " picked AS (SELECT aggregate_id FROM candidates ORDER BY random() LIMIT %(limit)s)"
                    " SELECT p.aggregate_id, c.events FROM picked p, LATERAL (SELECT count(*) AS events FROM (SELECT FROM {table} e"
                    " WHERE e.aggregate_id = p.aggregate_id LIMIT %(longest)s + 1) AS counted) AS c WHERE c.events <= %(longest)s"
                ).format(table=escaped, pages=self._pages(connection, table, since), condition=condition),
                {"limit": per_partition, "longest": longest},
            )
            found.extend((row[0], row[1]) for row in rows)  # type: ignore[misc]
        random.shuffle(found)
        chosen: list[UUID] = []
        events = 0
        for aggregate_id, count in found:
            if len(chosen) < size and events + count <= most_events:
                chosen.append(aggregate_id)
                events += count
        return chosen

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
        self, connection: Connection, reader: Connection, aggregate_ids: Sequence[UUID], *, until: str
    ) -> int:
        """Compare the shadow rows of these aggregates with a fresh fold; return how many were compared.

        ``until`` must be the snapshot that the shadow tables have been replayed to. Aggregates whose events were edited after it are
        not compared: the next pass re-folds them.

        Raises
        ------
        VerificationFailed
            With the first differing rows.
        ProjectionFailed
            A handler raised in the fold.
        """
        aggregate_ids = [item for item in aggregate_ids if item not in self._left_out]
        if not aggregate_ids:
            return 0
        with connection.transaction(force_rollback=True):
            scratch = self._create_scratch_tables(connection)
            fold = Fold(
                self._projectors, LivePersistor(connection, scratch), self._event_types, self._stored_types
            )
            query = aggregates_query(
                self._schema,
                aggregate_ids,
                event_type_ids=fold.event_type_ids,
                until=until,
                left_out_query=edited_after(self._schema, until),
            )
            with closing(read_events(reader, query)) as raw_events:
                fold.apply(raw_events)
            # Asked after reading: whatever edit was read is known by now.
            edited = edits_in_window(connection, self._schema, since=until, until=None).aggregate_ids
            aggregate_ids = [item for item in aggregate_ids if item not in edited]
            differences = [
                difference
                for record, shadow in self._tables.items()
                for difference in _compare(connection, shadow, scratch[record], aggregate_ids)
            ]
        if differences:
            raise VerificationFailed(
                f"The shadow tables differ from a fresh fold of {len(aggregate_ids)} aggregates: "
                + "; ".join(map(str, differences[:EXAMPLES]))
                + ".",
                remedy="A handler that depends on anything but the events of one aggregate, or whose code changed since online, does this. "
                "Mend it, then: sequent migrate abort, sequent migrate online",
            )
        return len(aggregate_ids)

    def _create_scratch_tables(self, connection: Connection) -> dict[type[Record], TableShape]:
        scratch: dict[type[Record], TableShape] = {}
        for number, (record, shadow) in enumerate(self._tables.items()):
            name = f"sequent_fold_{number}"
            connection.execute(
                sql.SQL(
                    "CREATE TEMP TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING GENERATED"
                    " INCLUDING CONSTRAINTS INCLUDING INDEXES) ON COMMIT DROP"
                ).format(sql.Identifier(name), sql.Identifier(shadow.schema, shadow.name))
            )
            row = connection.execute(
                "SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()"
            ).fetchone()
            assert row is not None
            scratch[record] = read_table_shape(connection, shadow.record_shape, str(row[0]), name)
        return scratch

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
                remedy="Something else writes to the shadow tables. Find it, then: sequent migrate abort, sequent migrate online",
            )
        return counts


def _compare(
    connection: Connection, shadow: TableShape, fold: TableShape, aggregate_ids: Sequence[UUID]
) -> list[Difference]:
    shape = shadow.record_shape
    columns = [column for column in shape.columns if column.attribute not in shadow.drawn_defaults]
    if not columns:
        return []
    # json has no equality; jsonb has, and means the same.
    selected = sql.SQL(", ").join(
        sql.SQL("{}::jsonb").format(for_parameters(sql.Identifier(column.name)))
        if column.type_name == "json"
        else for_parameters(sql.Identifier(column.name))
        for column in columns
    )
    condition = sql.SQL("aggregate_id = ANY(%(ids)s)") if shape.has_aggregate_id else sql.SQL("true")
    sides = {
        "shadow": sql.SQL("SELECT {} FROM {} WHERE {}").format(
            selected, for_parameters(sql.Identifier(shadow.schema, shadow.name)), condition
        ),
        "fold": sql.SQL("SELECT {} FROM {} WHERE {}").format(
            selected, for_parameters(sql.Identifier(fold.schema, fold.name)), condition
        ),
    }
    # Without an aggregate_id nobody can say which of the shadow's rows belong to the sample: the fold's must be among them.
    compared = [("fold", "shadow")] + ([("shadow", "fold")] if shape.has_aggregate_id else [])
    differences: list[Difference] = []
    for side, other in compared:
        rows = connection.execute(
            sql.SQL("{} EXCEPT ALL {} LIMIT {}").format(sides[side], sides[other], sql.Literal(EXAMPLES)),
            {"ids": list(aggregate_ids)},
        )
        names = [column.name for column in columns]
        differences.extend(
            Difference(shape.table_name, side, dict(zip(names, row, strict=True))) for row in rows
        )
    return differences
