"""Blocks: the updates of rows in memory, as context managers.

Small classes with slots, not generators: an update enters and leaves one hundreds of thousands of times a second. The copy that a block
yields is locked when the block ends, whatever happened, and becomes the stored row only if the block and all conversions went well.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sequent_py.persistors.generators import Key, Where
from sequent_py.row_classes import Row

if TYPE_CHECKING:
    from sequent_py.persistors.memory import MemoryTable


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
            table.refuse_missing(self._where)
        return self._begin(key)

    def _begin(self, key: Key) -> Row:
        table = self._table
        self._key = key
        self._before = before = table.rows[key]
        self._after = after = table.clone(before)
        if self._touched:
            table.operations.touch(after, self._touched)
        return after

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        table, after = self._table, self._after
        try:
            if kind is None:
                key, before = self._key, self._before
                has_moved = table.finish(after, before)
                if has_moved or table.residency is not None or not table.shares_rows:
                    table.store(key, before, after, has_moved)
                elif table.rows.get(key) is before:
                    # The usual end, spelt out: no key changed, nothing behind memory, nobody else wrote the row.
                    table.rows[key] = after
                else:
                    table.store(key, before, after, has_moved)
        finally:
            after.__class__ = table.locked_row_class


class MemoryUpsert(MemoryUpdate):
    """The block of a create-or-update: yields a new row where none matches."""

    __slots__ = ()

    def __enter__(self) -> Row:
        table, operations = self._table, self._table.operations
        key = table.first(self._where)
        if key is not None:
            return self._begin(key)
        self._before = None
        self._after = operations.draft(operations.filters(self._where), table.draw)
        operations.touch(self._after, self._touched)
        return self._after

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            super().__exit__(kind, error, traceback)
            return
        table, after = self._table, self._after
        try:
            if kind is None:
                table.operations.check_draft(after)
                table.insert(table.operations.lock(table.clone(after)))
        finally:
            after.__class__ = table.locked_row_class
