"""Declarations: what a declared projection says, checked against its record and its events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sequent_py.declared.rules import Change, ChangeKind, Field, Rule, RuleKind
from sequent_py.errors import DefinitionError, InvalidValue
from sequent_py.events import Event, event_type_of
from sequent_py.records import ColumnShape, Record, RecordShape, record_shape

ENVELOPE = ("aggregate_id", "sequence_number", "created_at", "position")
"""The parts of the envelope that a rule may name. Events cannot have fields of these names."""
NUMBERS = ("integer", "numeric", "float")
_UNIQUE_TO_EVENT = ("sequence_number", "position")
_WITHOUT_CHANGES = (RuleKind.DELETE, RuleKind.DELETE_ALL)


@dataclass(frozen=True)
class Declaration:
    """A checked declaration. Every row belongs to an aggregate; ``key`` tells its rows apart, by column, and is empty where it has one."""

    name: str
    record: type[Record]
    key: Mapping[str, Field]
    rules: Mapping[type[Event], Rule]

    @property
    def is_per_event(self) -> bool:
        """Whether no two events can have the same key."""
        return any(source.name in _UNIQUE_TO_EVENT for source in self.key.values())

    @property
    def is_key_primary(self) -> bool:
        """Whether the record's primary key is the aggregate and the key; else nothing but the rules keeps rows apart."""
        shape = record_shape(self.record)
        return {column.attribute for column in shape.key_columns} == {"aggregate_id", *self.key}

    @property
    def has_running(self) -> bool:
        """Whether a column is a running total."""
        return any(_running_columns(rule) for rule in self.rules.values())

    def __str__(self) -> str:
        """Print everything that rows depend on, the same in every process and whatever the order of its parts."""
        rules = sorted(
            f"{event_type_of(cls)}: {rule.kind} {sorted((name, str(change)) for name, change in rule.changes.items())} {rule.touch}"
            for cls, rule in self.rules.items()
        )
        return f"{sorted((name, str(source)) for name, source in self.key.items())} {rules}"


def declaration(name: str, record: Any, key: Any, on_event: Any) -> Declaration:
    """Check what a class declares.

    Raises
    ------
    DefinitionError
        A column or a field does not exist or cannot do what is asked of it; names class, event and column.
    """
    if not (isinstance(record, type) and issubclass(record, Record)):
        raise DefinitionError(f"{name}.table must be a Record class, not {record!r:.80}.")
    shape = record_shape(record)
    if not shape.has_aggregate_id:
        raise DefinitionError(
            f"{name}: {shape.name} has no aggregate_id, and the rows of a TableProjection belong to aggregates.",
            remedy="Add the column, or write a Projector.",
        )
    found = Declaration(
        name, record, MappingProxyType(_key(name, shape, key)), MappingProxyType(_rules(name, on_event))
    )
    for event_class, rule in found.rules.items():
        _check_rule(found, shape, event_class, rule)
    _check_running(found, shape)
    return found


def _key(name: str, shape: RecordShape, key: Any) -> dict[str, Field]:
    if not isinstance(key, Mapping) or not all(isinstance(source, Field) for source in key.values()):
        raise DefinitionError(
            f"{name}.key must be a dict from columns to fields, not {key!r:.80}.",
            remedy='Write key = {"product": field("product")}.',
        )
    for attribute in key:
        column = _column(f"{name}.key", shape, attribute)
        if attribute == "aggregate_id":
            raise DefinitionError(f"{name}.key: every row has its aggregate_id; name what tells them apart.")
        if column.nullable:
            raise DefinitionError(
                f"{name}.key: {shape.name}.{attribute} may be NULL, which tells no rows apart."
            )
        if column.type.unfilterable:
            raise DefinitionError(
                f"{name}.key: {shape.name}.{attribute} cannot be looked up: {column.type.unfilterable}."
            )
    return dict(key)


