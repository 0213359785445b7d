"""Completeness: which look-ups memory can answer without asking the relation behind it.

Remembered per value of a look-up: that every matching row is in memory, or how far from one end of the order they are. Only ever a saving: whatever is
forgotten is read again. All of it ends when rows leave memory, for nobody knows then whose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sequent_py.persistors.generators import Key
from sequent_py.persistors.indexes import Lookup

_MOST_REMEMBERED = 100_000
"""Look-ups that are remembered, at some 200 bytes each. More are forgotten all at once: remembering is only a saving."""

Place = tuple[tuple[str, ...], Any, str]
"""The attributes of a look-up, their value, and the order in which rows are wanted: "ASC" or "DESC"."""


class AggregateFilter:
    """Which aggregates a spill may have rows of, as a Bloom filter of fixed size.

    Without it every new aggregate would cost a query once something has been spilled. Two bits in 2 MiB: of a million aggregates 1 % are
    asked for in vain, of five million 20 %.
    """

    __slots__ = ("_bits",)
    _MASK = (1 << 24) - 1

    def __init__(self) -> None:
        self._bits = bytearray((self._MASK + 1) // 8)

    def add(self, aggregate: Any) -> None:
        """Remember an aggregate."""
        for place in self._places(aggregate):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, aggregate: Any) -> bool:
        """Whether the aggregate may have been added."""
        return all(self._bits[place >> 3] >> (place & 7) & 1 for place in self._places(aggregate))

    def _places(self, aggregate: Any) -> tuple[int, int]:
        # Multiplied, because ids that somebody numbers differ in few bits.
        mixed = hash(aggregate) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        return mixed >> 40, mixed >> 16 & self._MASK


@dataclass(frozen=True, slots=True)
class Reach:
    """How far rows are in memory, from one end of the order: all of the relation's up to ``end``, ``size`` of them."""

    end: Key
    size: int

    def decides(self, key: Key, order: str) -> bool:
        """Whether ``key``, the first one in memory, is the first of all."""
        if key is None:
            return False
        return bool(key <= self.end if order == "ASC" else key >= self.end)


class Completeness:
    """What one relation's rows in memory are complete for."""

    def __init__(self, *, is_relation_empty: bool) -> None:
        self._is_empty = is_relation_empty
        self._values: set[tuple[tuple[str, ...], Any]] = set()
        self._reaches: dict[Place, Reach] = {}
        self.aggregates: set[Any] = set()
        """Of these every row is in memory."""
        self._seen = AggregateFilter() if is_relation_empty else None

    @property
    def is_whole(self) -> bool:
        """Whether every row is in memory."""
        return self._is_empty or ((), ()) in self._values

    def covers(self, lookup: Lookup, value: Any) -> bool:
        """Whether every row is in memory that matches one value of a look-up."""
        if self.is_whole:
            return True
        attributes = lookup.attributes
        if "aggregate_id" in attributes:
            aggregate = value if len(attributes) == 1 else value[attributes.index("aggregate_id")]
            if aggregate in self.aggregates or not self.may_hold(aggregate):
                return True
        return (attributes, value) in self._values

    def covered(self, lookup: Lookup, values: Iterable[Any]) -> Iterable[Any]:
        """Return those of a look-up's values that :meth:`covers` says yes to."""
        if self._seen is None and not self.is_whole:
            if lookup.is_by_aggregate:
                return self.aggregates.intersection(values)
            if not self.aggregates and not self._values:
                return ()
        return [value for value in values if self.covers(lookup, value)]

    def may_hold(self, aggregate: Any) -> bool:
        """Whether the relation may have rows of an aggregate."""
        return self._seen is None or aggregate in self._seen

    def covers_key(self, attributes: tuple[str, ...], key: Key) -> bool:
        """Whether memory has the row of this primary key if there is one."""
        return self.is_whole or (attributes, key) in self._values

    def reach(self, lookup: Lookup, value: Any, order: str) -> Reach | None:
        """Return how far rows are in memory; None where nothing is known."""
        return self._reaches.get((lookup.attributes, value, order))

    def reached(self, lookup: Lookup, values: Iterable[Any], order: str) -> Iterable[Any]:
        """Return those of a look-up's values of which some rows are known to be in memory."""
        if not self._reaches:
            return ()
        return [value for value in values if self.reach(lookup, value, order) is not None]

    def remember(self, lookup: Lookup, values: Iterable[Any]) -> None:
        """Note that every row is in memory that matches these values of a look-up."""
        self._make_room()
        if lookup.is_by_aggregate:
            self.aggregates.update(values)
        else:
            self._values.update((lookup.attributes, value) for value in values)

    def remember_reach(self, lookup: Lookup, value: Any, order: str, reach: Reach) -> None:
        """Note how far rows are in memory."""
        self._make_room()
        self._reaches[lookup.attributes, value, order] = reach

    def note_written(self, aggregates: Iterable[Any]) -> None:
        """Note whose rows are written to the relation."""
        if self._seen is not None:
            for aggregate in aggregates:
                self._seen.add(aggregate)

    def forget(self) -> None:
        """Forget everything but which aggregates the relation can have."""
        self._is_empty = False
        self._values.clear()
        self._reaches.clear()
        self.aggregates.clear()

    def _make_room(self) -> None:
        if len(self._values) + len(self.aggregates) + len(self._reaches) > _MOST_REMEMBERED:
            self._values.clear()
            self._reaches.clear()
            self.aggregates.clear()
