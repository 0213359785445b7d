"""Indexes: from the values of filter columns to the keys of rows in memory.

Keys are the stand-ins for primary keys that ``operations`` makes; they sort as the server sorts the primary key. Every operation here takes
constant time on average but the first question for an order, which sorts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sequent_py.persistors.generators import Key, Where
from sequent_py.persistors.native import ENTRY, KNOWN_KEY
from sequent_py.persistors.operations import Filter, RowOperations
from sequent_py.row_classes import Row


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
            self.collide(value, found, key)

    def add_all(self, rows: Mapping[Key, Row]) -> None:
        """Enter rows, by their keys."""
        entered = dict(zip(map(self.value_of, rows.values()), rows, strict=True))
        if len(entered) == len(rows) and self.entries.keys().isdisjoint(entered):
            self.entries.update(entered)
            return
        for key, row in rows.items():
            self.add(row, key)

    def collide(self, value: Any, found: Any, key: Key) -> None:
        """Enter a key under a value that has ``found`` already."""
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


def end_of(found: Any, order: str) -> Key:
    """Return the first key in the order, "ASC" or "DESC", of what an index has: a key, a bucket or None."""
    if found.__class__ is Bucket:
        return found.first() if order == "ASC" else found.last()
    return found


CONVERT = object()
"""What a compiled look-up answers when a filter is a list, None or not yet of the column's type."""


class Lookup:
    """How filters given by the names ``names``, in that order, are answered: from an index, or by primary key from ``rows`` themselves."""

    __slots__ = ("_keys", "_operations", "_parts", "attributes", "index", "is_by_aggregate", "key", "probe")

    def __init__(
        self, operations: RowOperations, names: tuple[str, ...], index: Index | None, rows: dict[Key, Row]
    ) -> None:
        self._operations = operations
        self.index = index
        """None when the filters are exactly the primary key."""
        self.attributes = operations.key_attributes if index is None else index.attributes
        self.is_by_aggregate = self.attributes == ("aggregate_id",)
        self.key: Callable[[Where], Any] = operations.compile_lookup(names, self.attributes, CONVERT)
        """From filters to the index's value, or CONVERT."""
        self.probe = self._compile_probe(names, rows)
        """From filters to what the index has: a key, a bucket or None; or CONVERT."""
        self._keys = {name: operations.value_key(name) for name in names}
        self._parts = [(names.index(name), self._keys[name]) for name in self.attributes]

    def values_from(self, several: Sequence[Sequence[Any]]) -> Iterable[Any]:
        """Return the index's value for each of several converted values in the order of the names, none of them None."""
        columns = [[key(values[place]) for values in several] for place, key in self._parts]
        return columns[0] if len(columns) == 1 else zip(*columns, strict=True)

    def _compile_probe(self, names: tuple[str, ...], rows: dict[Key, Row]) -> Callable[[Where], Any]:
        operations, index = self._operations, self.index
        if operations.native is not None:
            answer, container = (KNOWN_KEY, rows) if index is None else (ENTRY, index.entries)
            probe = operations.native.probe(names, self.attributes, answer, container, CONVERT)
            if probe is not None:
                return probe
        found = "key if key in rows else None" if index is None else "get(key)"
        get = None if index is None else index.entries.get
        return operations.compile_lookup(names, self.attributes, CONVERT, found, rows=rows, get=get)

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
