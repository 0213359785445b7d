"""Operations: what every persistor does to values and rows of one table, compiled once per table (see :mod:`.generators`).

Filters are parsed here too, so that both persistors accept and refuse the same ones, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sequent_py.errors import DefinitionError, InvalidFilter
from sequent_py.persistors.generators import Key, RowGenerators, Values, Where
from sequent_py.persistors.tables import TableShape
from sequent_py.records import ColumnShape
from sequent_py.row_classes import Row

SEVERAL = (list, tuple, set, frozenset)
"""What filters name several values by."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One parsed filter: any of ``values``, None among them meaning IS NULL. ``is_scalar`` tells a value from a list of one."""

    column: ColumnShape
    values: tuple[Any, ...]
    is_scalar: bool


class RowOperations(RowGenerators):
    """The compiled operations of one table; shared by all persistors on it through ``TableShape.memo``."""

    def __init__(self, table: TableShape) -> None:
        super().__init__(table)
        shape = self.shape
        self.clone: Callable[[Row], Row] = shape.clone if self.native is None else self.native.layout.clone
        """Copies a row into a writable one."""
        self.key_of: Callable[[Row], Key] = self.compile_key(self.key_attributes)
        self.lock = shape.lock
        self.detach: Callable[[Row], Row] | None = self._detach if shape.has_mutable else None
        """Copies a row for a reader who could change JSON or arrays in place; None where rows can be shared."""
        self.load: Callable[[Sequence[Any]], Row] = self.compile_load()
        self.finish = self.compile_finish(self.key_attributes)
        self.changed: Callable[[Row, Row], Values] = self.compile_changed()
        """From a row as it was and as it is to the values, by attribute, in which they differ as stored."""

    def _detach(self, row: Row) -> Row:
        return self.lock(self.clone(row))

    # Checking

    def coerced(self, values: Mapping[str, Any]) -> Values:
        """Convert the values of some columns; every name is checked before any value."""
        columns = [self.column(name) for name in values]
        return {
            name: column.coerce(value) for column, (name, value) in zip(columns, values.items(), strict=True)
        }

    def completed(self, values: Mapping[str, Any]) -> Values:
        """Convert the values of a new row and add Python defaults; columns that are left to the table's defaults stay out.

        A column that nothing fills and that is NOT NULL is an InvalidValue.
        """
        row = self.coerced(values)
        table = self.table
        for name, column in self.columns.items():
            if name in row:
                continue
            default = self.shape.python_defaults.get(name)
            if default is not None:
                row[name] = column.coerce(default())
            elif name not in table.constant_defaults and name not in table.drawn_defaults:
                row[name] = column.coerce(None)
        return row

    def filters(self, where: Where) -> list[Filter]:
        """Parse keyword filters.

        Raises
        ------
        UnknownColumn, InvalidFilter, InvalidValue
        """
        columns = [self.column(name) for name in where]
        for column in columns:
            if column.type.unfilterable:
                raise InvalidFilter(self.name, column.attribute, column.type.unfilterable)
        return [_filter(column, value) for column, value in zip(columns, where.values(), strict=True)]

    def touch(self, row: Row, touched: Mapping[str, Any]) -> None:
        """Set the columns that note an event, before the block."""
        for name, value in touched.items():
            if name not in self.columns:
                self.column(name)
            setattr(row, name, value)

    def draft(self, filters: Iterable[Filter], draw: Callable[[str], Any]) -> Row:
        """Return a writable new row with the filters' values and every default; columns that nothing fills are None until the block ends.

        Raises
        ------
        InvalidFilter
            A filter names several values: there is no telling which one the new row has.
        """
        values: Values = {}
        for item in filters:
            if not item.is_scalar:
                raise InvalidFilter(self.name, item.column.attribute, "a new row needs one value, not a list")
            values[item.column.attribute] = item.values[0]
        table = self.table
        for name, column in self.columns.items():
            if name in values:
                continue
            if name in self.shape.python_defaults:
                values[name] = column.coerce(self.shape.python_defaults[name]())
            elif name in table.drawn_defaults:
                values[name] = draw(name)
            else:
                values[name] = table.constant_defaults.get(name)
        # Cloned for the sake of constant defaults that could be changed in place.
        return self.clone(self.shape.new_row([values[name] for name in self.columns]))

    def fill(self, values: Values, draw: Callable[[str], Any]) -> Row:
        """Return the locked row of completed values, the table's defaults added."""
        table = self.table
        for name in self.columns:
            if name not in values:
                values[name] = draw(name) if name in table.drawn_defaults else table.constant_defaults[name]
        row = self.shape.new_row([values[name] for name in self.columns])
        return row if self.detach is None else self.detach(row)

    def check_draft(self, row: Row) -> None:
        """Convert every value of a new row in place."""
        if self.native is not None:
            self.native.layout.convert(row)
            return
        for name, column in self.columns.items():
            setattr(row, name, column.coerce(getattr(row, name)))

    def key_filters(self, row: Row) -> Values:
        """Return the filters that find a row given by a handler."""
        if not isinstance(row, self.shape.row_class):
            raise DefinitionError(f"A row of {self.name} is needed, not {row!r:.80}.")
        return self.key_values(row)


def _filter(column: ColumnShape, value: Any) -> Filter:
    is_scalar = not isinstance(value, SEVERAL)
    values = [value] if is_scalar else value
    # Each value once: a dictionary keeps the order, a set would not be the same in the next process.
    converted = {None if item is None else column.coerce(item): None for item in values}
    return Filter(column, tuple(converted), is_scalar)


def operations_of(table: TableShape) -> RowOperations:
    """Return the operations of a table, compiled at first use."""
    return table.derived(RowOperations)
