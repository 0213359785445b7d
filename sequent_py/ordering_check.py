"""The check of declared orderings: a sample of events is folded in memory, traced.

A row that is written from several aggregates cannot be told from its table, only from the events that made it. So a sample of aggregates is folded
in position order through :mod:`sequent_py.persistors.tracing`. Related aggregates have events near each other, so the sample is made of neighbours: everything
that happened after a few random positions, with the whole history of each aggregate. A store that is small enough is folded whole.

Nothing is written but numbers drawn from the sequences of the tables, and rows that do not fit into memory, into temporary tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.errors import OrderingViolated, ProjectionFailed, RecordNotFound
from sequent_py.event_classes import EventTypes
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import TableShape
from sequent_py.persistors.tracing import SharedRow, Tracer, ordering_violated
from sequent_py.projectors import Projector
from sequent_py.records import Record
from sequent_py.replay.edits import edited_after
from sequent_py.replay.estimate import has_more_events
from sequent_py.replay.fold import Fold
from sequent_py.replay.reader import read_events
from sequent_py.scopes import scoped_samples

Connection = psycopg.Connection[Any]

TRACED_EVENTS = 10_000
"""What is folded in all: about a second, and seldom a pair of related aggregates is missed that handlers treat as related."""
ANCHORS = 20
"""Positions from which neighbours are taken."""
LONGEST_SHARE = 5
"""An aggregate with more than this part of the events would be most of the sample: it is left out."""


@dataclass(frozen=True)
class OrderingCheck:
    """What a traced fold found."""

    aggregates: int
    events: int
    shared: tuple[SharedRow, ...]

    def require_none(self) -> None:
        """Refuse to go on where rows were shared.

        Raises
        ------
        OrderingViolated
            With the first of them, and what to declare.
        """
        if self.shared:
            raise ordering_violated(self.shared)


def check_orderings(
    connection: Connection,
    reader: Connection,
    *,
    schema: str,
    projectors: Sequence[type[Projector]],
    tables: Mapping[type[Record], TableShape],
    event_types: EventTypes,
    stored_types: Mapping[str, int],
    until: str,
    left_out: Collection[UUID] = (),
    most_events: int = TRACED_EVENTS,
    on_event: Callable[[], object] = lambda: None,
) -> OrderingCheck:
    """Fold a sample of the events visible in ``until`` and say which rows were shared; not of the aggregates ``left_out``.

    Projectors with the ordering ``global`` may share every row and are not folded. Runs in the caller's transaction, if any. ``on_event`` is called before each event.

    Raises
    ------
    OrderingViolated
        A handler looked for a row that events of other aggregates would have written.
    ProjectionFailed, InvalidPayload
        A handler raised for another reason.
    """
    traced = [projector for projector in projectors if projector.ordering != "global"]
    aggregates, events, shared = 0, 0, list[SharedRow]()
    picked = _neighbours(connection, schema, until=until, most_events=most_events) if traced else []
    picked = [item for item in picked if item not in left_out]
    samples, _ = scoped_samples(connection, schema, traced, picked, until=until, most_events=most_events)
    for sample in samples:
        assert sample.aggregate_ids is not None
        tracer = Tracer(sample.projectors, sample.partition_keys)
        persistor = ReplayPersistor(connection, {record: tables[record] for record in sample.records})
        fold = Fold(sample.projectors, tracer.around(persistor), event_types, stored_types)
        query = sample.query(
            schema,
            event_type_ids=fold.event_type_ids,
            until=until,
            left_out_query=edited_after(schema, until),
        )
        try:
            with closing(read_events(reader, query)) as raw_events:
                events += fold.apply(tracer.watch(raw_events, on_event))
        except ProjectionFailed as error:
            if isinstance(error.__cause__, RecordNotFound):
                raise _misses_a_row(error, sample.ordering) from error
            raise
        aggregates += len(sample.aggregate_ids)
        shared += tracer.shared.values()
    return OrderingCheck(aggregates, events, tuple(shared))


def _misses_a_row(error: ProjectionFailed, ordering: str) -> OrderingViolated:
    """A replay may have found the row because the other aggregate was in the same group."""
    scope = "its aggregate" if ordering == "aggregate" else "the aggregates of its partition key"
    return OrderingViolated(
        f"{error.message} It was folded with the events of {scope} alone, as ordering {ordering!r} says.",
        remedy=f'If another one\'s events write that row, declare a wider ordering in {error.projector}: "partition" or "global";'
        " then: sequent migrate abort, sequent migrate online",
    )


def _neighbours(connection: Connection, schema: str, *, until: str, most_events: int) -> list[UUID]:
    """Pick aggregates that have events near each other and ``most_events`` in all at most; every one where the store has no more."""
    names = {"events": for_parameters(sql.Identifier(schema, "events"))}
    if not has_more_events(connection, schema, until=until, count=most_events):
        rows = connection.execute(sql.SQL("SELECT DISTINCT aggregate_id FROM {events}").format(**names), ())
        return [row[0] for row in rows]
    ends = connection.execute(
        sql.SQL("SELECT min(position), max(position) FROM {events}").format(**names), ()
    )
    [(lowest, highest)] = ends.fetchall()
    anchors = [random.randint(lowest, highest) for _ in range(ANCHORS)]
    neighbours = connection.execute(
        sql.SQL(
            "SELECT n.aggregate_id, h.length FROM ("
            "  SELECT w.aggregate_id, min(a.number) AS anchor"
            "  FROM unnest(%(anchors)s::bigint[]) WITH ORDINALITY AS a (position, number), LATERAL ("
            "    SELECT e.aggregate_id FROM {events} e WHERE e.position >= a.position ORDER BY e.position LIMIT %(each)s) AS w"
            "  GROUP BY w.aggregate_id) AS n, LATERAL ("
            # The last number, not a count: of some thousand aggregates a few dozen fill the sample.
            "    SELECT e.sequence_number AS length FROM {events} e WHERE e.aggregate_id = n.aggregate_id"
            "    ORDER BY e.sequence_number DESC LIMIT 1) AS h"
            " ORDER BY n.anchor"
        ).format(**names),
        {
            "anchors": anchors,
            "each": most_events // ANCHORS // 5,
        },
    ).fetchall()
    chosen: list[UUID] = []
    events = 0
    for aggregate_id, length in neighbours:
        if length <= most_events // LONGEST_SHARE and events + length <= most_events:
            chosen.append(aggregate_id)
            events += length
    return chosen
