"""What happens to each column of a table, gathered from all rules: the lives of its columns, and its running totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from sequent_py.column_types import INTEGER_BOUNDS
from sequent_py.declared.columns import cast_to, constant
from sequent_py.declared.life import ColumnLife, ConstantEffect, Course, Effect
from sequent_py.declared.payloads import Inexpressible
from sequent_py.declared.readings import RuleReading, Value
from sequent_py.declared.rules import Change, ChangeKind, Field, RuleKind
from sequent_py.persistors.tables import TableShape
from sequent_py.records import ColumnShape

_TOUCHED = {"updated_at": "created_at", "sequence_number": "sequence_number"}


def column_lives(
    table: TableShape, readings: Sequence[RuleReading], key: Mapping[str, Field]
) -> list[ColumnLife]:
    """Return the lives of all columns that a statement must fill; the key and what the table fills by itself are not among them.

    Raises
    ------
    Inexpressible
        What rules do to a column, or what it holds where they do nothing, is not what SQL would do.
    """
    lives = []
    for name, column in table.record_shape.by_attribute.items():
        if name == "aggregate_id" or name in key:
            continue
        if any(_change(table, reading, name) is not None for reading in readings):
            life = _life(table, column, readings)
            if life.effects:
                lives.append(life)
        elif name not in table.drawn_defaults:
            # The table's default does, if there is one that SQL can take.
            default_value(table, column)
    return lives


@dataclass(frozen=True)
class RunningTotal:
    """A running total of an aggregate's events; ``amounts`` by event types, of the column's type."""

    type: sql.Composable
    amounts: Mapping[tuple[int, ...], Value]


def running_totals(table: TableShape, readings: Sequence[RuleReading]) -> dict[str, RunningTotal]:
    """Return the totals by their names, see :func:`total_name`."""
    amounts: dict[str, dict[tuple[int, ...], Value]] = {}
    types: dict[str, sql.Composable] = {}
    for reading in readings:
        for attribute, change in reading.rule.changes.items():
            if change.kind is ChangeKind.RUNNING:
                column = table.record_shape.by_attribute[attribute]
                name = total_name(table, attribute)
                types[name] = cast_to(table, column)
                amounts.setdefault(name, {})[reading.type_ids] = reading.column_value(column, change)
    return {name: RunningTotal(types[name], found) for name, found in amounts.items()}


def among_all(readings: Sequence[RuleReading]) -> tuple[int, ...]:
    """Return the types of all events that a table reads."""
    return tuple(type_id for reading in readings for type_id in reading.type_ids)


def default_value(table: TableShape, column: ColumnShape) -> Any:
    """Return what fills a column that a new row does not name, None for NULL.

    Raises
    ------
    Inexpressible
        It differs from row to row, or nothing does.
    """
    named = f"{column.record_name}.{column.attribute}"
    if column.attribute in table.record_shape.python_defaults:
        raise Inexpressible(f"{named} has a default in Python")
    if column.attribute in table.drawn_defaults:
        raise Inexpressible(f"{named} is set by some rules, and drawn from its default by others")
    value = table.constant_defaults.get(column.attribute)
    if value is None and not column.nullable:
        raise Inexpressible(f"{named} is NOT NULL, and a rule creates rows without it")
    return value


def _life(table: TableShape, column: ColumnShape, readings: Sequence[RuleReading]) -> ColumnLife:
    effects = [effect for reading in readings if (effect := _effect(table, column, reading)) is not None]
    life = ColumnLife(
        name=column.attribute,
        family=column.type.family,
        type=cast_to(table, column),
        # Those of types that are not stored have been looked at, but cannot happen.
        effects=tuple(effect for effect in effects if effect.type_ids),
        among=among_all(readings),
        insert_ids=tuple(
            type_id
            for reading in readings
            if reading.rule.kind is RuleKind.INSERT
            for type_id in reading.type_ids
        ),
        may_begin_by_upsert=any(reading.rule.kind is RuleKind.UPSERT for reading in readings),
        default=_begun_with(table, column, readings),
        bound=_bound(column) if any(effect.may_sink for effect in effects) else None,
    )
    if life.course is Course.SUMMED and column.type.family == "float":
        raise Inexpressible(
            f"{column.record_name}.{column.attribute} is {column.type}: a sum depends on its order"
        )
    return life


def _change(table: TableShape, reading: RuleReading, attribute: str) -> Change | None:
    """Return what a rule does to a column, what every update notes of its event included."""
    change = reading.rule.changes.get(attribute)
    is_noted = (
        reading.rule.kind in (RuleKind.UPDATE, RuleKind.UPSERT)
        and reading.rule.touch
        and attribute in _TOUCHED
        and attribute not in {column.attribute for column in table.record_shape.key_columns}
    )
    if not is_noted:
        return change
    if change is not None and change.kind is not ChangeKind.ASSIGN:
        raise Inexpressible(f"{attribute} is noted by every update, and then changed by a rule")
    return change or Change(ChangeKind.ASSIGN, Field(_TOUCHED[attribute]))


def _effect(table: TableShape, column: ColumnShape, reading: RuleReading) -> Effect | None:
    change, kind = _change(table, reading, column.attribute), reading.rule.kind
    if change is None:
        if kind is not RuleKind.INSERT:
            return None
        change = Change(ChangeKind.ASSIGN, default_value(table, column))
    if change.kind is ChangeKind.RUNNING:
        total = sql.Identifier(total_name(table, column.attribute))
        return Effect(reading.type_ids, kind, ChangeKind.ASSIGN, total)
    value = reading.column_value(column, change)
    make = ConstantEffect if value.is_constant else Effect
    return make(reading.type_ids, kind, change.kind, value.expression, value.may_sink)


def _begun_with(
    table: TableShape, column: ColumnShape, readings: Sequence[RuleReading]
) -> sql.Composable | None:
    """Return what upserts find in a column of the row that they create; None for NULL."""
    upserts = [reading for reading in readings if reading.rule.kind is RuleKind.UPSERT]
    if not upserts:
        return None
    is_always_set = all(_change(table, reading, column.attribute) is not None for reading in upserts)
    filled_by_table = {*table.record_shape.python_defaults, *table.drawn_defaults, *table.constant_defaults}
    if is_always_set and column.attribute not in filled_by_table:
        # NULL, and not for long: a rule's value for a column that is NOT NULL is checked not to be.
        return None
    value = default_value(table, column)
    return None if value is None else constant(table, column, value)


def _bound(column: ColumnShape) -> int | None:
    """Return what the absolute value of a sum must stay below."""
    if column.type.family == "integer":
        return INTEGER_BOUNDS[column.type.name]
    if column.type.precision is not None and column.type.scale is not None:
        digits: int = 10 ** max(column.type.precision - column.type.scale, 0)
        return digits
    return None


def total_name(table: TableShape, attribute: str) -> str:
    """Return the name of a column's running total."""
    return f"r{list(table.record_shape.by_attribute).index(attribute)}"
