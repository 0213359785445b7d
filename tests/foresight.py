"""Events to come, for persistors that read ahead: each has as attributes what one operation will filter by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from persistor_kinds import RECORDS

from sequent_py.records import record_shape


class Asked:
    """Stands for an event whose fields are filters; those that it has not are None."""

    model_fields = {column.attribute: None for record in RECORDS for column in record_shape(record).columns}
    position = created_at = None

    def __init__(self, where: Mapping[str, Any]) -> None:
        for name in (*self.model_fields, "aggregate_id", "sequence_number"):
            setattr(self, name, where.get(name))


class Foresight:
    """What a fold tells a persistor of its events."""

    def __init__(self, asked: Sequence[Mapping[str, Any]]) -> None:
        self._events = [Asked(where) for where in asked]
        self.place = -1

    @property
    def current(self) -> Asked | None:
        return self._events[self.place] if self.place >= 0 else None

    def following(self) -> Iterator[tuple[int, Asked]]:
        return ((place, self._events[place]) for place in range(self.place + 1, len(self._events)))