def _rules(name: str, on_event: Any) -> dict[type[Event], Rule]:
    if not isinstance(on_event, Mapping) or not on_event:
        raise DefinitionError(
            f"{name}.on_event must be a dict from event classes to rules.",
            remedy="Write on_event = {SomethingHappened: insert(…)}.",
        )
    rules: dict[type[Event], Rule] = {}
    for key, rule in on_event.items():
        if not isinstance(rule, Rule):
            raise DefinitionError(
                f"{name}.on_event[{_shown(key)}] is {rule!r:.80}, not a rule.",
                remedy="Use insert, update, upsert, delete or delete_all.",
            )
        for event_class in key if isinstance(key, tuple) else (key,):
            if not (isinstance(event_class, type) and issubclass(event_class, Event)) or event_class is Event:
                raise DefinitionError(
                    f"{name}.on_event has {_shown(event_class)}, which is not an event class."
                )
            if event_class in rules:
                raise DefinitionError(f"{name}.on_event has two rules for {event_class.__name__}.")
            rules[event_class] = rule
    return rules


def _check_rule(found: Declaration, shape: RecordShape, event_class: type[Event], rule: Rule) -> None:
    where = f"{found.name}, {event_class.__name__}"
    if rule.kind is not RuleKind.DELETE_ALL:
        for source in found.key.values():
            _check_field(where, event_class, source)
    assert not rule.changes or rule.kind not in _WITHOUT_CHANGES
    for attribute, change in rule.changes.items():
        column = _column(where, shape, attribute)
        if attribute in found.key or attribute == "aggregate_id":
            raise DefinitionError(f"{where}: {attribute} is the row's key, which is set by itself.")
        _check_change(f"{where}: {attribute}", rule, column, change)
        if isinstance(change.source, Field):
            _check_field(where, event_class, change.source)
        else:
            _check_constant(where, column, change.source)


def _check_change(where: str, rule: Rule, column: ColumnShape, change: Change) -> None:
    if rule.kind is RuleKind.INSERT and change.kind in (
        ChangeKind.INCREMENT,
        ChangeKind.FIRST,
        ChangeKind.LAST,
    ):
        raise DefinitionError(
            f"{where} cannot be changed by insert, which creates it.",
            remedy="Give the value that it begins with.",
        )
    if change.kind is ChangeKind.RUNNING:
        if rule.kind is not RuleKind.INSERT:
            raise DefinitionError(f"{where}: running(…) is for insert: rows that nothing changes afterwards.")
        if column.type.family not in ("integer", "numeric"):
            raise DefinitionError(
                f"{where} is {column.type}; a running total needs an integer or a numeric column."
            )
    if change.kind is ChangeKind.INCREMENT and column.type.family not in NUMBERS:
        raise DefinitionError(f"{where} is {column.type}, to which nothing can be added.")


def _check_field(where: str, event_class: type[Event], source: Field) -> None:
    if source.name not in event_class.model_fields and source.name not in ENVELOPE:
        names = ", ".join((*event_class.model_fields, *ENVELOPE))
        raise DefinitionError(
            f"{where}: {event_class.__name__} has no field {source.name!r}.", remedy=f"It has {names}."
        )


def _check_constant(where: str, column: ColumnShape, value: Any) -> None:
    try:
        column.coerce(value)
    except InvalidValue as error:
        raise DefinitionError(f"{where}: {error.message}") from None


def _check_running(found: Declaration, shape: RecordShape) -> None:
    columns = {name for rule in found.rules.values() for name in _running_columns(rule)}
    if not columns:
        return
    named = f"{found.name}: {', '.join(sorted(columns))} is a running total"
    if list(found.key.values()) != [Field("sequence_number")] or not found.is_key_primary:
        raise DefinitionError(
            f'{named}, which needs key = {{"…": field("sequence_number")}} and a primary key of that column and aggregate_id.'
        )
    for event_class, rule in found.rules.items():
        if rule.kind not in (RuleKind.INSERT, RuleKind.DELETE_ALL):
            raise DefinitionError(f"{named}, and {event_class.__name__} would {rule.kind} single rows of it.")
        if rule.kind is RuleKind.INSERT and _running_columns(rule) != columns:
            raise DefinitionError(f"{named}, and the rule of {event_class.__name__} does not go on with it.")


def _running_columns(rule: Rule) -> set[str]:
    return {name for name, change in rule.changes.items() if change.kind is ChangeKind.RUNNING}


def _column(where: str, shape: RecordShape, attribute: str) -> ColumnShape:
    column = shape.by_attribute.get(attribute)
    if column is None:
        raise DefinitionError(
            f"{where}: {shape.name} has no column {attribute!r}.",
            remedy=f"It has {', '.join(shape.by_attribute)}.",
        )
    return column


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else f"{value!r:.80}"
