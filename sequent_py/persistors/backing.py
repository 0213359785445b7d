"""Backing: which rows of a relation memory speaks for.

A :class:`Residency` stands between a :class:`~sequent_py.persistors.memory.MemoryTable` and the relation behind it: the table itself
(catch-up) or a spill. Its invariant::

    truth = rows in memory  +  rows of the relation whose key is not in ``held``

``held`` are the keys of relation rows that memory speaks for: loaded, changed, or deleted (``gone``, not yet deleted there).
``dirty`` are the keys of rows in memory that the relation does not have in this form. A row that changes its primary key is a deletion
and a new row; a row that is deleted and made again under its key is a change. ``write_back`` makes the relation equal to the truth and
forgets nothing; ``evict`` then forgets the rows that were loaded or changed longest ago.

Before a look-up is answered from memory, everything in the relation that could match is loaded, and remembered as complete while it
stays. Where many rows match and one is wanted, only as many as decide it are loaded. Updates and deletions of unknown extent are
written back and done by the server. So memory holds what handlers touch, not what tables hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from sequent_py.persistors.indexes import Lookup
from sequent_py.persistors.memory import MemoryTable
from sequent_py.persistors.operations import Filter, Key, Values, Where
from sequent_py.persistors.relations import Relation
from sequent_py.row_classes import Row

_PAGE = 256
"""How many rows are loaded at first where one is wanted: most filters match fewer, and are then known completely."""
_MOST_REMEMBERED = 100_000
"""Look-ups that are remembered as complete, at some 200 bytes each. More are forgotten all at once: remembering is only a saving."""


@dataclass(frozen=True)
class RowDelta:
    """How many rows a flush added to a table and took from it; the net change is their difference."""

    inserted: int
    deleted: int


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


class Residency:
    """What of ``relation`` is in memory, as ``rows`` of ``memory``."""

    def __init__(self, memory: MemoryTable, relation: Relation, *, is_relation_empty: bool) -> None:
        self._memory, self.relation = memory, relation
        self._operations = memory.operations
        self._held: set[Key] = set()
        self._gone: dict[Key, Values] = {}
        self._dirty: dict[Key, None] = dict.fromkeys(memory.rows)
        self._recent: dict[Key, None] = dict.fromkeys(memory.rows)
        self._complete: set[tuple[tuple[str, ...], Any]] = {((), ())} if is_relation_empty else set()
        self._complete_aggregates: set[Any] = set()
        self._seen = AggregateFilter() if is_relation_empty else None
        self._aggregate_of = (
            self._operations.compile_key(("aggregate_id",))
            if self._operations.shape.has_aggregate_id
            else None
        )
        self._inserted = self._deleted = 0

    # Told by memory

    def changed(self, key: Key) -> None:
        """Note that the row under ``key`` is new or other than the relation's."""
        self._dirty[key] = None
        if self._gone:
            self._gone.pop(key, None)
        self._recent.pop(key, None)
        self._recent[key] = None

    def removed(self, key: Key, row: Row) -> None:
        """Note that the row under ``key`` is no more."""
        self._dirty.pop(key, None)
        self._recent.pop(key, None)
        if key in self._held:
            self._gone[key] = self._operations.key_values(row)

    # Loading

    def is_complete(self, lookup: Lookup, value: Any) -> bool:
        """Whether memory has every row that matches one value of a look-up."""
        if lookup.index is None and (value in self._held or value in self._memory.rows):
            return True
        if "aggregate_id" in lookup.attributes:
            place = lookup.attributes.index("aggregate_id")
            aggregate = value if len(lookup.attributes) == 1 else value[place]
            if aggregate in self._complete_aggregates:
                return True
            if self._seen is not None and aggregate not in self._seen:
                return True
        return (lookup.attributes, value) in self._complete or ((), ()) in self._complete

    def load_all(self, lookup: Lookup, filters: Sequence[Filter]) -> None:
        """Load every matching row."""
        values = self._missing(lookup, filters)
        if values:
            self._keep(self.relation.select(filters))
            self._remember(lookup, values)

    def load_first_of(self, lookup: Lookup, where: Where) -> bool:
        """Do as :meth:`load_first` for single values that need no conversion; whether anything was missing."""
        if self.is_complete(lookup, lookup.key(where)):
            return False
        self.load_first(lookup, self._operations.filters(where), "ASC")
        return True

    def load_first(self, lookup: Lookup, filters: Sequence[Filter], order: str) -> None:
        """Load as many matching rows as decide which one comes first."""
        if lookup.index is None:
            # By primary key there is one row for each value.
            self.load_all(lookup, filters)
            return
        values = self._missing(lookup, filters)
        if not values:
            return
        size, offset = _PAGE, 0
        while True:
            page = self.relation.select_page(filters, order, size, offset)
            self._keep(page)
            if len(page) < size:
                self._remember(lookup, values)
                return
            # Every row of the relation up to the page's end is in memory or replaced there, so that memory's answer up to there is final.
            end, best = self._operations.key_of(page[-1]), self._memory.best(lookup, filters, order)
            if best is not None and (best <= end if order == "ASC" else best >= end):
                return
            offset, size = offset + size, size * 4

    def prefetch(self, aggregate_ids: Iterable[UUID]) -> None:
        """Load all rows of these aggregates in one statement; nothing for records without aggregates."""
        if self._aggregate_of is None:
            return
        filters = self._operations.filters({"aggregate_id": list(aggregate_ids)})
        self.load_all(self._memory.lookup(("aggregate_id",)), filters)

    def has(self, row: Row) -> bool:
        """Whether the relation has a row under the primary key of ``row`` that memory does not speak for.

        Loads nothing and makes no room: it is asked in the middle of changes.
        """
        key = self._operations.key_of(row)
        if key in self._held or (self._operations.key_attributes, key) in self._complete:
            return False
        return bool(self.relation.select(self._operations.filters(self._operations.key_values(row))))

    def _missing(self, lookup: Lookup, filters: Sequence[Filter]) -> list[Any]:
        """Return the values of the look-up that are not complete; makes room and readies the relation when there are some."""
        values = [value for value in lookup.values(filters) if not self.is_complete(lookup, value)]
        if values:
            memory = self._memory
            if len(memory.rows) >= memory.limit:
                memory.make_room(memory)
            self.relation.prepare(lookup.attributes)
        return values

    def _keep(self, rows: Iterable[Row]) -> None:
        memory, held, key_of = self._memory, self._held, self._operations.key_of
        for row in rows:
            key = key_of(row)
            if key in held:
                continue
            if key in memory.rows:
                # Made by a handler while the relation had it all along; the live persistor would have said so then.
                duplicate = self._operations.duplicate(row)
                duplicate.is_late = True
                raise duplicate
            memory.adopt(key, row)
            held.add(key)
            self._recent[key] = None

    def _remember(self, lookup: Lookup, values: Iterable[Any]) -> None:
        if len(self._complete) + len(self._complete_aggregates) > _MOST_REMEMBERED:
            self._complete.clear()
            self._complete_aggregates.clear()
        if lookup.attributes == ("aggregate_id",):
            self._complete_aggregates.update(values)
        else:
            self._complete.update((lookup.attributes, value) for value in values)

    # Done by the server

    def is_narrow(self, filters: Sequence[Filter]) -> bool:
        """Whether the filters name rows or aggregates, so that loading what matches is bounded."""
        names = {item.column.attribute for item in filters}
        return "aggregate_id" in names or names.issuperset(self._operations.key_attributes)

    def update_all(self, filters: Sequence[Filter], values: Values) -> int:
        """Set columns of all matching rows in the relation."""
        self.write_back()
        if self._seen is not None and "aggregate_id" in values:
            self._seen.add(self._operations.value_key("aggregate_id")(values["aggregate_id"]))
        updated = self.relation.update_matching(filters, values)
        self.forget()
        return updated

    def delete_all(self, filters: Sequence[Filter]) -> int:
        """Delete all matching rows in the relation."""
        self.write_back()
        deleted = self.relation.delete_matching(filters)
        self._deleted += deleted
        self.forget()
        return deleted

    # Writing and forgetting

    def write_back(self) -> None:
        """Make the relation equal to the truth."""
        rows, held = self._memory.rows, self._held
        self._deleted += self.relation.delete(list(self._gone.values()))
        held.difference_update(self._gone)
        self._gone.clear()
        self.relation.update([rows[key] for key in self._dirty if key in held])
        new = [rows[key] for key in self._dirty if key not in held]
        if new:
            self._inserted += self.relation.insert(new)
        held.update(self._dirty)
        if self._seen is not None and self._aggregate_of is not None:
            for key in self._dirty:
                self._seen.add(self._aggregate_of(rows[key]))
        self._dirty.clear()

    def evict(self, keep: int) -> None:
        """Write back, then forget all but the ``keep`` rows that were loaded or changed last."""
        self.write_back()
        memory, aggregate_of = self._memory, self._aggregate_of
        kept_keys = list(islice(reversed(self._recent), keep))
        kept_keys.reverse()
        kept = {key: memory.rows[key] for key in kept_keys}
        if aggregate_of is not None:
            lost = {aggregate_of(row) for key, row in memory.rows.items() if key not in kept}
            remaining = {aggregate_of(row) for row in kept.values()} - lost
            if ((), ()) not in self._complete:
                remaining &= self._complete_aggregates
        else:
            remaining = set()
        self.forget()
        self._keep(kept.values())
        self._complete_aggregates = remaining

    def forget(self) -> None:
        """Forget all rows; everything must be written back."""
        self._memory.clear()
        self._held.clear()
        self._recent.clear()
        self._complete.clear()
        self._complete_aggregates.clear()

    def take_delta(self) -> RowDelta:
        """Return what was added and taken since the last call."""
        delta = RowDelta(self._inserted, self._deleted)
        self._inserted = self._deleted = 0
        return delta

    def take_unwritten(self) -> list[Row]:
        """Return the rows that the relation does not have in this form, and delete there what they replace and what is gone."""
        rows, held = self._memory.rows, self._held
        unwritten = [rows[key] for key in self._dirty]
        replaced = [self._operations.key_values(rows[key]) for key in self._dirty if key in held]
        self.relation.delete([*self._gone.values(), *replaced])
        return unwritten
