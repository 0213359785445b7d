"""Copying: rows into a relation by COPY.

Binary, with the columns' types set, which is twice as fast as text. Types that came with an extension or an application are sent as text,
whose binary form is the text itself. Arrays of them name their element type by number in binary form, so tables that have such a column
are copied as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.binary_copy import BEGINNING, TRAILER
from sequent_py.column_types import ColumnType
from sequent_py.persistors.native import native_table
from sequent_py.persistors.statements import dump_parameter
from sequent_py.persistors.tables import TableShape
from sequent_py.row_classes import Row, compile_functions

_ROWS_PER_BLOCK = 1_000
_BINARY_NAMES = {"varchar": "text", "bpchar": "text"}
_OWN_NAMES = frozenset(
    {"int2", "int4", "int8", "bool", "float4", "float8", "numeric", "text", "uuid", "timestamptz", "timestamp", "date", "time"}
    | {"interval", "bytea", "json", "jsonb"}
)  # fmt: skip


class RowCopier:
    """Copies rows of one table's shape; made once per table."""

    def __init__(self, table: TableShape) -> None:
        shape = table.record_shape
        self._columns = shape.columns
        names = [_binary_name(column.type) for column in shape.columns]
        self._native = native_table(table)
        self._types = None if None in names else [name for name in names if name is not None]
        self._dump_row = _compile_dump(
            [column.attribute for column in shape.columns],
            [dump_parameter(column) for column in shape.columns],
        )

    def copy(self, cursor: psycopg.Cursor[Any], relation: Sequence[str], rows: Iterable[Row]) -> int:
        """Append rows to ``relation`` (schema and name, or a temporary table's name alone) and return how many."""
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in self._columns)
        wire_format = sql.SQL("") if self._types is None else sql.SQL("(FORMAT binary)")
        statement = sql.SQL("COPY {} ({}) FROM STDIN {}").format(
            sql.Identifier(*relation), columns, wire_format
        )
        dump_row = self._dump_row
        with cursor.copy(statement) as copy:
            if self._native is not None and self._native.can_dump:
                for block in _blocks(self._native.layout.dump, rows):
                    copy.write(block)
            else:
                if self._types is not None:
                    copy.set_types(self._types)
                write_row = copy.write_row
                for row in rows:
                    write_row(dump_row(row))
        return cursor.rowcount


def _blocks(dump: Callable[[list[Row]], bytes], rows: Iterable[Row]) -> Iterator[bytes]:
    """Yield a whole binary COPY of ``rows``."""
    yield BEGINNING
    remaining = iter(rows)
    while some := list(islice(remaining, _ROWS_PER_BLOCK)):
        yield dump(some)
    yield TRAILER


def _binary_name(column_type: ColumnType) -> str | None:
    """Return the name of the driver's type that writes the column's binary form; None where there is none."""
    if column_type.element is not None:
        return column_type.name if column_type.element.name in _OWN_NAMES else None
    name = _BINARY_NAMES.get(column_type.name, column_type.name)
    return name if name in _OWN_NAMES else "text"


def _compile_dump(
    attributes: Sequence[str], dumpers: Sequence[Callable[[Any], Any] | None]
) -> Callable[[Row], tuple[Any, ...]]:
    parts = []
    for number, (name, dump) in enumerate(zip(attributes, dumpers, strict=True)):
        value = f"row.{name}"
        parts.append(value if dump is None else f"None if {value} is None else d{number}({value})")
    source = f"def dump(row):\n    return ({''.join(part + ', ' for part in parts)})"
    names = {f"d{number}": dump for number, dump in enumerate(dumpers)}
    function: Callable[[Row], tuple[Any, ...]] = compile_functions(source, names, "dump")["dump"]
    return function


def copier_of(table: TableShape) -> RowCopier:
    """Return the copier of a table, compiled at first use."""
    return table.derived(RowCopier)
