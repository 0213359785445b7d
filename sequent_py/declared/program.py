"""Programs: declared projections as the C module runs them, which folds values where the statement of :mod:`.compiler` would sort, sum up and insert.

The server reads and checks the events, as it does for that statement, and sends one row per event, in the order of positions: the aggregate, the event's
type, and the values that rules read, each of its column's type and in the server's own bytes (binary COPY). ``RowFold`` (``c/rowfold.h``) does what the rules say, event by event, and
writes rows of the same bytes, for COPY to take in. It knows no types but whole numbers, which it adds up, and UUIDs: those it reads from the payload's text, by the same checks, because in the server a cast, and
the comparison that goes with it, cost a third of all reading. What it does not do is left to the statement: tables with rules that
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
from sequent_py.declared.readings import TEXT_WIDTHS, FieldValue, Slot, Slots, Value
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
_AS_TEXT = "text of "
"""Before the type of what is sent as the payload's text."""
_FIRST_VALUE = 2
"""Of a row that is sent; before it come the aggregate and the event's type."""
_NULL = -1

Form = tuple[bool, int, int]
"""How a text is read: whether the opposite of the number is meant, and the bounds of the number itself."""
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
        events = self._compiled.events.select(is_program=True)
        told = tuple(self._table(table) for table in tables)
        constants = _bytes_of(connection, list(self._constants.values()))
        self._read_others()
        slots = list(self._values)
        behind = sql.SQL("SELECT {} FROM ({}) AS w ORDER BY position").format(
            sql.SQL(", ").join(
                [sql.SQL("aggregate_id"), sql.SQL("event_type_id"), *map(self._selected, slots)]
            ),
            events,
        )
        texts = tuple(
            (_FIRST_VALUE + slot.number, TEXT_WIDTHS[slot.kind.removeprefix(_AS_TEXT)], self._forms(slot))
            for slot in slots
            if slot.kind.startswith(_AS_TEXT)
        )
        return Program(
            [_written(table) for table in tables],
            self._type_ids,
            sql.SQL(cast(Any, behind.as_string(None))),
            (_FIRST_VALUE + len(slots), self._type_ids, constants, told, texts),
        )

    def _read_others(self) -> None:
        """Let texts be sent that no rule reads: they are checked by reading them."""
        read = {
            (type_id, value.slot.number)
            for sent in self._values
            for type_id, value in sent.texts.items()
            if isinstance(value, FieldValue)
        }
        for type_id, slot, _ in self._compiled.events.texts():
            if (type_id, slot.number) not in read:
                value = FieldValue(slot.value, slot, is_negated=False)
                self._take("uuid" if slot.kind == "uuid" else "bigint", value, (type_id,))

    def _take(self, type_text: str, value: sql.Composable, type_ids: tuple[int, ...]) -> Slot:
        # Texts are not mixed with values.
        if isinstance(value, FieldValue) and not value.slot.is_cast:
            type_text = _AS_TEXT + type_text
        return self._values.take(type_text, value, type_ids)

    def _selected(self, sent: Slot) -> sql.Composable:
        values: dict[tuple[int, ...], sql.Composable] = {
            (type_id,): value.slot.text
            if sent.kind.startswith(_AS_TEXT) and isinstance(value, FieldValue)
            else value
            for type_id, value in sent.texts.items()
        }
        return case_by_type(values, self._type_ids)

    def _forms(self, sent: Slot) -> tuple[Form | None, ...]:
        bounds = {(type_id, slot.number): bounds for type_id, slot, bounds in self._compiled.events.texts()}
        return tuple(
            (value.is_negated, *bounds[type_id, value.slot.number])
            if isinstance(value := sent.texts.get(type_id), FieldValue)
            else None
            for type_id in self._type_ids
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
                steps |= dict.fromkeys(type_ids, self._amount(table, life.name, amount, type_ids))
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
        slot = self._take(table.table.type_texts[name], value, type_ids)
        return _ASSIGNS, False, _FIRST_VALUE + slot.number

    def _amount(self, table: CompiledTable, name: str, value: Value, type_ids: tuple[int, ...]) -> Step:
        if value.is_constant:
            return _ASSIGNS, True, self._constant(value.expression)
        return self._value(table, name, value.expression, type_ids)

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
