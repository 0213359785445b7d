"""Memory: the rows of one table and their hash indexes, for replay.

Stored rows are never changed: an update works on a copy that takes the row's place when the block ends. Rows are kept by their primary
key's stand-in (see ``operations``), indexes map the values of filter columns to such keys. An index is built when its combination of
columns is first filtered by, and kept from then on; without any filter all rows are one bucket of the index on no columns.

A table may have a *residency* (see ``backing``) when not all of its rows are in memory. It is asked before every look-up and told of
every change; without one, nothing of it is paid for but the test that there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sequent_py.errors import RecordNotFound
from sequent_py.persistors.operations import Filter, Key, RowOperations, Values, Where, operations_of
from sequent_py.persistors.tables import DefaultSource, TableShape
from sequent_py.row_classes import Row

if TYPE_CHECKING:
    from sequent_py.persistors.backing import Residency


class Bucket:
    """The keys under one value of an index when there are several, in order when somebody asks.

    Keys mostly arrive in order (serial ids), so that sorting is rare. Both ends are found in constant time over many removals, too:
    a dictionary forgets the gaps that removals leave only when it is rebuilt.
    """

    __slots__ = ("_gaps", "_is_sorted", "_last", "keys")

    def __init__(self, first: Key, second: Key) -> None:
        self.keys: dict[Key, None] = {first: None, second: None}
        self._last = second
        self._is_sorted = first < second
        self._gaps = 0

    def add(self, key: Key) -> None:
        """Add a key that is not in it."""
        if self._is_sorted:
            if not self.keys or self._last < key:
                self._last = key
            else:
                self._is_sorted = False
        self.keys[key] = None

    def remove(self, key: Key) -> None:
        """Remove a key that is in it."""
        del self.keys[key]
        self._gaps += 1
        if self._is_sorted and self.keys and self._last == key:
            self._last = next(reversed(self.keys))
        # Skipping a gap costs 1 ns and copying a key 20, so rebuilding after the square root of 40 n gaps costs least: 2 µs a removal
        # from the end of 100 000 keys. Waiting for as many gaps as keys costs ten times that.
        if self._gaps > 16 and self._gaps * self._gaps > 40 * len(self.keys):
            self.keys = dict(self.keys)
            self._gaps = 0

    def ordered(self) -> dict[Key, None]:
        """Return the keys in order."""
        if not self._is_sorted:
            self.keys = dict.fromkeys(sorted(self.keys))
            self._last, self._is_sorted, self._gaps = next(reversed(self.keys)), True, 0
        return self.keys

    def first(self) -> Key:
        """Return the lowest key; None of an empty bucket."""
        return next(iter(self.ordered() if self.keys else ()), None)

    def last(self) -> Key:
        """Return the highest key; None of an empty bucket."""
        return next(reversed(self.ordered() if self.keys else {}), None)


class Index:
    """From the values of some columns to the keys of rows: a key alone where it is the only one, else a bucket."""

    __slots__ = ("attributes", "entries", "value_of")

    def __init__(self, attributes: tuple[str, ...], value_of: Callable[[Row], Any]) -> None:
        self.attributes, self.value_of = attributes, value_of
        self.entries: dict[Any, Any] = {}

    def add(self, row: Row, key: Key) -> None:
        """Enter a row."""
        value = self.value_of(row)
        found = self.entries.setdefault(value, key)
        if found is not key:
            if found.__class__ is Bucket:
                found.add(key)
            else:
                self.entries[value] = Bucket(found, key)

    def remove(self, row: Row, key: Key) -> None:
        """Take a row out."""
        value = self.value_of(row)
        found = self.entries[value]
        if found.__class__ is Bucket:
            found.remove(key)
            if not found.keys:
                del self.entries[value]
        else:
            del self.entries[value]


_CONVERT = object()
"""What a compiled where-key answers when a filter is a list, None or not yet of the column's type."""


