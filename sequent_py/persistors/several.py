"""Several rows at once: what ``create_records``, ``update_all_records`` and the deletions do to a table in memory.

All of it happens or none. Filters and values that need no conversion, and rows that memory speaks for alone, take a short way past the parsing of filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sequent_py.persistors.generators import Key, Values, Where
from sequent_py.persistors.memory import MemoryTable
from sequent_py.row_classes import Row


def create_all(table: MemoryTable, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Make, store and return rows."""
    given = [dict(values) for values in rows]
    if len(given) == 1:
        return [table.create(given[0])]
    made = table.make_all(given)
    keys: dict[Key, None] = {}
    for row in made:
        key = table.operations.key_of(row)
        if key in keys or key in table.rows:
            raise table.operations.duplicate(row)
        keys[key] = None
    for row in made:
        table.insert(row)
    detach = table.operations.detach
    return made if detach is None else [detach(row) for row in made]


def update_all(table: MemoryTable, where: Where, values: Mapping[str, Any]) -> int:
    """Set columns of all matching rows and return how many match."""
    operations, residency = table.operations, table.residency
    if residency is not None and values:
        filters = operations.filters(where)
        if not residency.is_narrow(filters):
            return residency.update_all(filters, operations.coerced(values))
    keys = table.keys(where)
    if len(keys) == 1 and values:
        _update(table, keys[0], values)
        return 1
    converted = operations.coerced(values)
    if any(name in converted for name in operations.key_attributes):
        return _move_all(table, keys, converted)
    if converted:
        for key in keys:
            before = table.rows[key]
            table.swap(key, before, table.with_values(before, converted))
    return len(keys)


def _update(table: MemoryTable, key: Key, values: Mapping[str, Any]) -> None:
    before = table.rows[key]
    after = table.clone(before)
    table.operations.touch(after, values)
    table.store(key, before, after, table.finish(after, before))
    after.__class__ = table.locked_row_class


def _move_all(table: MemoryTable, keys: Sequence[Key], values: Values) -> int:
    """Set parts of the primary key: all rows leave before any comes back."""
    rows = [table.with_values(table.rows[key], values) for key in keys]
    moved: dict[Key, Row] = {}
    staying = set(keys)
    for row in rows:
        key = table.operations.key_of(row)
        is_taken = key in table.rows or (table.residency is not None and table.residency.has(row))
        if key in moved or (is_taken and key not in staying):
            raise table.operations.duplicate(row)
        moved[key] = row
    for key in keys:
        table.remove(key)
    for row in rows:
        table.insert(row)
    return len(rows)


def delete(table: MemoryTable, row: Row) -> int:
    """Remove the row that has the primary key of ``row``, where there is one; 0 or 1."""
    if row.__class__ is table.locked_row_class:
        key = table.operations.key_of(row)
        if key in table.rows:
            table.remove(key)
            return 1
    return delete_all(table, table.operations.key_filters(row))


def delete_all(table: MemoryTable, where: Where) -> int:
    """Remove all matching rows and return how many."""
    if table.residency is not None:
        filters = table.operations.filters(where)
        if not table.residency.is_narrow(filters):
            return table.residency.delete_all(filters)
    keys = table.keys(where)
    for key in keys:
        table.remove(key)
    return len(keys)
