"""Memory: the rows of one table and their hash indexes, for replay.

Stored rows are never changed: an update works on a copy that takes the row's place when the block ends. Rows are kept by their primary
key's stand-in (see ``operations``), indexes map the values of filter columns to such keys. An index is built when its combination of
columns is first filtered by, and kept from then on; without any filter all rows are one bucket of the index on no columns.

A table may have a *residency* (see ``backing``) when not all of its rows are in memory. It is asked before every look-up and told of
every change; without one, nothing of it is paid for but the test that there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from sequent_py.errors import RecordNotFound
from sequent_py.native import native
from sequent_py.persistors.blocks import MemoryUpdate, MemoryUpsert
from sequent_py.persistors.generators import Key, Storing, Values, Where
from sequent_py.persistors.indexes import CONVERT, Bucket, Index, Lookup, end_of
from sequent_py.persistors.operations import Filter, RowOperations, operations_of
from sequent_py.persistors.tables import DefaultSource, TableShape
from sequent_py.row_classes import Row

if TYPE_CHECKING:
    from sequent_py.persistors.backing import Residency


class MemoryTable:
    """The rows of one table in memory."""

    def __init__(self, table: TableShape, defaults: DefaultSource) -> None:
        self.operations: RowOperations = operations_of(table)
        self.name = self.operations.name
        self.rows: dict[Key, Row] = {}
        self.indexes: list[Index] = []
        self.residency: Residency | None = None
        self.limit = 1 << 62
        """How many rows it takes before ``make_room`` is called; see :meth:`take_at_most`."""
        self.make_room: Callable[[MemoryTable], None] = _no_need
        self._defaults = defaults
        self._makers: dict[tuple[str, ...], Callable[[Where], Row]] = {}
        self._undrawn_makers: dict[tuple[str, ...], Callable[[Where], Row]] = {}
        self._creators: dict[tuple[str, ...], Callable[[Where], Row]] = {}
        self._lookups: dict[tuple[str, ...], Lookup] = {}
        self._probes: dict[tuple[str, ...], Callable[[Where], Any]] = {}
        self._key_of = self.operations.key_of
        self._lock = self.operations.lock
        self._detach = self.operations.detach
        self.clone = self.operations.clone
        self.finish = self.operations.finish
        """Converts what an update has set, and says whether a column of a key may have changed."""
        self.locked_row_class = self.operations.shape.locked_row_class
        self.shares_rows = self._detach is None
        """Whether rows in memory are handed out as they are: no value of theirs can change in place."""
        # The three usual ways in, in C where that is at hand; it comes back to the methods below with what is not usual.
        self.first: Callable[[Where], Key] = self._first
        """Return the lowest key among matching rows; None where no row matches."""
        self.create: Callable[[Mapping[str, Any]], Row] = self._create
        """Make, store and return a row."""
        self.update: Callable[[Where, Mapping[str, Any]], AbstractContextManager[Row]] = self._update
        """Return the block of an update of the first row that matches."""
        self.access: Any = None
        """The same three in C, and what tells them of a relation behind the rows; None where that is not at hand."""
        if self.operations.native is not None:
            access = self.access = native.Access(
                self.operations.native.layout,
                self,
                self.limit,
                self.finish,
                self.rows,
                self._probes,
                self._creators,
                CONVERT,
                Bucket,
                self._first,
                self._create,
            )
            self.first, self.create, self.update = access.first, access.create, access.update

    def back_by(self, residency: Residency | None) -> None:
        """Let a relation stand behind the rows from now on; None: memory has them all."""
        self.residency = residency
        # They note changes for the residency there was.
        self._creators.clear()
        if self.access is not None:
            behind = residency and (residency.dirty, residency.gone, residency.complete_aggregates)
            self.access.back(*(behind or ()))

    def take_at_most(self, rows: int) -> None:
        """Call ``make_room`` before it has more rows than so many."""
        self.limit = rows
        self._renew_access()

    def _renew_access(self) -> None:
        if self.access is not None:
            self.access.renew(self.limit, self.finish)

    # Rows in and out: the only functions that touch rows and indexes

    def insert(self, row: Row) -> None:
        """Store a new locked row; DuplicateRecord if its key is taken."""
        rows = self.rows
        if len(rows) >= self.limit:
            self.make_room(self)
        key = self._key_of(row)
        if rows.setdefault(key, row) is not row:
            raise self.operations.duplicate(row)
        for index in self.indexes:
            index.add(row, key)
        if self.residency is not None:
            self.residency.changed(key)

    def remove(self, key: Key) -> None:
        """Remove a stored row."""
        row = self.rows.pop(key)
        for index in self.indexes:
            index.remove(row, key)
        if self.residency is not None:
            self.residency.removed(key, row)

    def swap(self, key: Key, before: Row, after: Row) -> None:
        """Put ``after`` in the place of ``before``, one of whose keys may differ."""
        rows = self.rows
        new_key = self._key_of(after)
        if new_key != key:
            if new_key in rows or (self.residency is not None and self.residency.has(after)):
                raise self.operations.duplicate(after)
            self.remove(key)
            self.insert(after)
            return
        rows[key] = after
        for index in self.indexes:
            if index.value_of(before) != index.value_of(after):
                index.remove(before, key)
                index.add(after, key)
        if self.residency is not None:
            self.residency.changed(key)

    def adopt(self, rows: Mapping[Key, Row]) -> None:
        """Store locked rows that were loaded, by their keys, which are not taken."""
        self.rows.update(rows)
        for index in self.indexes:
            index.add_all(rows)

    def clear(self) -> None:
        """Forget all rows; indexes stay defined."""
        self.rows.clear()
        for index in self.indexes:
            index.entries.clear()

    # Look-ups

    def lookup(self, names: tuple[str, ...]) -> Lookup:
        """Return how filters of these names are answered; builds the index at first use."""
        found = self._lookups.get(names)
        if found is None:
            attributes = tuple(sorted(names))
            index = None
            if attributes != tuple(sorted(self.operations.key_attributes)):
                index = next((known for known in self.indexes if known.attributes == attributes), None)
                index = index or self._build_index(attributes)
            found = self._lookups[names] = Lookup(self.operations, names, index, self.rows)
            self._probes[names] = found.probe
        return found

    def _build_index(self, attributes: tuple[str, ...]) -> Index:
        index = Index(attributes, self.operations.compile_key(attributes))
        for key, row in self.rows.items():
            index.add(row, key)
        self.indexes.append(index)
        every = [name for known in self.indexes for name in known.attributes]
        self.finish = self.operations.compile_finish([*self.operations.key_attributes, *every])
        # They enter rows into the indexes there were.
        self._creators.clear()
        self._renew_access()
        return index

    def _first(self, where: Where) -> Key:
        return self._end(where, "ASC")

    def last(self, where: Where) -> Key:
        """Return the highest key among matching rows; None where no row matches."""
        return self._end(where, "DESC")

    def _end(self, where: Where, order: str) -> Key:
        lookup = self._lookups.get(tuple(where))
        if lookup is not None:
            found = lookup.probe(where)
            if found is not CONVERT:
                residency = self.residency
                # A row that is found by its primary key is the only one, whatever the relation has.
                if (
                    residency is not None
                    and (found is None or lookup.index is not None)
                    and residency.load_end_of(lookup, where, order)
                ):
                    found = lookup.probe(where)
                return end_of(found, order) if found.__class__ is Bucket else found
        filters = self.operations.filters(where)
        lookup = self.lookup(tuple(where))
        if self.residency is not None:
            self.residency.load_end(lookup, filters, order)
        return self.best(lookup, filters, order)

    def best(self, lookup: Lookup, filters: Sequence[Filter], order: str) -> Key:
        """Return the first key in order among matching rows in memory; None where none matches."""
        best = None
        for found in self._found(lookup, filters):
            key = end_of(found, order)
            if best is None or (key < best if order == "ASC" else key > best):
                best = key
        return best

    def keys(self, where: Where) -> list[Key]:
        """Return the keys of all rows that match, in order."""
        lookup = self._lookups.get(tuple(where))
        # What a relation behind the rows has matters, unless the primary key names the row.
        if lookup is not None and (self.residency is None or lookup.index is None):
            found = lookup.probe(where)
            if found is None and self.residency is not None:
                found = self.first(where)
            if found is None:
                return []
            if found is not CONVERT:
                return list(found.ordered()) if found.__class__ is Bucket else [found]
        return self.matches(self.operations.filters(where))

    def matches(self, filters: Sequence[Filter]) -> list[Key]:
        """Do as :meth:`keys` for filters that were parsed."""
        lookup = self.lookup(tuple(item.column.attribute for item in filters))
        if self.residency is not None:
            self.residency.load_all(lookup, filters)
        found = list(self._found(lookup, filters))
        if len(found) == 1:
            return list(found[0].ordered()) if found[0].__class__ is Bucket else found
        keys: list[Key] = []
        for item in found:
            keys.extend(item.keys) if item.__class__ is Bucket else keys.append(item)
        keys.sort()
        return keys

    def _found(self, lookup: Lookup, filters: Sequence[Filter]) -> Iterator[Any]:
        """Yield what the index has for every value that is asked for: keys and buckets."""
        if lookup.index is None:
            return (value for value in lookup.values(filters) if value in self.rows)
        entries = lookup.index.entries
        return (entries[value] for value in lookup.values(filters) if value in entries)

    def read(self, key: Key) -> Row:
        """Return a stored row for a reader."""
        row = self.rows[key]
        return row if self._detach is None else self._detach(row)

    # Operations

    def _create(self, values: Mapping[str, Any]) -> Row:
        if len(self.rows) < self.limit:
            creator = self._creators.get(tuple(values))
            if creator is None:
                creator = self._build_creator(tuple(values))
            row = creator(values)
        else:
            row = self._maker(tuple(values))(values)
            self.insert(row)
        return row if self._detach is None else self._detach(row)

    def _maker(self, names: tuple[str, ...]) -> Callable[[Where], Row]:
        maker = self._makers.get(names)
        if maker is None:
            maker = self._makers[names] = self.operations.compile_create(names, self._defaults.drawer)
        return maker

    def make_all(self, several: Sequence[dict[str, Any]]) -> list[Row]:
        """Make locked rows, and store them nowhere; no default is drawn before all rows are known to be sound."""
        made = []
        for values in several:
            names = tuple(values)
            maker = self._undrawn_makers.get(names)
            if maker is None:
                maker = self._undrawn_makers[names] = self.operations.compile_create(names, _undrawn)
            made.append(maker(values))
        drawn = self.operations.table.drawn_defaults
        if drawn:
            for values, row in zip(several, made, strict=True):
                for name in drawn:
                    if name not in values:
                        # Past the lock: nobody has seen the row yet.
                        object.__setattr__(row, name, self._defaults.draw(name))
        return made

    def _build_creator(self, names: tuple[str, ...]) -> Callable[[Where], Row]:
        """Return what :meth:`_maker` and :meth:`insert` do, in one function for the indexes there are."""
        indexes = [(index.attributes, index.entries, index.collide) for index in self.indexes]
        residency = self.residency
        changes = None if residency is None else (residency.dirty, residency.gone)
        storing = Storing(self.rows, indexes, changes)
        creator = self.operations.compile_create(names, self._defaults.drawer, storing)
        self._creators[names] = creator
        return creator

    def _update(self, where: Where, touched: Mapping[str, Any]) -> AbstractContextManager[Row]:
        return MemoryUpdate(self, where, touched)

    def create_or_update(self, where: Where, touched: Mapping[str, Any]) -> AbstractContextManager[Row]:
        """Return the block of an update of the first row that matches, or of a new one."""
        return MemoryUpsert(self, where, touched)

    def refuse_missing(self, where: Where) -> NoReturn:
        """Say that no row matches."""
        raise RecordNotFound(self.name, where)

    def with_values(self, before: Row, values: Values) -> Row:
        """Return a stored row as it would be with these converted values."""
        after = self.clone(before)
        for name, value in values.items():
            setattr(after, name, value)
        # Again, because one JSON value must not be shared by several rows.
        return self._lock(after if self.shares_rows else self.clone(after))

    def store(self, key: Key, before: Row, after: Row, has_moved: bool) -> None:
        """Store what an update's block made of its copy of ``before``; ``after`` is converted and about to be locked."""
        if self.rows.get(key) is not before:
            self._merge(before, after)
            return
        stored = after if self.shares_rows else self._lock(self.clone(after))
        if has_moved:
            self.swap(key, before, stored)
            return
        self.rows[key] = stored
        if self.residency is not None:
            self.residency.changed(key)

    def _merge(self, before: Row, after: Row) -> None:
        """Write what this block changed over what was written, moved out of memory or deleted meanwhile; as UPDATE by key does."""
        changed = self.operations.changed(before, after)
        if not changed:
            return
        where = self.operations.key_values(before)
        key = self.first(where)
        if key is None:
            self.refuse_missing(where)
        current = self.rows[key]
        self.swap(key, current, self.with_values(current, changed))

    def draw(self, attribute: str) -> Any:
        """Return the next default of a column."""
        return self._defaults.draw(attribute)


def _undrawn(_attribute: str) -> Callable[[], Any]:
    """Return what leaves a default open."""
    return _nothing


def _nothing() -> None:
    return None


def _no_need(table: MemoryTable) -> None:
    """Make no room: memory is not bounded."""
