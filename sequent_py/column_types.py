"""Column types: what a PostgreSQL column is, as far as the values in it go.

Pure: no database. A :class:`ColumnType` is a value. What it makes of Python values is in :mod:`sequent_py.conversions`; here is what generated code
(see ``persistors.operations``) has to know of it, as source text: ``passes``, the test that a value needs no conversion, and ``key``, the value that stands
for it in hash indexes and in the order of primary keys.

Families group types between which a record and its table may differ: ``Mapped[int]`` works with ``int2``, ``int4`` and ``int8``. The
table's type decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

INTEGER_BOUNDS = {"int2": 1 << 15, "int4": 1 << 31, "int8": 1 << 63}


@dataclass(frozen=True)
class ColumnType:
    """A column's type as far as values go.

    ``length`` bounds ``varchar`` and ``bpchar``; ``precision`` and ``scale`` those of ``numeric``, and ``precision`` alone the digits of
    a second of timestamps and times. ``labels`` are an enum's, ``members`` the Python members that stand for them in rows.
    """

    name: str
    family: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    labels: tuple[str, ...] | None = None
    members: Mapping[str, Enum] | None = None
    element: ColumnType | None = None
    unfilterable: str = ""
    """Why no filter may name such a column; empty where one may."""

    @property
    def is_mutable(self) -> bool:
        """Whether values can change in place, so that rows must not share them."""
        return self.family in ("json", "array")

    def __str__(self) -> str:
        if self.length is not None:
            return f"{self.name}({self.length})"
        if self.family == "numeric" and self.precision is not None:
            return f"{self.name}({self.precision},{self.scale})"
        return self.name


_FAMILIES = {
    "int2": "integer", "int4": "integer", "int8": "integer", "bool": "boolean", "float4": "float", "float8": "float",
    "numeric": "numeric", "text": "text", "varchar": "text", "bpchar": "text", "uuid": "uuid", "timestamptz": "timestamptz",
    "timestamp": "timestamp", "date": "date", "time": "time", "interval": "interval", "bytea": "bytea", "json": "json",
    "jsonb": "json",
}  # fmt: skip


def simple_type(name: str, **details: Any) -> ColumnType:
    """Return the type of one of PostgreSQL's own names; KeyError for one that is not supported."""
    family = _FAMILIES[name]
    if family == "json":
        details["unfilterable"] = f"{name} values cannot be compared alike in memory and in the table"
    return ColumnType(name, family, **details)


def text_type(name: str, **details: Any) -> ColumnType:
    """Return a type that reads and writes as text: citext, an enum, an extension's string type."""
    return ColumnType(name, "text", **details)


def array_type(element: ColumnType) -> ColumnType:
    """Return the one-dimensional array of ``element``."""
    return ColumnType(f"{element.name}[]", "array", element=element, unfilterable="it is an array")


def passes(column_type: ColumnType, value: str) -> str:
    """Return source for "``value`` (a name) is stored as it is"; may be false for values that convert to themselves."""
    match column_type:
        case ColumnType(family="integer"):
            bound = INTEGER_BOUNDS[column_type.name]
            return f"type({value}) is int and {-bound} <= {value} < {bound}"
        case ColumnType(family="boolean"):
            return f"({value} is True or {value} is False)"
        case ColumnType(family="uuid"):
            return f"type({value}) is UUID"
        case ColumnType(family="timestamptz", precision=None):
            return f"type({value}) is datetime and {value}.tzinfo is UTC"
        case ColumnType(family="date"):
            return f"type({value}) is date"
        case ColumnType(name="text" | "varchar", labels=None, members=None, length=length):
            # Whatever is not ASCII may hold a lone surrogate, which the converter looks for.
            fits = "" if length is None else f" and len({value}) <= {length}"
            return f"type({value}) is str and {value}.isascii() and NUL not in {value}{fits}"
    return "False"


def key(column_type: ColumnType, value: str) -> str:
    """Return source for what stands for ``value`` (source, not None) in indexes; keys sort as the server sorts the values."""
    if column_type.family == "uuid":
        # UUID.__hash__ and __eq__ are Python functions: five times an int's cost, twice in every lookup.
        return f"{value}.int"
    if column_type.name == "bpchar":
        return f"{value}.rstrip(' ')"
    if column_type.members is not None:
        return f"{value}.name"
    return value
