"""What a declared projection says, as values: where a column's value comes from, what becomes of it, and what an event does to a row.

Pure. Users write the functions below; whether columns and fields exist is checked where a class puts rules together
(:mod:`sequent_py.declared.projection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the event, or a part of its envelope: ``-field("amount")`` is its negative."""

    name: str
    is_negated: bool = False

    def __neg__(self) -> Field:
        return Field(self.name, not self.is_negated)


class ChangeKind(StrEnum):
    """What becomes of a column's value. None never counts: it adds nothing, and is neither a first nor a last value."""

    ASSIGN = "assign"
    INCREMENT = "increment"
    FIRST = "first"
    LAST = "last"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one column by a source: a :class:`Field`, or a constant."""

    kind: ChangeKind
    source: Any


class RuleKind(StrEnum):
    """What an event does."""

    INSERT = "insert"
    UPDATE = "update"
    UPSERT = "upsert"
    DELETE = "delete"
    DELETE_ALL = "delete_all"


@dataclass(frozen=True, slots=True)
class Rule:
    """What an event does to the row of its key, or to all rows of its aggregate; ``changes`` by column."""

    kind: RuleKind
    changes: Mapping[str, Change]
    touch: bool = True


def field(name: str) -> Field:
    """Refer to a field of the event, or to ``aggregate_id``, ``sequence_number``, ``created_at`` or ``position``."""
    return Field(name)


def increment(amount: Any) -> Change:
    """Add to the column; None in the column counts as zero, None as an amount adds nothing. Sums are exact, however many digits they need."""
    return Change(ChangeKind.INCREMENT, amount)


def count() -> Change:
    """Add one to the column."""
    return increment(1)


def first(source: Any) -> Change:
    """Set the column where it is None: it keeps the first value that was given."""
    return Change(ChangeKind.FIRST, source)


def last(source: Any) -> Change:
    """Set the column unless the value is None: it keeps the last value that was given. A plain ``field(…)`` sets it to None, too."""
    return Change(ChangeKind.LAST, source)


def running(amount: Any) -> Change:
    """Set the column to its value in the aggregate's row before, plus ``amount``; to ``amount`` in the first row.

    For rows of single events (``key = {"…": field("sequence_number")}``) that nothing changes afterwards.
    """
    return Change(ChangeKind.RUNNING, amount)


def insert(**values: Any) -> Rule:
    """Create the row of the event's key. Columns that are not named get their defaults; the key and ``aggregate_id`` are set by themselves.

    DuplicateRecord, as from ``create_record``, if there is one.
    """
    return Rule(RuleKind.INSERT, _changes(values))


def update(*, touch: bool = True, **values: Any) -> Rule:
    """Change the row of the event's key; ``updated_at`` and ``sequence_number`` are noted as in ``update_record``, unless ``touch`` is false.

    RecordNotFound if there is none.
    """
    return Rule(RuleKind.UPDATE, _changes(values), touch)


def upsert(*, touch: bool = True, **values: Any) -> Rule:
    """Change the row of the event's key, or create it with its defaults and change that."""
    return Rule(RuleKind.UPSERT, _changes(values), touch)


def delete() -> Rule:
    """Delete the row of the event's key, if there is one."""
    return Rule(RuleKind.DELETE, _changes({}))


def delete_all() -> Rule:
    """Delete all rows of the event's aggregate."""
    return Rule(RuleKind.DELETE_ALL, _changes({}))


def _changes(values: Mapping[str, Any]) -> Mapping[str, Change]:
    return MappingProxyType(
        {
            name: value if isinstance(value, Change) else Change(ChangeKind.ASSIGN, value)
            for name, value in values.items()
        }
    )
