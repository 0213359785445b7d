"""Scoped samples: what must be folded together for a sample of aggregates, per ordering.

Under ``aggregate`` each sampled aggregate by itself, under ``partition`` every aggregate of its partition key, under ``global`` everything. Reads only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.event_store.partitions import whole_partitions
from sequent_py.ordering import ORDERINGS, Ordering
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record
from sequent_py.replay.estimate import has_more_events
from sequent_py.replay.groups import WHOLE_STORE
from sequent_py.replay.reader import aggregates_query, group_source, in_position_order

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class ScopedSample:
    """Projectors of one ordering, with aggregates whose events are all that these projectors need for their rows."""

    ordering: Ordering
    projectors: tuple[type[Projector], ...]
    aggregate_ids: tuple[UUID, ...] | None
    """None: all there are."""
    partition_keys: Mapping[UUID, str] = field(default_factory=dict)

    @property
    def records(self) -> frozenset[type[Record]]:
        """The records of the projectors."""
        return frozenset(
            record for projector in self.projectors for record in projector_definition(projector).records
        )

    def without(self, aggregate_ids: Collection[UUID]) -> tuple[UUID, ...] | None:
        """Return the aggregates but for these; None: all there are."""
        if self.aggregate_ids is None:
            return None
        return tuple(item for item in self.aggregate_ids if item not in aggregate_ids)

    def query(
        self,
        schema: str,
        *,
        event_type_ids: Sequence[int],
        until: str,
        left_out_query: sql.Composable | None = None,
    ) -> sql.Composed:
        """Compose the SELECT of the sample's events in position order; see :func:`~sequent_py.replay.reader.group_source`."""
        if self.aggregate_ids is None:
            everything = replace(WHOLE_STORE, ordering=self.ordering)
            source = group_source(
                schema,
                everything,
                event_type_ids=event_type_ids,
                since=None,
                until=until,
                left_out_query=left_out_query,
            )
            return in_position_order(source)
        return aggregates_query(
            schema,
            self.aggregate_ids,
            event_type_ids=event_type_ids,
            until=until,
            left_out_query=left_out_query,
        )


def scoped_samples(
    connection: Connection,
    schema: str,
    projectors: Sequence[type[Projector]],
    aggregate_ids: Sequence[UUID],
    *,
    until: str,
    most_events: int,
) -> tuple[list[ScopedSample], tuple[type[Projector], ...]]:
    """Return the samples, one for each ordering, and the projectors left out because theirs would be of more than ``most_events``.

    Partitions that would be too many or too long are left out one by one, the whole store at once.
    """
    samples: list[ScopedSample] = []
    left_out: list[type[Projector]] = []
    for ordering in ORDERINGS:
        chosen = tuple(projector for projector in projectors if projector.ordering == ordering)
        if not chosen:
            continue
        match ordering:
            case "aggregate":
                samples.append(ScopedSample(ordering, chosen, tuple(aggregate_ids)))
            case "partition":
                found = whole_partitions(connection, schema, aggregate_ids, most_events=most_events)
                samples.append(ScopedSample(ordering, chosen, found.aggregate_ids, found.keys))
                if aggregate_ids and not found.aggregate_ids:
                    left_out += chosen
            case "global" if not has_more_events(connection, schema, until=until, count=most_events):
                samples.append(ScopedSample(ordering, chosen, None))
            case "global":
                left_out += chosen
    return samples, tuple(left_out)
