"""Columns in SQL: from a field's value to exactly what the column's converter (:mod:`sequent_py.conversions`) makes of it.

Pairs of kind and column type are listed; others are :class:`Inexpressible`. Where PostgreSQL's own cast would take what the converter
refuses (a text that is cut to ``varchar(5)``), a check goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from psycopg import sql

from sequent_py.declared.payloads import Inexpressible, PayloadField
from sequent_py.persistors.statements import dump_parameter
from sequent_py.persistors.tables import TableShape
from sequent_py.records import ColumnShape

_PLAIN: Mapping[str, tuple[str, ...]] = {
    "integer": ("int",),
    "numeric": ("int", "decimal"),
    "float": ("float", "int"),
    "boolean": ("bool",),
    "uuid": ("uuid",),
    "date": ("date",),
    "timestamptz": ("aware",),
    "timestamp": ("naive",),
    "text": ("str",),
}
"""By family of the column: the kinds that its converter takes."""


def cast_to(table: TableShape, column: ColumnShape) -> sql.Composable:
    """Return the column's type, precision included where a cast rounds by it."""
    found = column.type
    if found.name == "numeric" and found.precision is not None:
        return sql.SQL("numeric({}, {})").format(sql.Literal(found.precision), sql.Literal(found.scale))
    return sql.SQL(table.type_texts[column.attribute])


def wanted_kind(column: ColumnShape, field: PayloadField) -> str:
    """Return how a column reads a field.

    Raises
    ------
    Inexpressible
        SQL would not give what the converter gives.
    """
    kind = field.kind
    if kind == "datetime":
        kind = "naive" if column.type.family == "timestamp" else "aware"
    named = f"{column.record_name}.{column.attribute} is {column.type}"
    if kind not in _PLAIN.get(column.type.family, ()) or not _is_simple(column):
        raise Inexpressible(f"{named}, and {field.name} is {kind}")
    if field.enum is not None:
        is_text = column.type.members is None and issubclass(field.enum, str)
        if not is_text and _members_by_value(column, field.enum) is None:
            raise Inexpressible(f"{named}, and {field.name} is the enum {field.enum.__name__}")
    elif column.type.members is not None:
        raise Inexpressible(f"{named} of an enum's members, and {field.name} is a text")
    return kind


def _is_simple(column: ColumnShape) -> bool:
    match column.type.name:
        case "timestamptz" | "timestamp":
            return column.type.precision is None
        case "float4" | "bpchar":
            return False
        case _ if column.type.family == "text":
            return column.type.name in ("text", "varchar", "enum")
    return True


def _members_by_value(column: ColumnShape, enum: type[Enum]) -> dict[str, str] | None:
    """Return labels by the members' values, if the column holds members of this enum and nothing else."""
    members = column.type.members
    if members is None or not all(type(member) is enum for member in members.values()):
        return None
    labels = {member.value: label for label, member in members.items()}
    return labels if {member.value for member in enum} == set(labels) else None


def column_value(
    table: TableShape, column: ColumnShape, field: PayloadField, value: sql.Composable
) -> sql.Composable:
    """Return the column's value of a field's value, which is of the kind that :func:`wanted_kind` says."""
    if field.enum is not None and (labels := _members_by_value(column, field.enum)) is not None:
        cases = [
            sql.SQL("WHEN {} THEN {}").format(sql.Literal(item), sql.Literal(label))
            for item, label in labels.items()
        ]
        value = sql.SQL("CASE {} {} END").format(value, sql.SQL(" ").join(cases))
    if column.type.family == "text" and column.type.name != "enum":
        return value
    return sql.SQL("({})::{}").format(value, cast_to(table, column))


def column_check(column: ColumnShape, value: sql.Composable) -> sql.Composed | None:
    """Return the condition under which :func:`column_value` is what the converter gives; None where it always is."""
    if column.type.name == "varchar" and column.type.length is not None:
        return sql.SQL("({0} IS NULL OR char_length({0}) <= {1})").format(
            value, sql.Literal(column.type.length)
        )
    return None


def constant(table: TableShape, column: ColumnShape, value: Any) -> sql.Composable:
    """Return a constant as the column's value."""
    if not _is_simple(column) or column.type.family not in _PLAIN:
        raise Inexpressible(
            f"{column.record_name}.{column.attribute} is {column.type}, which gets a constant"
        )
    converted = column.coerce(value)
    if converted is not None:
        dump = dump_parameter(column)
        converted = converted if dump is None else dump(converted)
    return sql.SQL("{}::{}").format(sql.Literal(converted), cast_to(table, column))
