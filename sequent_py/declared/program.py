"""Programs: declared projections as the C module runs them, which folds values where the statement of :mod:`.compiler` would sort, sum up and insert.

The server reads and checks the events, as it does for that statement, and sends one row per event, in the order of positions: the aggregate, the event's
type, and the values that rules read, each of its column's type and in the server's own bytes (binary COPY). ``RowFold`` (``c/rowfold.h``) does what the rules say, event by event, and
writes rows of the same bytes, for COPY to take in. It knows no types but whole numbers that are added up. What it does not do is left to the statement: tables with rules that
delete, several rows of an aggregate that events change, sums of other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import randbits
from typing import Any, cast

import psycopg
from psycopg import sql

from sequent_py.binary_copy import HEADER
from sequent_py.copy_out import copy_out
from sequent_py.declared.compiler import CompiledTable, CompiledTables, Source
from sequent_py.declared.life import ColumnLife, ConstantEffect, Course, case_by_type
from sequent_py.declared.lives import total_name
from sequent_py.declared.payloads import Inexpressible
from sequent_py.declared.readings import Slots
from sequent_py.declared.rules import ChangeKind, RuleKind
from sequent_py.native import native

# The numbers of enum Rule and enum Step in c/rowfold.h.
_RULES: Mapping[RuleKind, int] = {RuleKind.INSERT: 1, RuleKind.UPDATE: 2, RuleKind.UPSERT: 3}
_KEEPS, _ASSIGNS, _ADDS = 0, 1, 2
_STEPS: Mapping[ChangeKind, int] = {
    ChangeKind.ASSIGN: _ASSIGNS,
    ChangeKind.INCREMENT: _ADDS,
    ChangeKind.FIRST: 3,
    ChangeKind.LAST: 4,
}
_WIDTHS: Mapping[str, int] = {"int2": 2, "int4": 4, "int8": 8}
_FIRST_VALUE = 2
"""Of a row that is sent; before it come the aggregate and the event's type."""
_NULL = -1

Step = tuple[int, bool, int]
"""What an event does to a column: a step, whether its value is a constant, and the constant's number or the field's."""


@dataclass(frozen=True)
class WrittenTable:
    """Where the rows of a table go."""

    table: str
    """Its plain name."""
    statement: sql.Composed


@dataclass(frozen=True)
class Program:
    """What ``RowFold`` is to do, and for what it is to be given."""

    tables: Sequence[WrittenTable]
    type_ids: tuple[int, ...]
    _behind_events: sql.Composable
    _told: tuple[Any, ...]

    def begin(self) -> Any:
        """Return a ``RowFold`` that has seen no event."""
        return native.RowFold(*self._told, (randbits(64), randbits(64)))

    def query(self, source: Source) -> sql.Composed:
        """Return the query of a window whose COPY it folds. An event that is not sound is an error (SQLSTATE class 22)."""
        return sql.SQL("WITH e AS (SELECT e.* {}) {}").format(source(self.type_ids), self._behind_events)


def program_of(compiled: CompiledTables, connection: psycopg.Connection[Any]) -> Program | None:
    """Return the program of all tables with events; None where there is no C module, or it could not do one of them.

    Asks the server for the bytes of constants.
    """
    if native is None or not compiled.stored:
        return None
    try:
        return _Writer(compiled).program(connection)
    except Inexpressible:
        return None


