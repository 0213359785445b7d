"""Readings: the SQL of events' fields and of rules' values, and the checks that go with them.

A statement reads events once, for all of its tables, in three steps, each of which refers to the names that the one before it gives:

texts   (``t0``, …) are taken out of the payload, where it is also asked whether the JSON is plain
values  (``x0``, …) are cast from them
checks  look at both; everything behind them sees values only

A program (:mod:`.program`) is given the texts of whole numbers and UUIDs as they are, where nothing in the server needs their values, and checks them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from sequent_py.declared.columns import column_check, column_value, constant, wanted_kind
from sequent_py.declared.life import case_by_type
from sequent_py.declared.payloads import (
    REQUIRED,
    SQL_TYPES,
    Inexpressible,
    PayloadField,
    payload_fields,
)
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
_ENVELOPE_ITEMS = sql.SQL("position, event_type_id, sequence_number, created_at")
TEXT_WIDTHS: Mapping[str, int] = {"smallint": 2, "integer": 4, "bigint": 8, "uuid": 16}
"""Types of columns, as tables name them, whose values a program can make of texts, and the bytes of a value."""
_NEGATABLE = ("int", "decimal", "float")
_SUMS = (ChangeKind.INCREMENT, ChangeKind.RUNNING)


@dataclass
class Slot:
    """A place for a value of one kind: at most one field of each event type is read into it."""

    number: int
    kind: str
    texts: dict[int, sql.Composable]
    """By event type: how the field's text is read from the payload."""
    is_read: bool = False
    """Whether its value is wanted, and not only checked."""
    is_cast: bool = False
    """Whether something needs its value in the server, which a program's text could not tell, see :class:`FieldValue`."""

    def fits(self, text: sql.Composable, type_ids: Iterable[int]) -> bool:
        """Whether nothing else is read into it of events of these types."""
        return all(self.texts.get(type_id, text) == text for type_id in type_ids)

    @property
    def text(self) -> sql.Identifier:
        """The name of the field's text."""
        return sql.Identifier(f"{'x' if self.kind == 'str' else 't'}{self.number}")

    @property
    def value(self) -> sql.Identifier:
        """The name of the field's value."""
        return sql.Identifier(f"x{self.number}")


