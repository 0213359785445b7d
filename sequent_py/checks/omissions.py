"""Omissions: of which aggregates a table is known not to be the fold, table by table. Pure.

A replay that sets an aggregate aside does so for all tables that it builds, not for those that other migrations built; and of a table that
was made whole since it is none. What is left out is a projector's work on an aggregate, and what it would have written may be in any table
that it shares: so tables that are written by the same projectors, directly or through others, lack the same aggregates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import record_shape

NONE: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Omissions:
    """By plain name of a table: the aggregates that are left out of its comparison; tables without any are absent."""

    by_table: Mapping[str, frozenset[UUID]]

    def of(self, table: str) -> frozenset[UUID]:
        """Return what is left out of one table."""
        return self.by_table.get(table, NONE)

    @property
    def aggregates(self) -> frozenset[UUID]:
        """What is left out of one table at least."""
        return frozenset().union(*self.by_table.values())

    def among(self, aggregate_ids: Iterable[UUID]) -> Omissions:
        """Return what is left out of these aggregates."""
        wanted = frozenset(aggregate_ids)
        found = {table: aggregates & wanted for table, aggregates in self.by_table.items()}
        return Omissions({table: aggregates for table, aggregates in found.items() if aggregates})

    def to_json(self) -> dict[str, list[str]]:
        """Return a value for :meth:`from_json`."""
        return {table: [str(each) for each in sorted(found)] for table, found in self.by_table.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Sequence[str]]) -> Omissions:
        """Read :meth:`to_json`'s value."""
        return cls({table: frozenset(UUID(text) for text in found) for table, found in document.items()})

    def everywhere(self, tables: Iterable[str]) -> frozenset[UUID]:
        """Return what is left out of all of these tables."""
        found = [self.of(table) for table in tables]
        return frozenset.intersection(*found) if found else NONE

    def projectors(
        self, aggregate_id: UUID, projectors: Sequence[type[Projector]]
    ) -> tuple[type[Projector], ...]:
        """Return the projectors that none of their tables lacks this aggregate for."""
        return tuple(
            item
            for item in projectors
            if not any(aggregate_id in self.of(table) for table in tables_of_projector(item))
        )


NOTHING = Omissions({})


def find_omissions(
    missing: Mapping[str, frozenset[UUID]], projectors: Sequence[type[Projector]]
) -> Omissions:
    """Extend what single tables lack to those that the same projectors write."""
    found = {table: set(aggregates) for table, aggregates in missing.items() if aggregates}
    is_growing = bool(found)
    while is_growing:
        is_growing = False
        for item in projectors:
            tables = tables_of_projector(item)
            lacking = set().union(*(found.get(table, set()) for table in tables))
            for table in tables:
                if lacking - found.get(table, set()):
                    found.setdefault(table, set()).update(lacking)
                    is_growing = True
    return Omissions({table: frozenset(aggregates) for table, aggregates in found.items()})


def tables_of_projector(projector: type[Projector]) -> tuple[str, ...]:
    """Return the plain names of its tables."""
    return tuple(record_shape(record).table_name for record in projector_definition(projector).records)
