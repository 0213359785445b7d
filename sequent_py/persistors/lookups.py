"""Look-ups that can be foreseen: what the handlers of an event look up, known before the event is recorded.

Most handlers take the filters of their first look-up from the event itself. So a live append can send those look-ups along with the events, and needs no round trip
for each. What is learned comes from look-ups that were not foreseen, by :mod:`.ahead`. A look-up is foreseen only once several events of the type have explained
it, because one that is to change a row locks it; and one that was foreseen in vain is never foreseen again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sequent_py.events import Event
from sequent_py.exchange import numbered
from sequent_py.persistors.ahead import AccessPaths, Path
from sequent_py.persistors.operations import Filter
from sequent_py.persistors.statements import Statements
from sequent_py.records import ColumnShape

LEARNED_FROM = 3
"""So many look-ups must have come out of their events as the first one did. With fewer, a number that two events have by chance is taken for their rule."""
MOST_LESSONS = 200
"""So many look-ups of one kind are looked at; those that were not foreseen by then never will be."""
_UNKNOWN_BEFORE = frozenset({"created_at", "position"})
"""What an event gets from the server only."""


class LookUp:
    """A look-up of one row by certain columns, which are to have a value each: which of the matching rows, and whether to lock it. Composed once."""

    def __init__(
        self, statements: Statements, columns: Sequence[ColumnShape], order: str, is_locking: bool
    ) -> None:
        self.table = statements.table.name
        self.columns = tuple(columns)
        self.query = statements.first(columns, order=order, lock=is_locking)
        self.statement = numbered(self.query)
        self._dumpers = [statements.dumpers[column.attribute] for column in columns]

    def parameters(self, values: Iterable[Any]) -> list[Any]:
        """Return the parameters for values that were converted to their columns' types."""
        return [
            value if dump is None else dump(value) for dump, value in zip(self._dumpers, values, strict=True)
        ]


@dataclass(slots=True, eq=False)
class Foresight:
    """How one look-up of an event class comes out of the event."""

    event_class: type[Event]
    look_up: LookUp
    path: Path

    def of(self, event: Event) -> list[Any] | None:
        """Return the look-up's parameters for an event that knows its aggregate and its number; None where they cannot be told."""
        path = self.path
        if path.explained < LEARNED_FROM or any(
            sources[0].attribute in _UNKNOWN_BEFORE for sources in path.sources
        ):
            return None
        values = path.guess(event)
        return None if values is None else self.look_up.parameters(values)


@dataclass(slots=True)
class LookUps:
    """What has been learned; holds for as long as the tables and the handlers are the same. Safe for threads."""

    _paths: AccessPaths = field(default_factory=AccessPaths)
    _known: dict[type[Event], tuple[Foresight, ...]] = field(default_factory=dict)
    _lessons: dict[tuple[type[Event], LookUp], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def foresights(self, event_class: type[Event]) -> tuple[Foresight, ...]:
        """Return what is known of an event class."""
        return self._known.get(event_class, ())

    def learn(self, event: Event, look_up: LookUp, values: Sequence[Any]) -> None:
        """Take note of a look-up that a handler of the event made, and that was not foreseen."""
        event_class = type(event)
        kind = (event_class, look_up)
        lessons = self._lessons.get(kind, 0)
        if lessons >= MOST_LESSONS or not values:
            return
        filters = [
            Filter(column, (value,), True) for column, value in zip(look_up.columns, values, strict=True)
        ]
        with self._lock:
            self._lessons[kind] = lessons + 1
            path = self._paths.path(event, (look_up,), filters)
            known = self.foresights(event_class)
            if path is not None and all(item.path is not path for item in known):
                self._known[event_class] = (*known, Foresight(event_class, look_up, path))

    def give_up(self, foresight: Foresight) -> None:
        """Foresee it no longer: what was read was not asked for."""
        with self._lock:
            self._lessons[foresight.event_class, foresight.look_up] = MOST_LESSONS
            self._known[foresight.event_class] = tuple(
                item
                for item in self.foresights(foresight.event_class)
                if item.look_up is not foresight.look_up
            )
