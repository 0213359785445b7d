"""Native: which tables have their rows in memory handled in C, and how.

``sequent_py._native`` does what ``operations``, ``indexes`` and ``blocks`` do in generated Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any

from psycopg.pq import Format

from sequent_py.column_types import ColumnType
from sequent_py.conversions import dumper, json_text, loader, padding
from sequent_py.cursors import SHIPPED
from sequent_py.native import IS_NATIVE, native

if TYPE_CHECKING:
    from sequent_py.persistors.tables import TableShape
    from sequent_py.records import ColumnShape

# The numbers of enum Kind, enum KeyPart, enum Source and enum Answer in _native.c.
_KINDS = (
    *("int2", "int4", "int8", "bool", "uuid", "timestamptz", "date", "text", "float8"),
    *("numeric", "json", "jsonb", "array", "enum", "driver"),
)
_DRIVEN = frozenset({"timestamp", "time", "interval", "bytea", "float4"})
"""Types whose binary form the driver makes, value by value, so that a column of them does not leave the whole table to it."""
_OTHER = 0
_PLAIN, _UUID_INT, _NAME, _NO_KEY = range(4)
NULL_VALUE, CONSTANT, COPIED_CONSTANT, PYTHON_DEFAULT, DRAWN, REFUSED = range(6)
KNOWN_KEY, ENTRY = range(2)
MOST_FILTERS = 16

_ELEMENTS = frozenset(
    {
        "int2",
        "int4",
        "int8",
        "bool",
        "uuid",
        "timestamptz",
        "date",
        "text",
        "varchar",
        "bpchar",
        "float8",
        "numeric",
    }
)
"""Arrays of these are written and read."""

Details = tuple[int, int, int, int, int, int, bool, Any]
"""What a column's type says besides its kind, as struct Details has it."""


class NativeTable:
    """The layout of one table's rows, and what of the table can be handled by it."""

    def __init__(self, table: TableShape) -> None:
        shape = table.record_shape
        self._columns = shape.by_attribute
        self.layout = native.Layout(
            shape.row_class,
            shape.locked_row_class,
            tuple(column.attribute for column in shape.columns),
            tuple(_kind(column.type) for column in shape.columns),
            tuple(_key_part(column.type) for column in shape.columns),
            tuple(_wire(column.type) for column in shape.columns),
            tuple(column.coerce for column in shape.columns),
            tuple(_details(column) for column in shape.columns),
        )
        self.can_dump = all(_wire(column.type) != _OTHER for column in shape.columns)
        """Whether rows can be written as binary COPY, and read."""

    def can_key(self, attributes: Sequence[str]) -> bool:
        """Whether values of these columns can be keys."""
        return all(_key_part(self._columns[name].type) != _NO_KEY for name in attributes)

    def probe(
        self, names: Sequence[str], attributes: Sequence[str], answer: int, container: Any, otherwise: Any
    ) -> Callable[[Any], Any] | None:
        """Return the probe for filters of these names; None where it has to be a generated function."""
        if len(names) > MOST_FILTERS or not self.can_key(attributes):
            return None
        probe: Callable[[Any], Any] = native.Probe(
            self.layout,
            tuple(names),
            tuple(attributes),
            answer,
            tuple(attributes) == ("aggregate_id",),
            container,
            otherwise,
        )
        return probe


def native_table(table: TableShape) -> NativeTable | None:
    """Return how a table is handled in C; None where it is not."""
    if not IS_NATIVE:
        return None
    return table.derived(NativeTable)


def _kind(column_type: ColumnType) -> int:
    """Return by which test a value is stored as it is, and what is made of the commonest others; 0: all are for the column's conversion."""
    match column_type:
        case ColumnType(family="integer" | "boolean" | "uuid" | "date" | "numeric" | "json", name=name):
            return _number(name)
        case ColumnType(name="timestamptz", precision=None):
            return _number("timestamptz")
        case ColumnType(name="text" | "varchar", labels=None, members=None):
            return _number("text")
        case ColumnType(name="float8"):
            return _number("float8")
        case ColumnType(family="array"):
            return _number("array")
    return _OTHER if _class_of(column_type) is None else _number("enum")


