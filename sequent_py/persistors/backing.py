"""Backing: which rows of a relation memory speaks for.

A :class:`Residency` stands between a :class:`~sequent_py.persistors.memory.MemoryTable` and the relation behind it: the table itself
(catch-up) or a spill. Its invariant::

    truth = rows in memory  +  rows of the relation whose key is not in ``held``

``held`` are the keys of relation rows that memory speaks for: loaded, changed, or deleted (``gone``, not yet deleted there).
``dirty`` are the keys of rows in memory that the relation does not have in this form. A row that changes its primary key is a deletion
and a new row; a row that is deleted and made again under its key is a change. ``write_back`` makes the relation equal to the truth and
forgets all rows; ``evict`` keeps those that were loaded or changed last.

Before a look-up is answered from memory, everything in the relation that could match is loaded, and remembered as complete while it
stays. Where many rows match and one is wanted, only as many as decide it are loaded. Updates and deletions of unknown extent are
written back and done by the server. So memory holds what handlers touch, not what tables hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sequent_py.persistors.ahead import Path, ReadAhead
from sequent_py.persistors.completeness import Completeness, Reach
from sequent_py.persistors.generators import Key, Values, Where
from sequent_py.persistors.indexes import CONVERT, Lookup, end_of
from sequent_py.persistors.memory import MemoryTable
from sequent_py.persistors.operations import Filter
from sequent_py.persistors.relations import Relation
from sequent_py.row_classes import Row

_PAGE = 16
"""How many rows are loaded at first where one is wanted: many filters match fewer, and are then known completely. Each further page is larger."""
_PAGE_AHEAD = 2
"""The same for each value that is read ahead: tells a value of one row, which is then known completely, from others."""
_FEW_ROWS = 16
"""All rows of the coming events' aggregates are read ahead, for look-ups in them that cannot be foreseen, where there are no more of each."""


@dataclass(frozen=True)
class RowDelta:
    """How many rows a flush added to a table and took from it; the net change is their difference."""

    inserted: int
    deleted: int


