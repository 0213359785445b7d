"""Slices: disjoint parts of the aggregates.

A range of aggregate ids reaches rows of aggregates that have no events, which a list of aggregates from the events never would. The ranges
of :func:`cut_ranges` cover every id there can be, so nothing is missed however poor the sample was that they were cut by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import UUID

from psycopg import sql

from sequent_py.replay.groups import PARTITION_COUNT
from sequent_py.replay.ledger import Connection

SAMPLED_PAGES = 400
"""Pages per partition that the boundaries are cut by: at some forty events a page enough for slices of a thousandth of the store."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A half-open range of aggregate ids, or a list of them."""

    lower: UUID | None = None
    upper: UUID | None = None
    aggregate_ids: tuple[UUID, ...] | None = None

    @property
    def is_range(self) -> bool:
        """Whether it holds whatever lies in it, rather than a list."""
        return self.aggregate_ids is None

    def holds(self, aggregate_id: UUID) -> bool:
        """Whether the aggregate lies in it."""
        if self.aggregate_ids is not None:
            return aggregate_id in self.aggregate_ids
        return (self.lower is None or self.lower <= aggregate_id) and (
            self.upper is None or aggregate_id < self.upper
        )

    def condition(self, name: str = "aggregate_id", *, includes_null: bool = False) -> sql.Composed:
        """Return the condition on the column ``name``; the first range takes rows that name no aggregate, if they are asked for."""
        column = sql.Identifier(name)
        if self.aggregate_ids is not None:
            return sql.SQL("{} = ANY ({}::uuid[])").format(
                column, sql.Literal([str(aggregate_id) for aggregate_id in self.aggregate_ids])
            )
        terms: list[sql.Composable] = []
        if self.lower is not None:
            terms.append(sql.SQL("{} >= {}::uuid").format(column, sql.Literal(str(self.lower))))
        if self.upper is not None:
            terms.append(sql.SQL("{} < {}::uuid").format(column, sql.Literal(str(self.upper))))
        inside = sql.SQL(" AND ").join(terms) if terms else sql.SQL("true")
        if includes_null and self.lower is None:
            return sql.SQL("({} OR {} IS NULL)").format(inside, column)
        return sql.SQL("({})").format(inside)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "lower": None if self.lower is None else str(self.lower),
            "upper": None if self.upper is None else str(self.upper),
            "aggregate_ids": None
            if self.aggregate_ids is None
            else [str(aggregate_id) for aggregate_id in self.aggregate_ids],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Slice:
        """Read :meth:`to_json`'s values."""
        ids = document["aggregate_ids"]
        return cls(
            None if document["lower"] is None else UUID(document["lower"]),
            None if document["upper"] is None else UUID(document["upper"]),
            None if ids is None else tuple(map(UUID, ids)),
        )


def cut_ranges(connection: Connection, schema: str, *, total_events: int, target_events: int) -> list[Slice]:
    """Cut all aggregate ids into ranges of about ``target_events`` each; an aggregate is never divided."""
    pieces = max(1, -(-total_events // max(target_events, 1)))
    ids: list[UUID] = []
    if pieces > 1:
        for partition in range(PARTITION_COUNT):
            ids += _sampled(connection, sql.Identifier(schema, f"events_{partition:02d}"))
    return ranges(ids, pieces)


def ranges(sample: Sequence[UUID], pieces: int) -> list[Slice]:
    """Cut at the quantiles of a sample. Pure."""
    ordered = sorted(sample)
    quantiles = {ordered[len(ordered) * piece // pieces] for piece in range(1, pieces)} if ordered else set()
    edges: list[UUID | None] = [None, *sorted(quantiles), None]
    return [Slice(lower, upper) for lower, upper in pairwise(edges)]


def _sampled(connection: Connection, table: sql.Identifier) -> list[UUID]:
    row = connection.execute(
        "SELECT pg_relation_size(%s::regclass) / 8192", (table.as_string(connection),)
    ).fetchone()
    assert row is not None
    pages = max(int(row[0]), 1)  # type: ignore[call-overload]
    percent = min(100.0, 100.0 * SAMPLED_PAGES / pages)
    rows = connection.execute(
        sql.SQL("SELECT aggregate_id FROM {} TABLESAMPLE SYSTEM ({})").format(table, sql.Literal(percent))
    )
    return [found for (found,) in rows]  # type: ignore[misc]


def in_lists(aggregate_ids: Sequence[UUID], size: int) -> list[Slice]:
    """Return slices of up to ``size`` of these aggregates each."""
    return [
        Slice(aggregate_ids=tuple(aggregate_ids[start : start + size]))
        for start in range(0, len(aggregate_ids), size)
    ]