def _class_of(column_type: ColumnType) -> type[Enum] | None:
    """Return the enum whose members, and nothing else, such a column holds; None where there is none."""
    members = set((column_type.members or {}).values())
    cls = type(next(iter(members))) if members else None
    return cls if cls is not None and not issubclass(cls, Flag) and members == set(cls) else None


def _details(column: ColumnShape) -> Details:
    column_type, nullable = column.type, column.nullable
    most = -1 if column_type.length is None else column_type.length
    element = column_type.element
    match column_type:
        case ColumnType(family="numeric", precision=int(precision), scale=int(scale)):
            return precision, scale, _OTHER, _OTHER, -1, 0, nullable, padding(scale)
        case ColumnType(family="json"):
            return most, 0, _OTHER, _OTHER, -1, 0, nullable, (json_text, json.loads)
    if column_type.members is not None:
        labels = {member.name: label for label, member in column_type.members.items()}
        helper = _class_of(column_type), labels, dict(column_type.members)
        return most, 0, _OTHER, _OTHER, -1, 0, nullable, helper
    if element is None:
        helper_of_driver = _by_driver(column_type) if column_type.name in _DRIVEN else None
        return most, 0, _OTHER, _OTHER, -1, 0, nullable, helper_of_driver
    # What would need details of its own is converted in Python.
    kind = _OTHER if element.family == "numeric" or element.members is not None else _kind(element)
    most_each = -1 if element.length is None else element.length
    return most, 0, kind, _wire(element), most_each, _oid(element), nullable, None


def _by_driver(column_type: ColumnType) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return what makes a stored value binary, and what makes it a stored value again."""
    oid = _oid(column_type)
    dump = SHIPPED.get_dumper_by_oid(oid, Format.BINARY)(object).dump
    of_driver = SHIPPED.get_loader(oid, Format.BINARY)
    assert of_driver is not None
    load, stored = of_driver(oid).load, loader(column_type)
    return dump, load if stored is None else lambda data: stored(load(data))


def _oid(column_type: ColumnType) -> int:
    found = SHIPPED.types.get(column_type.name)
    return 0 if found is None else found.oid


def _key_part(column_type: ColumnType) -> int:
    """Return what stands for a value in keys; see ``column_types.key``."""
    if column_type.family == "uuid":
        return _UUID_INT
    if column_type.members is not None:
        return _NAME
    return _NO_KEY if column_type.name == "bpchar" else _PLAIN


def _wire(column_type: ColumnType) -> int:
    """Return in which binary form COPY takes a value that is stored, and gives it; other where the driver has to see to it."""
    if column_type.members is not None:
        return _OTHER if _class_of(column_type) is None else _number("enum")
    if dumper(column_type) is not None:
        return _OTHER
    if column_type.element is not None:
        return _number("array") if column_type.element.name in _ELEMENTS else _OTHER
    if column_type.name in _DRIVEN:
        return _number("driver")
    name = "text" if column_type.family == "text" else column_type.name
    return _number(name) if name in _KINDS else _OTHER


def _number(name: str) -> int:
    return _KINDS.index(name) + 1


def column_sources(
    columns: Mapping[str, ColumnShape], given: Sequence[str], table: TableShape, drawer: Callable[[str], Any]
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[Any, ...]]:
    """Return the columns that are not given, where their values come from, and the constants or functions for it."""
    others: list[tuple[str, int, Any]] = []
    for name, column in columns.items():
        if name in given:
            continue
        constant = table.constant_defaults.get(name)
        if name in table.record_shape.python_defaults:
            others.append((name, PYTHON_DEFAULT, table.record_shape.python_defaults[name]))
        elif name in table.drawn_defaults:
            others.append((name, DRAWN, drawer(name)))
        elif constant is not None:
            others.append((name, COPIED_CONSTANT if column.mutable else CONSTANT, constant))
        else:
            others.append((name, NULL_VALUE if column.nullable else REFUSED, None))
    return (
        tuple(name for name, _, _ in others),
        tuple(source for _, source, _ in others),
        tuple(value for _, _, value in others),
    )