class Slots:
    """What the events of a group are read into. Few, for every event carries all of them through the statement."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []

    def take(
        self, kind: str, text: sql.Composable, type_ids: tuple[int, ...], *, is_cast: bool = False
    ) -> Slot:
        """Return a slot for a field of events of these types, which is theirs from now on; one into which others read the same text, if there is one.

        Of other events nothing is read: what one class calls ``ref`` may be a UUID, and a text in another, or nothing that was ever looked at. What must be cast is only put where
        something must be already, or the same text is.
        """
        fitting = [slot for slot in self._slots if slot.kind == kind and slot.fits(text, type_ids)]
        alike = [slot for slot in fitting if text in slot.texts.values()]
        slot = next(iter(alike or [slot for slot in fitting if slot.is_cast == is_cast]), None)
        if slot is None:
            slot = Slot(len(self._slots), kind, {})
            self._slots.append(slot)
        slot.is_cast = slot.is_cast or is_cast
        slot.texts.update(dict.fromkeys(type_ids, text))
        return slot

    def __iter__(self) -> Iterator[Slot]:
        return (slot for slot in self._slots if slot.texts)


class EventReading:
    """How the events of one class are read, by all tables of a group. Checks gather while values are asked for."""

    def __init__(self, event_class: type[Event], type_ids: tuple[int, ...], slots: Slots) -> None:
        self.event_class, self.type_ids = event_class, type_ids
        self._all_slots = slots
        self._fields = payload_fields(event_class)
        self._slots: dict[str, Slot] = {}
        self._checks: dict[str, sql.Composable] = {}

    def read(self, column: ColumnShape, source: Field) -> tuple[sql.Composable, PayloadField]:
        """Return the name of a field's value.

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
            slot = self._slot(source.name, kind)
            slot.is_read, name = True, slot.value
        if source.is_negated and kind not in _NEGATABLE:
            raise Inexpressible(f"{self.event_class.__name__}.{source.name} is {kind}, and read negatively")
        return name, field

    def text_of(self, source: Field) -> Slot | None:
        """Return the slot of a field that was read, where its text tells all; None where the server must cast it."""
        if source.name in _ENVELOPE or self._fields[source.name].bounds() is None:
            return None
        return self._slots[source.name]

    def require_cast(self, source: Field) -> None:
        """Note that something needs the value of a field that was read."""
        if source.name not in _ENVELOPE:
            self._slots[source.name].is_cast = True

    def _slot(self, name: str, kind: str) -> Slot:
        slot = self._slots.get(name)
        if slot is None:
            field = self._fields[name]
            slot = self._all_slots.take(kind, field.text(), self.type_ids, is_cast=field.bounds() is None)
            self._slots[name] = slot
        if slot.kind != kind:
            raise Inexpressible(f"{self.event_class.__name__}.{name} is read with and without a time zone")
        return slot

    def check(self, condition: sql.Composable) -> None:
        """Demand a condition of the values of every event of the class."""
        self._checks[condition.as_string(None)] = condition

    # To be asked for when all values have been. Fields that nobody reads count, too: the decoder would see them.

    def is_plain(self) -> sql.Composable:
        """Return the condition that the payload is in the library's form."""
        tests = [field.is_plain(self._kind(field)) for field in self._fields.values()]
        if not any(field.default is REQUIRED for field in self._fields.values()):
            tests.append(sql.SQL("jsonb_typeof(e.payload) = 'object'"))
        return _all_of(tests)

    def take_slots(self) -> None:
        """Take slots for those, too, that are only checked."""
        for name, field in self._fields.items():
            if field.must_be_cast:
                self._slot(name, self._kind(field))

    def texts(self) -> Iterator[tuple[Slot, tuple[int, int]]]:
        """Yield the slots of fields that a program checks, and the bounds of their numbers."""
        for name, field in self._fields.items():
            if field.must_be_cast and not (slot := self._slots[name]).is_cast:
                bounds = field.bounds()
                assert bounds is not None
                yield slot, bounds

    def is_sound(self, *, is_program: bool) -> sql.Composable:
        """Return the condition that every value is what the handler would have got; for a program, of those alone that are cast."""
        tests: list[sql.Composable | None] = [sql.SQL("is_plain"), *self._checks.values()]
        for name, field in self._fields.items():
            if field.must_be_cast and ((slot := self._slots[name]).is_cast or not is_program):
                tests += [field.is_plain_text(slot.kind, slot.text, slot.value), field.is_valid(slot.value)]
        return _all_of(tests)

    def _kind(self, field: PayloadField) -> str:
        slot = self._slots.get(field.name)
        return field.kind if slot is None else slot.kind


def _all_of(tests: Iterable[sql.Composable | None]) -> sql.Composable:
    return sql.SQL(" AND ").join([test for test in tests if test is not None] or [sql.SQL("true")])


