"""Folding raw events through projectors: decode once, hand to every handler.

The route of an event type (decoder and bound handlers) is looked up once per type; in the loop an event costs one dictionary look-up, one
decode and its handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg

from sequent_py.errors import InvalidPayload, ProjectionFailed, SequentError
from sequent_py.event_classes import EventTypes, describe_cause
from sequent_py.events import Event, aliases_of, event_type_of, set_envelope, uuid_from_bytes
from sequent_py.persistors import Persistor
from sequent_py.persistors.refusals import circumstance_of
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.projectors import Projector, projector_definition
from sequent_py.replay.reader import RawEvent

Handler = Callable[[Any], object]
Route = tuple[Callable[[bytes | memoryview], Event], tuple[Handler, ...]]


MOST_AGGREGATE_IDS = 100_000
"""So many ids of aggregates are kept, some 20 MB."""

_FAULTS = (Exception, SystemExit)
"""What user code may raise. A handler that exits would otherwise end the command as if it had succeeded."""


def handled_type_ids(
    projectors: Sequence[type[Projector]], stored_types: Mapping[str, int]
) -> dict[int, type[Event]]:
    """Return the ids of the stored types that the projectors handle, aliases included, with their classes."""
    handled: dict[int, type[Event]] = {}
    for projector in projectors:
        for event_class in projector_definition(projector).event_classes:
            for name in (event_type_of(event_class), *aliases_of(event_class)):
                if name in stored_types:
                    handled[stored_types[name]] = event_class
    return handled


class _AggregateIds(dict[bytes, UUID]):
    """The ids of the aggregates that a fold has met, by their bytes: one object for all events of an aggregate."""

    def __missing__(self, raw: bytes) -> UUID:
        if len(self) >= MOST_AGGREGATE_IDS:
            self.clear()
        found = self[raw] = uuid_from_bytes(raw)
        return found


class Fold:
    """The projectors of one group, bound to its persistor."""

    def __init__(
        self,
        projectors: Sequence[type[Projector]],
        persistor: Persistor,
        event_types: EventTypes,
        stored_types: Mapping[str, int],
    ) -> None:
        handled = handled_type_ids(projectors, stored_types)
        self.event_type_ids = tuple(sorted(handled))
        instances = [(projector(persistor), projector_definition(projector)) for projector in projectors]
        if isinstance(persistor, ReplayPersistor):
            for instance, _ in instances:
                persistor.shorten(instance)
        self._routes: dict[int, Route] = {}
        for type_id, event_class in handled.items():
            handlers = tuple(
                getattr(instance, name)
                for instance, definition in instances
                for name in definition.handlers.get(event_class, ())
            )
            self._routes[type_id] = (event_types.decoder(event_type_of(event_class)), handlers)
        self._event_classes = handled
        self._aggregate_ids = _AggregateIds()
        self._events: Sequence[RawEvent] = ()
        self._decoded: dict[int, Event] = {}
        self._first = 0
        """The number of the batch's first event."""
        self.place = -1
        """The current event's number; every batch goes on counting."""
        self.current: Event | None = None
        """The event that handlers are at, or were at last."""

    def following(self) -> Iterator[tuple[int, Event]]:
        """Yield the events of the current one's type that come after it in its batch, with their numbers.

        Ends before one whose payload does not validate, which is said when its turn comes.
        """
        if not self._events:
            return
        now = self.place - self._first
        type_id = self._events[now][4]
        for place in range(now + 1, len(self._events)):
            if self._events[place][4] == type_id:
                event = self._event_at(place)
                if event is None:
                    return
                yield self._first + place, event

    def firsts(
        self, after: int, classes: Collection[type[Event]], seen: set[bytes]
    ) -> Iterator[tuple[int, Event]]:
        """Yield events of these classes with numbers above ``after``, of each aggregate that is not in ``seen`` the first.

        The aggregates of what is yielded are added, and the current event's. Ends as :meth:`following` does.
        """
        if not self._events:
            return
        seen.add(self._events[self.place - self._first][2])
        type_ids = {type_id for type_id, cls in self._event_classes.items() if cls in classes}
        begin = max(after, self.place) + 1 - self._first
        for place, raw in enumerate(islice(self._events, begin, None), begin):
            if raw[2] in seen or raw[4] not in type_ids:
                continue
            event = self._event_at(place)
            if event is None:
                return
            seen.add(raw[2])
            yield self._first + place, event

    def _event_at(self, place: int) -> Event | None:
        """Return an event of the batch; None when its payload does not validate."""
        event = self._decoded.get(place)
        if event is None:
            raw = self._events[place]
            try:
                event = self._routes[raw[4]][0](raw[5])
            except _FAULTS:
                return None
            set_envelope(event, self._aggregate_ids[raw[2]], raw[3], raw[1], raw[0], raw[6])
            self._decoded[place] = event
        return event

    def apply_batch(self, raw_events: Sequence[RawEvent]) -> int:
        """Do as :meth:`apply` with events of which the later ones can be looked at while handlers are at an earlier one."""
        self._events = raw_events
        try:
            return self.apply(raw_events)
        finally:
            self._events, self.current = (), None
            self._first += len(raw_events)
            self._decoded.clear()

    def event_type(self, type_id: int) -> str:
        """Return the type of an event that is handled, by its stored id."""
        return event_type_of(self._event_classes[type_id])

    def apply(self, raw_events: Iterable[RawEvent]) -> int:
        """Feed events, in the order given, to the handlers; return how many there were.

        Raises
        ------
        InvalidPayload
            A payload does not validate.
        ProjectionFailed
            A handler raised.
        psycopg.OperationalError
            No fault of the handler's: a lost connection, a deadlock, a lock that could not be had…
        """
        routes, aggregate_ids = self._routes, self._aggregate_ids
        decoded, first = self._decoded, self._first
        count = 0
        for position, created_at, raw_id, sequence_number, type_id, payload, metadata in raw_events:
            decode, handlers = routes[type_id]
            if count in decoded:
                event = decoded.pop(count)
            else:
                try:
                    event = decode(payload)
                except _FAULTS as error:
                    raise InvalidPayload(
                        event_type_of(self._event_classes[type_id]),
                        aggregate_ids[raw_id],
                        sequence_number,
                        describe_cause(error),
                    ) from error
                set_envelope(event, aggregate_ids[raw_id], sequence_number, created_at, position, metadata)
            self.current, self.place = event, first + count
            handler: Handler | None = None
            try:
                for handler in handlers:  # named in the error below
                    handler(event)
            except psycopg.OperationalError:
                # The connection was lost, or others were in the way: not the handler's doing, and another try may do better.
                raise
            except _FAULTS as error:
                # A handler, or the library that it uses, may have wrapped such an error in one of its own.
                circumstance = circumstance_of(error)
                if circumstance is not None:
                    raise circumstance from circumstance.__cause__
                raise projection_failed(handler, event, error) from error
            count += 1
        return count


def projection_failed(handler: Any, event: Event, error: BaseException) -> ProjectionFailed:
    """Say which projector failed on which event, and why."""
    projector = type(getattr(handler, "__self__", handler)).__name__
    cause = str(error) if isinstance(error, SequentError) else f"{type(error).__name__}: {error}"
    failed = ProjectionFailed(
        projector, event_type_of(type(event)), event.aggregate_id, event.sequence_number, cause
    )
    failed.remedy = "Mend the handler, then run the same command again; what is finished is kept."
    return failed
