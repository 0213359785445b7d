"""Generators: straight-line functions for the rows of one table, compiled from its shape, or the same in C.

``create_record`` and the end of an update run hundreds of thousands of times a second in a replay; looping over columns would cost more
than the work itself. So functions are generated: with the test for the usual type inline, and the full conversion only for what fails it.
Generated source holds attribute names (checked identifiers), numbers, and nothing else of the user's; all values come by namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from sequent_py.column_types import key, passes
from sequent_py.conversions import is_same, loader
from sequent_py.errors import UnknownColumn
from sequent_py.native import native
from sequent_py.persistors import DuplicateRecord
from sequent_py.persistors.native import column_sources, native_table
from sequent_py.persistors.tables import TableShape
from sequent_py.records import ColumnShape
from sequent_py.row_classes import Row, compile_functions

Key = Any
"""What stands for a row's primary key in memory: one value, or a tuple of them. Keys sort as the server sorts primary keys."""
Where = Mapping[str, Any]
Values = dict[str, Any]

Entry = tuple[Sequence[str], dict[Any, Any], Callable[[Any, Any, Key], None]]
"""An index as generated code knows it: its attributes, its entries, and what to do when a value has an entry."""


@dataclass(frozen=True, slots=True)
class Storing:
    """Where a function that makes rows stores them."""

    rows: dict[Key, Row]
    indexes: Sequence[Entry]
    changes: tuple[dict[Key, None], dict[Key, Values]] | None
    """The keys of rows that a relation behind ``rows`` does not have, and of those that it has and memory has not; None where there is no relation."""


_NAMES = {"UUID": UUID, "datetime": datetime, "date": date, "UTC": UTC, "NUL": "\0", "new": object.__new__}


