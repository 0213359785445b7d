"""A fold that leaves out what tables are known to lack: an aggregate that some of them lack is folded by the projectors of the others alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from sequent_py.checks.omissions import Omissions
from sequent_py.event_classes import EventTypes
from sequent_py.persistors import Persistor
from sequent_py.projectors import Projector
from sequent_py.replay.fold import Fold
from sequent_py.replay.reader import RawEvent


class PartialFold:
    """The projectors of one fold, bound to its persistor."""

    def __init__(
        self,
        projectors: Sequence[type[Projector]],
        persistor: Persistor,
        event_types: EventTypes,
        stored_types: Mapping[str, int],
        omissions: Omissions,
    ) -> None:
        self._fold = Fold(projectors, persistor, event_types, stored_types)
        folds: dict[tuple[type[Projector], ...], Fold] = {}
        self._partial: dict[bytes, Fold] = {}
        for aggregate_id in omissions.aggregates:
            chosen = omissions.projectors(aggregate_id, projectors)
            if chosen not in folds:
                folds[chosen] = Fold(chosen, persistor, event_types, stored_types)
            self._partial[aggregate_id.bytes] = folds[chosen]

    @property
    def event_type_ids(self) -> tuple[int, ...]:
        """The stored types that the projectors handle."""
        return self._fold.event_type_ids

    def apply(self, raw_events: Iterable[RawEvent]) -> int:
        """Feed events, in the order given, to the handlers; return how many there were.

        Raises
        ------
        ProjectionFailed, InvalidPayload
            The code cannot fold an event.
        """
        if not self._partial:
            return self._fold.apply(raw_events)
        events = 0
        # Runs, so that the order across aggregates stays.
        for fold, run in groupby(raw_events, lambda raw: self._partial.get(bytes(raw[2]), self._fold)):
            events += fold.apply(raw for raw in run if raw[4] in fold.event_type_ids)
        return events
