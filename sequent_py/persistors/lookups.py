"""Look-ups that can be foreseen: what the handlers of an event look up, known before the event is recorded.

Most handlers take the filters of their first look-up from the event itself. So a live append can send those look-ups along with the events, and needs no round trip
for each. What is learned comes from look-ups that were not foreseen, by :mod:`.ahead`. A look-up is foreseen only once several events of the type have explained
it, because one that is to change a row locks it; and one that was foreseen in vain is never foreseen again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sequent_py.events import Event
from sequent_py.exchange import numbered
from sequent_py.persistors.ahead import AccessPaths, Path
from sequent_py.persistors.operations import Filter
from sequent_py.persistors.statements import Statements, ValuesQuery
from sequent_py.records import ColumnShape

LEARNED_FROM = 3
"""So many look-ups must have come out of their events as the first one did. With fewer, a number that two events have by chance is taken for their rule."""
MOST_LESSONS = 200
"""So many look-ups of one kind are looked at; those that were not foreseen by then never will be."""
_UNKNOWN_BEFORE = frozenset({"created_at", "position"})
"""What an event gets from the server only."""


class LookUp(ValuesQuery):
    """A look-up of one row by certain columns, which are to have a value each: which of the matching rows, and whether to lock it. Composed once.

    ``values_of`` returns the values of a call's filters, None where one of them is to be converted, or is not one value.
    """

    def __init__(
        self,
        statements: Statements,
        columns: Sequence[ColumnShape],
        order: str,
        is_locking: bool,
        values_of: Callable[[Mapping[str, Any]], tuple[Any, ...] | None],
    ) -> None:
        super().__init__(
            statements.first(columns, order=order, lock=is_locking),
            (statements.dumpers[column.attribute] for column in columns),
        )
        self.table = statements.table.name
        self.columns = tuple(columns)
        self.values_of = values_of
        self.statement = numbered(self.query)


@dataclass(slots=True, eq=False)
class Foresight:
    """How one look-up of an event class comes out of the event."""

    event_class: type[Event]
    look_up: LookUp
    path: Path

    @property
    def is_ready(self) -> bool:
        """Whether it is known well enough, and from what is known of an event before it is recorded."""
        return self.path.explained >= LEARNED_FROM and not any(
            sources[0].attribute in _UNKNOWN_BEFORE for sources in self.path.sources
        )

    @property
    def needs_number(self) -> bool:
        """Whether the event's number within its aggregate has to be known."""
        return any(sources[0].attribute == "sequence_number" for sources in self.path.sources)

    def of(self, event: Event) -> Sequence[Any] | None:
        """Return the look-up's parameters for an event that is not recorded yet, but has what :attr:`is_ready` asks for; None where they cannot be told."""
        values = self.path.guess(event)
        return None if values is None else self.look_up.parameters(values)


@dataclass(slots=True)
class LookUps:
    """What has been learned; holds for as long as the tables and the handlers are the same. Safe for threads."""

    _paths: AccessPaths = field(default_factory=AccessPaths)
    _known: dict[type[Event], tuple[Foresight, ...]] = field(default_factory=dict)
    _ready: dict[type[Event], tuple[Foresight, ...]] = field(default_factory=dict)
    _lessons: dict[tuple[type[Event], LookUp], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def foresights(self, event_class: type[Event]) -> tuple[Foresight, ...]:
        """Return what is known of an event class well enough."""
        return self._ready.get(event_class, ())

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
            known = self._known.get(event_class, ())
            if path is not None and all(item.path is not path for item in known):
                known = (*known, Foresight(event_class, look_up, path))
            self._take(event_class, known)

    def give_up(self, foresight: Foresight) -> None:
        """Foresee it no longer: what was read was not asked for."""
        with self._lock:
            self._lessons[foresight.event_class, foresight.look_up] = MOST_LESSONS
            known = self._known.get(foresight.event_class, ())
            self._take(
                foresight.event_class, tuple(item for item in known if item.look_up is not foresight.look_up)
            )

    def _take(self, event_class: type[Event], known: tuple[Foresight, ...]) -> None:
        self._known[event_class] = known
        self._ready[event_class] = tuple(item for item in known if item.is_ready)
