"""Readings: the SQL of a rule's values, and the checks that go with them.

A statement reads events in two steps. The inner one takes each field out of the payload once and gives it a short name (``x0``); everything else refers to
these names. A check can be of either step: whether the stored JSON is plain is seen in the inner one, whether a value is in range in the outer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from sequent_py.declared.columns import column_check, column_value, constant, wanted_kind
from sequent_py.declared.payloads import REQUIRED, Inexpressible, PayloadField, payload_fields
from sequent_py.declared.rules import Change, ChangeKind, Field, Rule
from sequent_py.events import Event
from sequent_py.persistors.tables import TableShape
from sequent_py.records import ColumnShape

_ENVELOPE: Mapping[str, str] = {
    "aggregate_id": "uuid",
    "sequence_number": "int",
    "position": "int",
    "created_at": "aware",
}
_NEGATABLE = ("int", "decimal", "float")
_SUMS = (ChangeKind.INCREMENT, ChangeKind.RUNNING)


class Names:
    """What the inner step reads, by name."""

    def __init__(self) -> None:
        self._by_text: dict[str, tuple[str, sql.Composable]] = {}

    def name(self, value: sql.Composable) -> sql.Identifier:
        """Return the name of a value, the same for the same value."""
        name, _ = self._by_text.setdefault(value.as_string(None), (f"x{len(self._by_text)}", value))
        return sql.Identifier(name)

    def selected(self) -> list[sql.Composed]:
        """Return the items of the inner select list."""
        return [
            sql.SQL("{} AS {}").format(value, sql.Identifier(name)) for name, value in self._by_text.values()
        ]


@dataclass(frozen=True)
class Value:
    """A rule's value for a column, of the column's type."""

    expression: sql.Composable
    is_constant: bool
    may_sink: bool
    """Whether adding it may make a sum smaller."""


class RuleReading:
    """How the events of one rule and class are read. Checks gather while values are asked for."""

    def __init__(
        self, table: TableShape, event_class: type[Event], rule: Rule, type_ids: tuple[int, ...], names: Names
    ) -> None:
        self.rule, self.type_ids = rule, type_ids
        self._table, self._event_class, self._names = table, event_class, names
        self._fields = payload_fields(event_class)
        self._kinds: dict[str, str] = {}
        self._checks: list[sql.Composable] = []

    def column_value(self, column: ColumnShape, change: Change) -> Value:
        """Return what a change gives to a column.

        Raises
        ------
        Inexpressible
            SQL would give something else than the handler.
        """
        if isinstance(change.source, Field):
            return self._field_value(column, change.kind, change.source)
        value = change.source
        if change.kind in _SUMS and column.coerce(value) != value:
            raise Inexpressible(f"{column.attribute} adds {value!r}, which {column.type} would round")
        return Value(
            constant(self._table, column, value),
            True,
            value is not None and change.kind in _SUMS and value < 0,
        )

    def _field_value(self, column: ColumnShape, kind: ChangeKind, source: Field) -> Value:
        value, field = self._read(column, source)
        if source.is_negated:
            value = sql.SQL("(- {})").format(value)
        check = column_check(column, value)
        if check is not None:
            self._checks.append(check)
        if field.can_be_none and not column.nullable:
            self._checks.append(sql.SQL("{} IS NOT NULL").format(value))
        if kind in _SUMS and column.type.name == "numeric" and column.type.scale is not None:
            # Rounding each amount is something else than rounding each sum.
            self._checks.append(
                sql.SQL("({0} IS NULL OR scale({0}::numeric) <= {1})").format(
                    value, sql.Literal(column.type.scale)
                )
            )
        return Value(column_value(self._table, column, field, value), False, True)

    def _read(self, column: ColumnShape, source: Field) -> tuple[sql.Composable, PayloadField]:
        """Return the name of a field's value in the inner step."""
        if source.name in _ENVELOPE:
            field = PayloadField(source.name, _ENVELOPE[source.name])
            kind, name = wanted_kind(column, field), sql.Identifier(source.name)
        else:
            field = self._fields[source.name]
            kind = wanted_kind(column, field)
            if self._kinds.setdefault(source.name, kind) != kind:
                raise Inexpressible(
                    f"{self._event_class.__name__}.{source.name} is read with and without a time zone"
                )
            name = self._names.name(field.value(kind))
        if source.is_negated and kind not in _NEGATABLE:
            raise Inexpressible(f"{self._event_class.__name__}.{source.name} is {kind}, and read negatively")
        return name, field

    # To be asked for when all values have been

    def is_plain(self) -> sql.Composable:
        """Return the inner step's condition: the payload is in the library's form. Fields that nobody reads count, too: the decoder would see them."""
        tests: list[sql.Composable] = []
        for name, field in self._fields.items():
            kind = self._kinds.get(name, field.kind)
            tests.append(field.is_plain(kind))
            if name not in self._kinds and field.must_be_cast:
                tests.append(field.is_valid(field.value(kind)))
        if not any(field.default is REQUIRED for field in self._fields.values()):
            tests.append(sql.SQL("jsonb_typeof(e.payload) = 'object'"))
        return sql.SQL(" AND ").join(tests)

    def is_sound(self) -> sql.Composable:
        """Return the outer step's condition: every value is what the handler would have got."""
        tests = [sql.SQL("is_plain"), *self._checks]
        for name, kind in self._kinds.items():
            field = self._fields[name]
            if field.must_be_cast:
                tests.append(field.is_valid(self._names.name(field.value(kind))))
        return sql.SQL(" AND ").join(tests)
