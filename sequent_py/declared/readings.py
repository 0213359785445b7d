"""Readings: the SQL of events' fields and of rules' values, and the checks that go with them.

A statement reads events once, for all of its tables, in two steps. The inner one takes each field out of the payload and gives it a
short name (``x0``); everything else refers to these names. A check can be of either step: whether the stored JSON is plain is seen in the inner one, whether a value is in range in the outer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import sql

from sequent_py.declared.columns import column_check, column_value, constant, wanted_kind
from sequent_py.declared.life import case_by_type
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
        self._by_text: dict[str, _Named] = {}

    def name(self, value: sql.Composable, type_ids: tuple[int, ...]) -> sql.Identifier:
        """Return the name of a value, the same for the same value; it is read of events of these types, and of those it was named for before."""
        named = self._by_text.setdefault(value.as_string(None), _Named(f"x{len(self._by_text)}", value, []))
        named.type_ids.extend(type_id for type_id in type_ids if type_id not in named.type_ids)
        return sql.Identifier(named.name)

    def __iter__(self) -> Iterator[str]:
        return iter(named.name for named in self._by_text.values() if named.type_ids)

    def selected(self, among: Collection[int]) -> list[sql.Composed]:
        """Return the items of the inner select list, over events of the types ``among``.

        Of other events nothing is read: what one class calls ``ref`` may be a UUID, and a text in another, or nothing that was ever looked at.
        """
        return [
            sql.SQL("{} AS {}").format(
                case_by_type({tuple(named.type_ids): named.value}, among), sql.Identifier(named.name)
            )
            for named in self._by_text.values()
            if named.type_ids
        ]


class _Named(NamedTuple):
    name: str
    value: sql.Composable
    type_ids: list[int]


class EventReading:
    """How the events of one class are read, by all tables of a group. Checks gather while values are asked for."""

    def __init__(self, event_class: type[Event], type_ids: tuple[int, ...], names: Names) -> None:
        self.event_class, self.type_ids = event_class, type_ids
        self._names = names
        self._fields = payload_fields(event_class)
        self._kinds: dict[str, str] = {}
        self._checks: dict[str, sql.Composable] = {}

    def read(self, column: ColumnShape, source: Field) -> tuple[sql.Composable, PayloadField]:
        """Return the name of a field's value in the inner step.

        Raises
        ------
        Inexpressible
            The column cannot take the field, or somebody reads it in another way.
        """
        if source.name in _ENVELOPE:
            field = PayloadField(source.name, _ENVELOPE[source.name])
            kind, name = wanted_kind(column, field), sql.Identifier(source.name)
        else:
            field = self._fields[source.name]
            kind = wanted_kind(column, field)
            if self._kinds.setdefault(source.name, kind) != kind:
                raise Inexpressible(
                    f"{self.event_class.__name__}.{source.name} is read with and without a time zone"
                )
            name = self._names.name(field.value(kind), self.type_ids)
        if source.is_negated and kind not in _NEGATABLE:
            raise Inexpressible(f"{self.event_class.__name__}.{source.name} is {kind}, and read negatively")
        return name, field

    def check(self, condition: sql.Composable) -> None:
        """Demand a condition of every event of the class, in the outer step."""
        self._checks[condition.as_string(None)] = condition

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
        tests = [sql.SQL("is_plain"), *self._checks.values()]
        for name, kind in self._kinds.items():
            field = self._fields[name]
            if field.must_be_cast:
                tests.append(field.is_valid(self._names.name(field.value(kind), self.type_ids)))
        return sql.SQL(" AND ").join(tests)


class EventReadings:
    """How the events of a group are read, once for all of its tables."""

    def __init__(self) -> None:
        self._names = Names()
        self._by_class: dict[type[Event], EventReading] = {}

    def of(self, event_class: type[Event], type_ids: tuple[int, ...]) -> EventReading:
        """Return how a class's events are read, which are stored as these types."""
        found = self._by_class.get(event_class)
        if found is None:
            found = self._by_class[event_class] = EventReading(event_class, type_ids, self._names)
        return found

    @property
    def type_ids(self) -> tuple[int, ...]:
        """The types of all events that are read."""
        return tuple(type_id for reading in self._by_class.values() for type_id in reading.type_ids)

    def select(self, source: sql.Composable, *, is_ordered: bool) -> sql.Composed:
        """Compose the SELECT of events, their fields by name, from a ``FROM … AS e WHERE …``; in the order of aggregate and position, if that matters.

        An event that is not sound is an error (SQLSTATE class 22): nothing of the group is to be written then, so nothing further need be told.
        """
        readings = list(self._by_class.values())
        is_plain = case_by_type({reading.type_ids: reading.is_plain() for reading in readings}, self.type_ids)
        is_sound = case_by_type({reading.type_ids: reading.is_sound() for reading in readings}, self.type_ids)
        envelope = sql.SQL("e.position, e.event_type_id, e.sequence_number, e.created_at")
        items = self._names.selected(self.type_ids)
        names = [sql.Identifier(name) for name in self._names]
        # OFFSET 0 keeps the planner from computing an expression wherever its name stands.
        return sql.SQL(
            "SELECT CASE WHEN {} THEN aggregate_id ELSE ('event ' || position)::uuid END AS aggregate_id, {}"
            " FROM (SELECT e.aggregate_id, {}, {} AS is_plain {} OFFSET 0) AS e{}"
        ).format(
            is_sound,
            sql.SQL(", ").join([envelope, *names]),
            sql.SQL(", ").join([envelope, *items]),
            is_plain,
            source,
            sql.SQL(" ORDER BY 1, 2" if is_ordered else ""),
        )


@dataclass(frozen=True)
class Value:
    """A rule's value for a column, of the column's type."""

    expression: sql.Composable
    is_constant: bool
    may_sink: bool
    """Whether adding it may make a sum smaller."""


class RuleReading:
    """What a rule of a table gives to columns, of the events of a class."""

    def __init__(self, table: TableShape, rule: Rule, events: EventReading) -> None:
        self.rule, self.type_ids = rule, events.type_ids
        self._table, self._events = table, events

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
        value, field = self._events.read(column, source)
        if source.is_negated:
            value = sql.SQL("(- {})").format(value)
        check = column_check(column, value)
        if check is not None:
            self._events.check(check)
        if field.can_be_none and not column.nullable:
            self._events.check(sql.SQL("{} IS NOT NULL").format(value))
        if kind in _SUMS and column.type.name == "numeric" and column.type.scale is not None:
            # Rounding each amount is something else than rounding each sum.
            self._events.check(
                sql.SQL("({0} IS NULL OR scale({0}::numeric) <= {1})").format(
                    value, sql.Literal(column.type.scale)
                )
            )
        return Value(column_value(self._table, column, field, value), False, True)