class RowGenerators:
    """What functions of one table's rows are made of, and how."""

    def __init__(self, table: TableShape) -> None:
        shape = table.record_shape
        self.table, self.shape, self.name = table, shape, shape.name
        self.native = native_table(table)
        """How rows of the table are handled in C; None where everything is generated Python."""
        self.columns = shape.by_attribute
        self.key_attributes = tuple(column.attribute for column in shape.key_columns)

    def column(self, attribute: str) -> ColumnShape:
        """Return a column by attribute; UnknownColumn for others."""
        column = self.columns.get(attribute)
        if column is None:
            raise UnknownColumn(self.name, attribute, tuple(self.columns))
        return column

    def key_values(self, row: Row) -> Values:
        """Return the primary key by attribute."""
        return {name: getattr(row, name) for name in self.key_attributes}

    def duplicate(self, row: Row) -> DuplicateRecord:
        """Return the error for a row whose primary key exists."""
        return DuplicateRecord(self.name, self.key_values(row))

    def compile_key(self, attributes: Sequence[str]) -> Callable[[Row], Key]:
        """Return the function from a row to what stands for these of its values: one value, or a tuple for none or several."""
        parts = [self._key_source(name, f"row.{name}") for name in attributes]
        source = f"def key_of(row):\n    return {_joined(parts)}"
        key_of: Callable[[Row], Key] = compile_functions(source, _NAMES, "key_of")["key_of"]
        return key_of

    def compile_lookup(
        self,
        names: Sequence[str],
        attributes: Sequence[str],
        otherwise: Any,
        answer: str = "key",
        **namespace: Any,
    ) -> Callable[[Where], Any]:
        """Return the function from filters given in the order of ``names`` to ``answer``: source that may use ``key`` and ``namespace``.

        ``key`` is the key of an index on ``attributes``. The function returns ``otherwise`` when a value is not one that the column
        stores as it is: a list, None, or something to be converted.
        """
        variables = {name: f"v{number}" for number, name in enumerate(names)}
        tests = [f"({passes(self.columns[name].type, variable)})" for name, variable in variables.items()]
        parts = [key(self.columns[name].type, variables[name]) for name in attributes]
        lines = ["def lookup(where):"]
        if variables:
            lines.append(f"    ({', '.join(variables.values())},) = where.values()")
        lines += [
            f"    if {' and '.join(tests) or 'True'}:",
            f"        key = {_joined(parts)}",
            f"        return {answer}",
            "    return otherwise",
        ]
        names_used = {**_NAMES, **namespace, "otherwise": otherwise}
        lookup: Callable[[Where], Any] = compile_functions("\n".join(lines), names_used, "lookup")["lookup"]
        return lookup

    def compile_values(self, names: Sequence[str]) -> Callable[[Where], tuple[Any, ...] | None]:
        """Return the function from filters given in the order of ``names`` to their values; None where a column does not store one of them as it is."""
        variables = [f"v{number}" for number in range(len(names))]
        tests = [
            f"({passes(self.columns[name].type, variable)})"
            for name, variable in zip(names, variables, strict=True)
        ]
        lines = ["def values_of(where):", "    values = tuple(where.values())"]
        if variables:
            lines.append(f"    ({', '.join(variables)},) = values")
        lines.append(f"    return values if {' and '.join(tests) or 'True'} else None")
        values_of: Callable[[Where], tuple[Any, ...] | None] = compile_functions(
            "\n".join(lines), _NAMES, "values_of"
        )["values_of"]
        return values_of

    def value_key(self, attribute: str) -> Callable[[Any], Any]:
        """Return the function from a converted value of one column to what stands for it in keys."""
        # Filters may ask for None even where no row has it.
        found = key(self.columns[attribute].type, "value")
        source = f"def value_key(value):\n    return None if value is None else {found}"
        value_key: Callable[[Any], Any] = compile_functions(source, _NAMES, "value_key")["value_key"]
        return value_key

    def _key_source(self, attribute: str, value: str) -> str:
        column = self.columns[attribute]
        source = key(column.type, value)
        if source == value or not column.nullable:
            return source
        return f"(None if {value} is None else {source})"

    def compile_finish(self, key_attributes: Iterable[str]) -> Callable[[Row, Row], bool]:
        """Return the function ``finish(after, before)`` that converts in place what an update's block has set.

        It answers whether one of ``key_attributes`` may have changed. Values that the block left alone are not looked at.
        """
        if self.native is not None:
            compiled: Callable[[Row, Row], bool] = native.Finisher(
                self.native.layout, tuple(dict.fromkeys(key_attributes))
            )
            return compiled
        names: dict[str, Any] = dict(_NAMES)
        lines = ["def finish(after, before):"]
        for number, (name, column) in enumerate(self.columns.items()):
            names[f"c{number}"] = column.coerce
            lines.append(f"    v = after.{name}")
            if column.mutable:
                # The clone's value is a copy, so identity says nothing.
                lines.append(f"    after.{name} = c{number}(v)")
            else:
                lines.append(f"    if v is not before.{name} and not ({passes(column.type, 'v')}):")
                lines.append(f"        after.{name} = c{number}(v)")
        moved = [f"after.{name} is not before.{name}" for name in dict.fromkeys(key_attributes)]
        lines.append(f"    return {' or '.join(moved) or 'False'}")
        finish: Callable[[Row, Row], bool] = compile_functions("\n".join(lines), names, "finish")["finish"]
        return finish

    def compile_changed(self) -> Callable[[Row, Row], Values]:
        lines = ["def changed(before, after):", "    found = {}"]
        for name in self.columns:
            lines += [
                f"    v = after.{name}",
                f"    if v is not before.{name} and not is_same(before.{name}, v):",
                f"        found[{name!r}] = v",
            ]
        lines.append("    return found")
        names = {"is_same": is_same}
        changed: Callable[[Row, Row], Values] = compile_functions("\n".join(lines), names, "changed")[
            "changed"
        ]
        return changed

    def compile_create(
        self,
        given: Sequence[str],
        drawer: Callable[[str], Callable[[], Any]],
        store: Storing | None = None,
    ) -> Callable[[Where], Row]:
        """Return the function that makes a locked row of values given in the order of ``given``, all defaults included.

        With ``store`` it stores the row, too. Conversions come first, then draws: a row that is refused uses up no number.

        Raises
        ------
        UnknownColumn
            One of ``given`` is no column.
        """
        for name in given:
            self.column(name)
        made = self._native_create(given, drawer, store)
        if made is not None:
            return made
        names: dict[str, Any] = {
            **_NAMES,
            "Row": self.shape.row_class,
            "Locked": self.shape.locked_row_class,
            "duplicate": self.duplicate,
        }
        variables = {name: f"v{number}" for number, name in enumerate(given)}
        lines = ["def create(values):"]
        if variables:
            lines.append(f"    ({', '.join(variables.values())},) = values.values()")
        for name, variable in variables.items():
            names[f"c{variable}"] = self.columns[name].coerce
            test = passes(self.columns[name].type, variable)
            lines += [f"    if not ({test}):", f"        {variable} = c{variable}({variable})"]
        conversions, draws, sources = self._default_sources(variables, drawer, names)
        lines += [*conversions, *draws, "    row = new(Row)"]
        lines += [f"    row.{name} = {source}" for name, source in sources.items()]
        lines.append("    row.__class__ = Locked")
        if store is not None:
            lines += self._store_source(store, names)
        lines.append("    return row")
        create: Callable[[Where], Row] = compile_functions("\n".join(lines), names, "create")["create"]
        return create

    def _native_create(
        self,
        given: Sequence[str],
        drawer: Callable[[str], Callable[[], Any]],
        store: Storing | None,
    ) -> Callable[[Where], Row] | None:
        entries = store.indexes if store is not None else ()
        dirty, gone = (store.changes if store is not None else None) or (None, None)
        keyed = [*self.key_attributes, *(name for attributes, _, _ in entries for name in attributes)]
        if self.native is None or not self.native.can_key(keyed):
            return None
        create: Callable[[Where], Row] = native.Creator(
            self.native.layout,
            tuple(given),
            *column_sources(self.columns, given, self.table, drawer),
            self.key_attributes,
            None if store is None else store.rows,
            tuple((tuple(attributes), found, collide) for attributes, found, collide in entries),
            dirty,
            gone,
            self.duplicate,
        )
        return create

    def _default_sources(
        self, given: Mapping[str, str], drawer: Callable[[str], Callable[[], Any]], names: dict[str, Any]
    ) -> tuple[list[str], list[str], dict[str, str]]:
        """Return lines that convert defaults, lines that draw them, and the source of every column's value."""
        conversions: list[str] = []
        draws: list[str] = []
        sources = dict(given)
        for number, (name, column) in enumerate(self.columns.items(), start=len(given)):
            if name in given:
                continue
            variable = sources[name] = f"v{number}"
            names[f"c{variable}"] = column.coerce
            constant = self.table.constant_defaults.get(name)
            if name in self.shape.python_defaults:
                names[f"d{variable}"] = self.shape.python_defaults[name]
                conversions.append(f"    {variable} = c{variable}(d{variable}())")
            elif name in self.table.drawn_defaults:
                names[f"d{variable}"] = drawer(name)
                draws.append(f"    {variable} = d{variable}()")
            elif constant is not None:
                names[f"d{variable}"] = constant
                # JSON and arrays are copied by their conversion.
                sources[name] = f"c{variable}(d{variable})" if column.mutable else f"d{variable}"
            else:
                sources[name] = "None"
                if not column.nullable:
                    conversions.append(f"    c{variable}(None)")
        return conversions, draws, sources

    def _store_source(self, store: Storing, names: dict[str, Any]) -> list[str]:
        names["enter"] = store.rows.setdefault
        lines = [
            f"    key = {_joined([self._key_source(name, f'row.{name}') for name in self.key_attributes])}",
            "    if enter(key, row) is not row:",
            "        raise duplicate(row)",
        ]
        for number, (attributes, entered, collide) in enumerate(store.indexes):
            names[f"enter{number}"], names[f"collide{number}"] = entered.setdefault, collide
            lines += [
                f"    value = {_joined([self._key_source(name, f'row.{name}') for name in attributes])}",
                f"    found = enter{number}(value, key)",
                "    if found is not key:",
                f"        collide{number}(value, found, key)",
            ]
        if store.changes is not None:
            names["dirty"], names["gone"] = store.changes
            lines += ["    dirty[key] = None", "    if gone:", "        gone.pop(key, None)"]
        return lines

    def compile_load(self) -> Callable[[Sequence[Any]], Row]:
        """Return the function that makes a locked row of what the driver returned for all columns."""
        names: dict[str, Any] = {**_NAMES, "Row": self.shape.row_class, "Locked": self.shape.locked_row_class}
        parameters = ", ".join(f"v{number}" for number in range(len(self.columns)))
        lines = ["def load(values):", f"    ({parameters},) = values", "    row = new(Row)"]
        for number, (name, column) in enumerate(self.columns.items()):
            load = loader(column.type)
            names[f"l{number}"] = load
            # What the driver loads for us in UTC need not be asked for it.
            as_it_is = f"v{number} is None" + (
                f" or v{number}.tzinfo is UTC" if column.type.family == "timestamptz" else ""
            )
            value = f"v{number}" if load is None else f"v{number} if {as_it_is} else l{number}(v{number})"
            lines.append(f"    row.{name} = {value}")
        lines += ["    row.__class__ = Locked", "    return row"]
        function: Callable[[Sequence[Any]], Row] = compile_functions("\n".join(lines), names, "load")["load"]
        return function


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({''.join(part + ', ' for part in parts)})"