class EventReadings:
    """How the events of a group are read, once for all of its tables."""

    def __init__(self) -> None:
        self._slots = Slots()
        self._by_class: dict[type[Event], EventReading] = {}

    def of(self, event_class: type[Event], type_ids: tuple[int, ...]) -> EventReading:
        """Return how a class's events are read, which are stored as these types."""
        found = self._by_class.get(event_class)
        if found is None:
            found = self._by_class[event_class] = EventReading(event_class, type_ids, self._slots)
        return found

    @property
    def type_ids(self) -> tuple[int, ...]:
        """The types of all events that are read."""
        return tuple(type_id for reading in self._by_class.values() for type_id in reading.type_ids)

    def texts(self) -> list[tuple[int, Slot, tuple[int, int]]]:
        """Return the texts that a program reads and checks, by event type, with the bounds of their numbers."""
        return [
            (type_id, slot, bounds)
            for reading in self._readings()
            for slot, bounds in reading.texts()
            for type_id in reading.type_ids
        ]

    def select(self, *, is_ordered: bool = False, is_program: bool = False) -> sql.Composed:
        """Compose the SELECT of the events ``e``, their fields by name; in the order of aggregate and position, if that matters.

        An event that is not sound is an error (SQLSTATE class 22): nothing of the group is to be written then, so nothing further need be told. ``is_program``: :meth:`texts` are
        selected as they are, unchecked.
        """
        readings = self._readings()
        is_sound = case_by_type(
            {reading.type_ids: reading.is_sound(is_program=is_program) for reading in readings}, self.type_ids
        )
        is_plain = case_by_type({reading.type_ids: reading.is_plain() for reading in readings}, self.type_ids)
        slots = list(self._slots)
        uncast = [slot for slot in slots if is_program and slot.kind in ("int", "uuid") and not slot.is_cast]
        others = [slot for slot in slots if slot not in uncast]
        # OFFSET 0 keeps the planner from computing an expression wherever its name stands.
        read = sql.SQL("(SELECT aggregate_id, {} FROM e OFFSET 0) AS e").format(
            _listed(
                _ENVELOPE_ITEMS,
                sql.SQL("{} AS is_plain").format(is_plain),
                *(self._text(slot) for slot in slots),
            )
        )
        if any(slot.kind != "str" for slot in others):
            cast = _listed(
                _ENVELOPE_ITEMS, sql.SQL("is_plain"), *map(_cast, others), *(slot.text for slot in uncast)
            )
            read = sql.SQL("(SELECT aggregate_id, {} FROM {} OFFSET 0) AS e").format(cast, read)
        return sql.SQL(
            "SELECT CASE WHEN {is_sound} THEN aggregate_id ELSE ('event ' || position)::uuid END AS aggregate_id, {selected}"
            " FROM {read}{order}"
        ).format(
            is_sound=is_sound,
            selected=_listed(
                _ENVELOPE_ITEMS,
                *(slot.value for slot in others if slot.is_read),
                *(slot.text for slot in uncast),
            ),
            read=read,
            order=sql.SQL(" ORDER BY 1, 2" if is_ordered else ""),
        )

    def _readings(self) -> list[EventReading]:
        found = [reading for reading in self._by_class.values() if reading.type_ids]
        for reading in found:
            reading.take_slots()
        return found

    def _text(self, slot: Slot) -> sql.Composed:
        ids: dict[tuple[int, ...], sql.Composable] = {
            (type_id,): text for type_id, text in slot.texts.items()
        }
        return sql.SQL("{} AS {}").format(case_by_type(ids, self.type_ids), slot.text)


def _cast(slot: Slot) -> sql.Composable:
    """Return the items of a slot's text and value; casting fails where the text is not of the type."""
    if slot.kind == "str":
        return slot.value
    return sql.SQL("{0}, {0}::{1} AS {2}").format(slot.text, SQL_TYPES[slot.kind], slot.value)


def _listed(*items: sql.Composable) -> sql.Composed:
    return sql.SQL(", ").join(items)


class FieldValue(sql.Composed):
    """A column's value that is nothing but a field's whole number, or its opposite, or a field's UUID: who is given the text can tell as well as the server."""

    def __init__(self, expression: sql.Composable, slot: Slot, *, is_negated: bool) -> None:
        super().__init__([expression])
        self.slot, self.is_negated = slot, is_negated


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
        checks = [] if (check := column_check(column, value)) is None else [check]
        if field.can_be_none and not column.nullable:
            checks.append(sql.SQL("{} IS NOT NULL").format(value))
        if kind in _SUMS and column.type.name == "numeric" and column.type.scale is not None:
            # Rounding each amount is something else than rounding each sum.
            checks.append(
                sql.SQL("({0} IS NULL OR scale({0}::numeric) <= {1})").format(
                    value, sql.Literal(column.type.scale)
                )
            )
        for condition in checks:
            self._events.check(condition)
        expression = column_value(self._table, column, field, value)
        slot = self._events.text_of(source)
        if slot is None or checks or self._table.type_texts[column.attribute] not in TEXT_WIDTHS:
            self._events.require_cast(source)
            return Value(expression, False, True)
        return Value(FieldValue(expression, slot, is_negated=source.is_negated), False, True)

    def key_value(self, column: ColumnShape, source: Field) -> sql.Composable:
        """Return what :meth:`column_value` gives for a column of the key, which is put together from all rules, and so made in the server."""
        expression = self.column_value(column, Change(ChangeKind.ASSIGN, source)).expression
        self._events.require_cast(source)
        return expression