class Residency:
    """What of ``relation`` is in memory, as ``rows`` of ``memory``."""

    def __init__(self, memory: MemoryTable, relation: Relation, *, is_relation_empty: bool) -> None:
        self._memory, self.relation = memory, relation
        self._operations = memory.operations
        self._held: set[Key] = set()
        self.gone: dict[Key, Values] = {}
        """Rows of the relation that memory has deleted, by their keys."""
        self.dirty: dict[Key, None] = dict.fromkeys(memory.rows)
        """The keys of rows that the relation does not have in this form, in the order in which they became so."""
        self._known = Completeness(is_relation_empty=is_relation_empty)
        self.ahead: ReadAhead | None = None
        """What knows the coming events; None where each look-up reads for itself."""
        self._aggregate_of = (
            self._operations.compile_key(("aggregate_id",))
            if self._operations.shape.has_aggregate_id
            else None
        )
        self._inserted = self._deleted = 0

    @property
    def complete_aggregates(self) -> set[Any]:
        """The aggregates of which every row is in memory, as keys have them; always the same set."""
        return self._known.aggregates

    # Told by memory

    def changed(self, key: Key) -> None:
        """Note that the row under ``key`` is new or other than the relation's."""
        self.dirty[key] = None
        if self.gone:
            self.gone.pop(key, None)

    def removed(self, key: Key, row: Row) -> None:
        """Note that the row under ``key`` is no more."""
        self.dirty.pop(key, None)
        if key in self._held:
            self.gone[key] = self._operations.key_values(row)

    # Loading

    def is_complete(self, lookup: Lookup, value: Any) -> bool:
        """Whether memory has every row that matches one value of a look-up."""
        if lookup.index is None and (value in self._held or value in self._memory.rows):
            return True
        return self._known.covers(lookup, value)

    def _answered(self, lookup: Lookup, values: Mapping[Any, object], order: str) -> set[Any]:
        """Return the values of a look-up for which nothing need be read ahead."""
        found = set(self._known.covered(lookup, values))
        if lookup.index is None:
            found |= self._held.intersection(values)
            found |= self._memory.rows.keys() & values.keys()
        if order:
            found.update(self._known.reached(lookup, values, order))
        return found

    def load_all(self, lookup: Lookup, filters: Sequence[Filter]) -> None:
        """Load every matching row."""
        values = self._missing(lookup, filters)
        if values and not self._load_ahead(lookup, filters, values, ""):
            self._keep(self.relation.select(filters))
            self._known.remember(lookup, values)

    def load_end_of(self, lookup: Lookup, where: Where, order: str) -> bool:
        """Do as :meth:`load_end` for single values that need no conversion; whether anything may have been missing."""
        value = lookup.key(where)
        if value is CONVERT:
            # A probe in C knows more values that are stored as they are.
            (value,) = lookup.values(self._operations.filters(where))
        if lookup.is_by_aggregate and value in self._known.aggregates:
            return False
        if self.is_complete(lookup, value):
            return False
        reach = self._known.reach(lookup, value, order)
        if reach is not None and reach.decides(end_of(lookup.probe(where), order), order):
            return False
        self.load_end(lookup, self._operations.filters(where), order)
        return True

    def load_end(self, lookup: Lookup, filters: Sequence[Filter], order: str) -> None:
        """Load as many matching rows as decide which one comes first in the order."""
        if lookup.index is None:
            # By primary key there is one row for each value.
            self.load_all(lookup, filters)
            return
        values = self._missing(lookup, filters)
        if not values:
            return
        reach = None
        if len(filters) == len(lookup.attributes) and all(item.is_scalar for item in filters):
            reach = self._known.reach(lookup, values[0], order)
            if reach is None and self._load_ahead(lookup, filters, values, order):
                reach = self._known.reach(lookup, values[0], order)
                if reach is None:
                    return
            if reach is not None and reach.decides(self._memory.best(lookup, filters, order), order):
                return
        self._load_pages(lookup, filters, values, order, _PAGE if reach is None else reach.size * 4)

    def _load_pages(
        self, lookup: Lookup, filters: Sequence[Filter], values: Sequence[Any], order: str, size: int
    ) -> None:
        """Load rows from one end of the order on until it is decided which one comes first."""
        offset = 0
        while True:
            page = self.relation.select_page(filters, order, size, offset)
            self._keep(page)
            if len(page) < size:
                self._known.remember(lookup, values)
                return
            # Every row of the relation up to the page's end is in memory or replaced there, so that memory's answer up to there is final.
            reach = Reach(self._operations.key_of(page[-1]), offset + size)
            if all(item.is_scalar for item in filters):
                self._known.remember_reach(lookup, values[0], order, reach)
            if reach.decides(self._memory.best(lookup, filters, order), order):
                return
            offset, size = offset + size, size * 4

    def _load_ahead(
        self, lookup: Lookup, filters: Sequence[Filter], values: Sequence[Any], order: str
    ) -> bool:
        """Load what a look-up that misses asks for, and with it what coming events will; False where that cannot be foreseen.

        ``order`` is empty where every matching row is wanted.
        """
        if self.ahead is None or len(values) != 1:
            return False
        path = self.ahead.path(self._names_of(filters, order), filters)
        if path is not None:
            return self._load_path(path, lookup, values[0], filters, order)
        of_aggregate = [item for item in filters if item.column.attribute == "aggregate_id"]
        if not of_aggregate or len(filters) == 1:
            return False
        # Which rows of an aggregate are wanted cannot be foreseen, but of which aggregates.
        path = self.ahead.path(self._names_of(of_aggregate, ""), of_aggregate)
        if path is None or path.rows_per_key > _FEW_ROWS:
            return False
        whole = self._memory.lookup(("aggregate_id",))
        (value,) = whole.values(of_aggregate)
        return self._load_path(path, whole, value, of_aggregate, "")

    def _names_of(self, filters: Sequence[Filter], order: str) -> tuple[str, ...]:
        return self._operations.name, order, *(item.column.attribute for item in filters)

    def _load_path(
        self, path: Path, lookup: Lookup, value: Any, filters: Sequence[Filter], order: str
    ) -> bool:
        most_rows = (self._memory.limit - len(self._memory.rows)) // 2
        most_keys = min(path.most_keys, most_rows)
        keys = {value: tuple(item.values[0] for item in filters)}
        covered = -1
        assert self.ahead is not None
        named = self._names_of(filters, order)
        if most_keys > 1:
            for place, guesses in self.ahead.guesses(path, named, most_keys):
                covered = place
                guessed = dict(zip(lookup.values_from(guesses), guesses, strict=True))
                for known in self._answered(lookup, guessed, order):
                    del guessed[known]
                keys |= guessed
                if len(keys) >= most_keys:
                    break
        if len(keys) == 1:
            return False
        if order and self.relation.is_unique(path.columns):
            # All that match is one row at most: which one comes first need not be asked.
            order = ""
        # In the order of the primary key's index, where that is how they are found.
        wanted = [keys[value] for value in _in_order(keys)] if lookup.index is None else list(keys.values())
        rows = self.relation.select_keys(path.columns, wanted, order, _PAGE_AHEAD)
        self._keep(rows)
        if order:
            self._remember_ends(lookup, keys, rows, order)
        else:
            # Of a row that is there its key tells enough.
            self._known.remember(lookup, keys if lookup.index is not None else keys.keys() - self._held)
        self.ahead.note_read(path, named, covered, keys=len(keys), rows=len(rows), most_rows=most_rows)
        return True

    def _remember_ends(self, lookup: Lookup, values: Iterable[Any], rows: Iterable[Row], order: str) -> None:
        assert lookup.index is not None
        value_of, key_of = lookup.index.value_of, self._operations.key_of
        found: dict[Any, list[Key]] = {value: [] for value in values}
        for row in rows:
            found[value_of(row)].append(key_of(row))
        self._known.remember(lookup, [value for value, keys in found.items() if len(keys) < _PAGE_AHEAD])
        for value, keys in found.items():
            if len(keys) >= _PAGE_AHEAD:
                end = max(keys) if order == "ASC" else min(keys)
                self._known.remember_reach(lookup, value, order, Reach(end, _PAGE_AHEAD))

    def has(self, row: Row) -> bool:
        """Whether the relation has a row under the primary key of ``row`` that memory does not speak for.

        Loads nothing and makes no room: it is asked in the middle of changes.
        """
        key = self._operations.key_of(row)
        if key in self._held or self._known.covers_key(self._operations.key_attributes, key):
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

    def _keep(self, rows: Collection[Row]) -> None:
        memory, held = self._memory, self._held
        loaded = dict(zip(map(self._operations.key_of, rows), rows, strict=True))
        for key in held.intersection(loaded):
            del loaded[key]
        for key in memory.rows.keys() & loaded.keys():
            # Made by a handler while the relation had it all along; the live persistor would have said so then.
            duplicate = self._operations.duplicate(loaded[key])
            duplicate.is_late = True
            raise duplicate
        memory.adopt(loaded)
        held.update(loaded)

    # Done by the server

    def is_narrow(self, filters: Sequence[Filter]) -> bool:
        """Whether the filters name rows or aggregates, so that loading what matches is bounded."""
        names = {item.column.attribute for item in filters}
        return "aggregate_id" in names or names.issuperset(self._operations.key_attributes)

    def update_all(self, filters: Sequence[Filter], values: Values) -> int:
        """Set columns of all matching rows in the relation."""
        self.write_back()
        if "aggregate_id" in values:
            self._known.note_written([self._operations.value_key("aggregate_id")(values["aggregate_id"])])
        return self.relation.update_matching(filters, values)

    def delete_all(self, filters: Sequence[Filter]) -> int:
        """Delete all matching rows in the relation."""
        self.write_back()
        deleted = self.relation.delete_matching(filters)
        self._deleted += deleted
        return deleted

    # Writing and forgetting

    def write_back(self) -> None:
        """Make the relation equal to the truth, and forget all rows."""
        rows, dirty, held = self._memory.rows, self.dirty, self._held
        self._deleted += self.relation.delete(list(self.gone.values()))
        changed = [key for key in dirty if key in held]
        self.relation.update([rows[key] for key in _in_order(changed)])
        if len(changed) < len(dirty):
            new = [key for key in dirty if key not in held] if changed else dirty
            self._inserted += self.relation.insert([rows[key] for key in _in_order(new)])
        if self._aggregate_of is not None:
            self._known.note_written(self._aggregate_of(rows[key]) for key in dirty)
        self._forget()

    def evict(self, keep: int) -> None:
        """Write back, then forget all but ``keep`` rows: those changed last stay, then those that came last."""
        memory, aggregate_of = self._memory, self._aggregate_of
        changed, unchanged = list(self.dirty), [key for key in memory.rows if key not in self.dirty]
        kept_keys = [*unchanged, *changed][-keep:] if keep else []
        kept = {key: memory.rows[key] for key in kept_keys}
        if aggregate_of is not None:
            lost = {aggregate_of(row) for key, row in memory.rows.items() if key not in kept}
            remaining = {aggregate_of(row) for row in kept.values()} - lost
            if not self._known.is_whole:
                remaining &= self._known.aggregates
        else:
            remaining = set()
        self.write_back()
        self._keep(kept.values())
        self._known.aggregates.update(remaining)

    def _forget(self) -> None:
        self._memory.clear()
        self._held.clear()
        self.dirty.clear()
        self.gone.clear()
        self._known.forget()
        if self.ahead is not None:
            self.ahead.forget()

    def take_delta(self) -> RowDelta:
        """Return what was added and taken since the last call."""
        delta = RowDelta(self._inserted, self._deleted)
        self._inserted = self._deleted = 0
        return delta

    def take_unwritten(self) -> list[Row]:
        """Return the rows that the relation does not have in this form, and delete there what they replace and what is gone."""
        rows, held = self._memory.rows, self._held
        unwritten = [rows[key] for key in self.dirty]
        replaced = [self._operations.key_values(rows[key]) for key in self.dirty if key in held]
        self.relation.delete([*self.gone.values(), *replaced])
        return unwritten


def _in_order(keys: Iterable[Key]) -> list[Key]:
    """Sort keys by the primary key's first column, so that the server comes to neighbours in its index one after another. To compare the others, too, takes three times as long."""
    several = list(keys)
    return sorted(several, key=itemgetter(0) if several and type(several[0]) is tuple else None)