class Lookup:
    """How filters given by the names ``names``, in that order, are answered."""

    __slots__ = ("_keys", "_operations", "attributes", "index", "key")

    def __init__(self, operations: RowOperations, names: tuple[str, ...], index: Index | None) -> None:
        self._operations = operations
        self.index = index
        """None when the filters are exactly the primary key: rows themselves are kept by it."""
        self.attributes = operations.key_attributes if index is None else index.attributes
        self.key = operations.compile_where_key(names, self.attributes, _CONVERT)
        self._keys = {name: operations.value_key(name) for name in names}

    def values(self, filters: Sequence[Filter]) -> Iterator[Any]:
        """Yield every value of the index that the filters ask for."""
        alternatives = {
            item.column.attribute: [self._keys[item.column.attribute](value) for value in item.values]
            for item in filters
        }
        combined = itertools.product(*(alternatives[name] for name in self.attributes))
        if len(self.attributes) == 1:
            return (value for (value,) in combined)
        return combined


class MemoryTable:
    """The rows of one table in memory."""

    def __init__(self, table: TableShape, defaults: DefaultSource) -> None:
        self.operations: RowOperations = operations_of(table)
        self.name = self.operations.name
        self.rows: dict[Key, Row] = {}
        self.indexes: list[Index] = []
        self.residency: Residency | None = None
        self.limit = 1 << 62
        """How many rows it takes before ``make_room`` is called."""
        self.make_room: Callable[[MemoryTable], None] = _no_need
        self._defaults = defaults
        self._creators: dict[tuple[str, ...], Callable[[Where], Row]] = {}
        self._lookups: dict[tuple[str, ...], Lookup] = {}
        self._key_of = self.operations.key_of
        self._clone = self.operations.shape.clone
        self._lock = self.operations.lock
        self._detach = self.operations.detach
        self._finish = self.operations.finish

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
        """Put ``after`` (locked) in the place of ``before``, one of whose keys may differ."""
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

    def adopt(self, key: Key, row: Row) -> None:
        """Store a locked row that was loaded."""
        self.rows[key] = row
        for index in self.indexes:
            index.add(row, key)

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
            found = self._lookups[names] = Lookup(self.operations, names, index)
        return found

    def _build_index(self, attributes: tuple[str, ...]) -> Index:
        index = Index(attributes, self.operations.compile_key(attributes))
        for key, row in self.rows.items():
            index.add(row, key)
        self.indexes.append(index)
        every = [name for known in self.indexes for name in known.attributes]
        self._finish = self.operations.compile_finish([*self.operations.key_attributes, *every])
        return index

    def first(self, where: Where) -> Key:
        """Return the lowest key among matching rows; None where no row matches."""
        lookup = self._lookups.get(tuple(where))
        if lookup is not None:
            value = lookup.key(where)
            if value is not _CONVERT:
                if self.residency is not None and not self.residency.is_complete(lookup, value):
                    self.residency.load_first(lookup, self.operations.filters(where), "ASC")
                index = lookup.index
                if index is None:
                    return value if value in self.rows else None
                found = index.entries.get(value)
                return found.first() if found.__class__ is Bucket else found
        return self._end(where, "ASC")

    def last(self, where: Where) -> Key:
        """Return the highest key among matching rows; None where no row matches."""
        return self._end(where, "DESC")

    def _end(self, where: Where, order: str) -> Key:
        filters = self.operations.filters(where)
        lookup = self.lookup(tuple(where))
        if self.residency is not None:
            self.residency.load_first(lookup, filters, order)
        return self.best(lookup, filters, order)

    def best(self, lookup: Lookup, filters: Sequence[Filter], order: str) -> Key:
        """Return the first key in order among matching rows in memory; None where none matches."""
        best = None
        for found in self._found(lookup, filters):
            key = found
            if found.__class__ is Bucket:
                key = found.first() if order == "ASC" else found.last()
            if best is None or (key < best if order == "ASC" else key > best):
                best = key
        return best

    def matches(self, filters: Sequence[Filter]) -> list[Key]:
        """Return the keys of all matching rows in order."""
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

    def create(self, values: Mapping[str, Any]) -> Row:
        """Make, store and return a row."""
        names = tuple(values)
        creator = self._creators.get(names)
        if creator is None:
            creator = self._creators[names] = self.operations.compile_create(names, self._defaults.drawer)
        row = creator(values)
        self.insert(row)
        return row if self._detach is None else self._detach(row)

    def create_all(self, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
        """Make, store and return rows, all or none."""
        operations = self.operations
        completed = [operations.completed(values) for values in rows]
        made = [operations.fill(values, self._defaults.draw) for values in completed]
        keys: dict[Key, None] = {}
        for row in made:
            key = self._key_of(row)
            if key in keys or key in self.rows:
                raise operations.duplicate(row)
            keys[key] = None
        for row in made:
            self.insert(row)
        return made if self._detach is None else [self._detach(row) for row in made]

    def update_all(self, filters: Sequence[Filter], values: Values) -> int:
        """Set columns of all matching rows and return how many match."""
        if self.residency is not None and values and not self.residency.is_narrow(filters):
            return self.residency.update_all(filters, values)
        keys = self.matches(filters)
        if not values:
            return len(keys)
        if any(name in values for name in self.operations.key_attributes):
            return self._move_all(keys, values)
        for key in keys:
            before = self.rows[key]
            self.swap(key, before, self._with(before, values))
        return len(keys)

    def _with(self, before: Row, values: Values) -> Row:
        after = self._clone(before)
        for name, value in values.items():
            setattr(after, name, value)
        # Again, because one JSON value must not be shared by several rows.
        return self._lock(after if self._detach is None else self._clone(after))

    def _move_all(self, keys: Sequence[Key], values: Values) -> int:
        """Set parts of the primary key: all rows leave before any comes back."""
        rows = [self._with(self.rows[key], values) for key in keys]
        moved: dict[Key, Row] = {}
        staying = set(keys)
        for row in rows:
            key = self._key_of(row)
            is_taken = key in self.rows or (self.residency is not None and self.residency.has(row))
            if key in moved or (is_taken and key not in staying):
                raise self.operations.duplicate(row)
            moved[key] = row
        for key in keys:
            self.remove(key)
        for row in rows:
            self.insert(row)
        return len(rows)

    def delete_all(self, filters: Sequence[Filter]) -> int:
        """Remove all matching rows and return how many."""
        if self.residency is not None and not self.residency.is_narrow(filters):
            return self.residency.delete_all(filters)
        keys = self.matches(filters)
        for key in keys:
            self.remove(key)
        return len(keys)

    def update(self, where: Where, touched: Mapping[str, Any]) -> MemoryUpdate:
        """Return the block of an update."""
        return MemoryUpdate(self, where, touched)

    def finish_update(self, key: Key, before: Row, after: Row) -> None:
        """Store what an update's block made of its copy."""
        has_moved = self._finish(after, before)
        rows = self.rows
        if rows.get(key) is not before:
            self._merge(before, after)
            return
        stored = self._lock(after if self._detach is None else self._clone(after))
        if has_moved:
            self.swap(key, before, stored)
            return
        rows[key] = stored
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
            raise RecordNotFound(self.name, where)
        current = self.rows[key]
        self.swap(key, current, self._with(current, {name: getattr(after, name) for name in changed}))

    def draw(self, attribute: str) -> Any:
        """Return the next default of a column."""
        return self._defaults.draw(attribute)


def _no_need(table: MemoryTable) -> None:
    """Make no room: memory is not bounded."""


class MemoryUpdate:
    """The block of an update: yields a writable copy of a stored row and stores it when the block ends without an error."""

    __slots__ = ("_after", "_before", "_key", "_table", "_touched", "_where")

    def __init__(self, table: MemoryTable, where: Where, touched: Mapping[str, Any]) -> None:
        self._table = table
        self._where = where
        self._touched = touched

    def __enter__(self) -> Row:
        table = self._table
        key = table.first(self._where)
        if key is None:
            raise RecordNotFound(table.name, self._where)
        return self._begin(key)

    def _begin(self, key: Key) -> Row:
        table = self._table
        self._key = key
        self._before = before = table.rows[key]
        self._after = after = table._clone(before)
        if self._touched:
            table.operations.touch(after, self._touched)
        return after

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._table.finish_update(self._key, self._before, self._after)
        finally:
            self._table._lock(self._after)


class MemoryUpsert(MemoryUpdate):
    """The block of a create-or-update: yields a new row where none matches."""

    __slots__ = ()

    def __enter__(self) -> Row:
        table, operations = self._table, self._table.operations
        filters = operations.filters(self._where)
        key = table.first(self._where)
        if key is not None:
            return self._begin(key)
        self._before = None
        self._after = operations.draft(self._where, filters, table.draw)
        operations.touch(self._after, self._touched)
        return self._after

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            super().__exit__(kind, error, traceback)
            return
        operations, after = self._table.operations, self._after
        try:
            if kind is None:
                operations.check_draft(after)
                self._table.insert(operations.lock(operations.shape.clone(after)))
        finally:
            operations.lock(after)