class _Writer:
    def __init__(self, compiled: CompiledTables) -> None:
        self._compiled = compiled
        self._type_ids = compiled.events.type_ids
        self._values = Slots()
        self._constants: dict[str, sql.Composable] = {}

    def program(self, connection: psycopg.Connection[Any]) -> Program:
        tables = [self._compiled.by_projector[projector] for projector in self._compiled.stored]
        told = tuple(self._table(table) for table in tables)
        constants = _bytes_of(connection, list(self._constants.values()))
        fields = _FIRST_VALUE + len(list(self._values))
        behind = self._behind_events()
        return Program(
            [_written(table) for table in tables],
            self._type_ids,
            sql.SQL(cast(Any, behind.as_string(None))),
            (fields, self._type_ids, constants, told),
        )

    def _behind_events(self) -> sql.Composed:
        values = [
            case_by_type({(type_id,): value for type_id, value in slot.texts.items()}, self._type_ids)
            for slot in self._values
        ]
        items = [sql.SQL("aggregate_id"), sql.SQL("event_type_id"), *values]
        return sql.SQL("SELECT {} FROM ({}) AS w ORDER BY position").format(
            sql.SQL(", ").join(items), self._compiled.events.select(is_ordered=False)
        )

    def _table(self, table: CompiledTable) -> tuple[Any, ...]:
        kinds = set(table.rule_kinds.values())
        if kinds - _RULES.keys():
            raise Inexpressible("rows are deleted")
        if table.declaration.key and not table.are_events_rows:
            raise Inexpressible("an aggregate has several rows that change")
        rules = tuple(
            _RULES[table.rule_kinds[type_id]] if type_id in table.rule_kinds else 0
            for type_id in self._type_ids
        )
        keys = [self._key(table, name, value) for name, value in table.keys.items()]
        columns = (*keys, *(self._column(table, life) for life in table.lives))
        return table.are_events_rows, self._rising(table), rules, columns

    def _rising(self, table: CompiledTable) -> int:
        """Return the width of the key that rises from row to row: running totals go by the row of the number before, be it the event before or not."""
        if not table.totals:
            return 0
        (name,) = table.keys
        return self._width(table, name)

    @staticmethod
    def _width(table: CompiledTable, name: str) -> int:
        return _WIDTHS.get(table.table.record_shape.by_attribute[name].type.name, 0)

    def _key(self, table: CompiledTable, name: str, value: sql.Composable) -> tuple[Any, ...]:
        steps = dict.fromkeys(table.type_ids, self._value(table, name, value, table.type_ids))
        return 0, _NULL, False, self._by_type(steps)

    def _column(self, table: CompiledTable, life: ColumnLife) -> tuple[Any, ...]:
        total = table.totals.get(total_name(table.table, life.name))
        width = self._width(table, life.name)
        if not width and (total is not None or life.course is Course.SUMMED):
            raise Inexpressible(f"{life.name} is a sum, and of no whole numbers")
        steps: dict[int, Step] = {}
        if total is not None:
            for type_ids, amount in total.amounts.items():
                steps |= dict.fromkeys(type_ids, self._value(table, life.name, amount, type_ids))
            return width, _NULL, True, self._by_type(steps)
        for effect in life.effects:
            step = _STEPS[effect.kind]
            if isinstance(effect, ConstantEffect):
                told = (step, True, self._constant(effect.value))
            else:
                told = (step, *self._value(table, life.name, effect.value, effect.type_ids)[1:])
            steps |= dict.fromkeys(effect.type_ids, told)
        begin = _NULL if life.default is None else self._constant(life.default)
        return width, begin, False, self._by_type(steps)

    def _by_type(self, steps: Mapping[int, Step]) -> tuple[Step, ...]:
        return tuple(steps.get(type_id, (_KEEPS, True, _NULL)) for type_id in self._type_ids)

    def _value(
        self, table: CompiledTable, name: str, value: sql.Composable, type_ids: tuple[int, ...]
    ) -> Step:
        slot = self._values.take(table.table.type_texts[name], value, type_ids)
        return _ASSIGNS, False, _FIRST_VALUE + slot.number

    def _constant(self, value: sql.Composable) -> int:
        text = value.as_string(None)
        self._constants.setdefault(text, value)
        return list(self._constants).index(text)


def _written(table: CompiledTable) -> WrittenTable:
    columns = table.table.record_shape.by_attribute
    attributes = ["aggregate_id", *table.keys, *(life.name for life in table.lives)]
    return WrittenTable(
        table.table.record_shape.table_name,
        sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            sql.Identifier(table.table.schema, table.table.name),
            sql.SQL(", ").join(sql.Identifier(columns[name].name) for name in attributes),
        ),
    )


def _bytes_of(
    connection: psycopg.Connection[Any], values: Sequence[sql.Composable]
) -> tuple[bytes | None, ...]:
    """Return values as the server sends them."""
    if not values:
        return ()
    data = b"".join(copy_out(connection, sql.SQL("SELECT {}").format(sql.SQL(", ").join(values))))
    found: list[bytes | None] = []
    at = HEADER.size + 2
    for _ in values:
        length = int.from_bytes(data[at : at + 4], signed=True)
        at += 4
        found.append(None if length < 0 else data[at : at + length])
        at += max(length, 0)
    return tuple(found)
