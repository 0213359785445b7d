"""Events to come, for persistors that read ahead: each has as attributes what one operation will filter by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from persistor_kinds import RECORDS

from sequent_py.records import record_shape


class Asked:
    """Stands for an event whose fields are filters; those that it has not are None."""

    aggregate_id: Any
    model_fields = {column.attribute: None for record in RECORDS for column in record_shape(record).columns}
    position = created_at = None

    def __init__(self, where: Mapping[str, Any]) -> None:
        for name in (*self.model_fields, "aggregate_id", "sequence_number"):
            setattr(self, name, where.get(name))


class Foresight:
    """What a fold tells a persistor of its events, which it knows as far as the end of a batch."""

    def __init__(self, asked: Sequence[Mapping[str, Any]], batch: int | None = None) -> None:
        self._events = [Asked(where) for where in asked]
        self._batch = batch or len(asked)
        self.place = -1
        self.looked_at = 0
        """How many events were handed out as the first ones of their aggregates."""

    @property
    def current(self) -> Asked | None:
        return self._events[self.place] if self.place >= 0 else None

    def firsts(self, after: int, classes: Collection[type], seen: set[Any]) -> Iterator[tuple[int, Asked]]:
        """Yield as a fold does: an aggregate's later events are left out."""
        if self.current is not None:
            seen.add(repr(self.current.aggregate_id))
        for place in range(max(after, self.place) + 1, self._end):
            event = self._events[place]
            if repr(event.aggregate_id) in seen or event.__class__ not in classes:
                continue
            self.looked_at += 1
            seen.add(repr(event.aggregate_id))
            yield place, event

    def following(self) -> Iterator[tuple[int, Asked]]:
        return ((place, self._events[place]) for place in range(self.place + 1, self._end))

    @property
    def _end(self) -> int:
        return min((self.place // self._batch + 1) * self._batch, len(self._events))
