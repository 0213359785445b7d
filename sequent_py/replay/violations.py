"""Violations: which events made the rows that a table refuses.

Constraints, types and triggers of a table speak when a group's rows are written, all at once, and then nobody knows whose row it was. So after
a refusal, and only then, the group is written again in parts (:mod:`sequent_py.replay.halving`), down to the aggregates at fault; of each of them
then ever shorter prefixes of its events, down to the first that is refused. Everything happens in a savepoint that is rolled back, while the
group's claim is held: nothing of it stays, and nobody else folds the group meanwhile. It costs some three times the group, whose size is bounded.

Of aggregates that exclude one another (a unique name) the one that begins later in the window is at fault, or the one whose group is written later.
Where rows depend on several aggregates, the prefixes are those of the whole group.

Only what is a fault of the rows (:mod:`sequent_py.persistors.refusals`) begins a search; any other error of the server ends it.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import psycopg

from sequent_py.errors import InvalidPayload, ProjectionError, ProjectionFailed
from sequent_py.persistors.refusals import Origin, constraint_violated, refusal_of
from sequent_py.replay.group_fold import GroupFold
from sequent_py.replay.halving import find_faults, shortest_refused
from sequent_py.replay.reader import RawEvent
from sequent_py.replay.refold import SpecialAggregate

MOST_NAMED = 100
"""So many aggregates at fault are looked for at a time."""
MOST_SERIAL_EVENTS = 100_000
"""Of a larger group in position order no event is looked for: every prefix is a replay from the beginning."""
COLLECTED_EVENTS = 5_000
"""After a write of so many events that failed the memory is worth collecting; workers have turned the collector off."""

Failure = ProjectionFailed | InvalidPayload
"""An event that cannot be projected."""


class _Refused(NamedTuple):
    error: Exception
    writing: str | None
    event: RawEvent | None
    """The last event that was read."""


def failures_of(group: GroupFold, error: Exception, *, most: int) -> Sequence[Failure]:
    """Return the events to blame for a failure of the group's fold, at most ``most`` of them, one for each aggregate.

    A failure that names its event is returned as it is; where rows were refused, their events are searched for. The caller has rolled the
    group's writes back.

    Raises
    ------
    Exception
        ``error``, where it is no fault of an event.
    psycopg.Error
        The search met an error of the server that says nothing of the rows.
    """
    if refusal_of(error) is None:
        if isinstance(error, Failure):
            return [error]
        raise error
    search = _Search(group, _Refused(error, group.writing, None))
    # The rows of the write that failed; a second group's worth of them is about to be made.
    traceback.clear_frames(error.__traceback__)
    with group.writer.transaction(force_rollback=True):
        if group.claimed.group.ordering != "aggregate":
            return [search.first_event()]
        return search.aggregates(min(most, MOST_NAMED))


class _Search:
    """Writes parts of one group, within a savepoint of the caller's."""

    def __init__(self, group: GroupFold, first: _Refused) -> None:
        self._group, self._refused = group, first

    def aggregates(self, most: int) -> Sequence[Failure]:
        """Find the aggregates at fault."""
        group, first = self._group, self._refused
        refused: dict[UUID, _Refused] = {}

        def write(part: Sequence[SpecialAggregate]) -> bool:
            is_written = self._write(part)
            if not is_written and len(part) == 1:
                refused[part[0].aggregate_id] = self._refused
            return is_written

        group.delete_failed()
        at_fault = find_faults(group.aggregates(), write, most=most)
        if not at_fault:
            return [self._named(first, None)]
        return [self._first_event_of(item, refused[item.aggregate_id]) for item in at_fault]

    def first_event(self) -> Failure:
        """Find the event from which on the whole group is refused."""
        if self._group.claimed.group.estimated_events > MOST_SERIAL_EVENTS or not self._shorten(None):
            return self._named(self._refused._replace(event=None), None)
        return self._named(self._refused, None)

    def _first_event_of(self, item: SpecialAggregate, found: _Refused) -> Failure:
        """Find the event from which on the aggregate is refused, on top of all the others that are not."""
        self._refused = found
        if item.is_edited and not self._write([item], 0, keeps=False):
            # Its old rows cannot even go.
            return self._named(self._refused._replace(event=None), item.aggregate_id)
        self._refused = found
        is_found = self._shorten([item])
        return self._named(self._refused if is_found else found._replace(event=None), item.aggregate_id)

    def _shorten(self, items: Sequence[SpecialAggregate] | None) -> bool:
        """Leave the refusal of the shortest prefix that is refused; False where nothing is refused any more."""
        if self._write(items, keeps=False):
            return False
        length = self._group.events_read
        # Every refusal is of a shorter prefix than the one before: the last one is the shortest.
        shortest_refused(length, lambda events: not self._write(items, events, keeps=False))
        return length > 0

    def _write(
        self,
        items: Sequence[SpecialAggregate] | None,
        most_events: int | None = None,
        *,
        keeps: bool = True,
    ) -> bool:
        """Write, in a savepoint that is kept where the rows are accepted; False where they are refused."""
        group = self._group
        try:
            with group.writer.transaction(force_rollback=not keeps):
                group.write(items, most_events)
        except (psycopg.Error, ProjectionError, InvalidPayload) as error:
            if refusal_of(error) is None and not isinstance(error, Failure):
                raise
            self._refused = _Refused(error, group.writing, group.last_event)
            if group.events_read > COLLECTED_EVENTS and not gc.isenabled():
                traceback.clear_frames(error.__traceback__)
                gc.collect()
            return False
        return True

    def _named(self, refused: _Refused, aggregate_id: UUID | None) -> Failure:
        """Return the error that names what is known."""
        error, event = refused.error, refused.event
        refusal = refusal_of(error)
        if refusal is None:
            # A handler that fails only now; it names its event.
            assert isinstance(error, Failure)
            return error
        origin = Origin("", aggregate_id, None)
        if event is not None:
            origin = Origin(self._group.event_type(event), UUID(bytes=bytes(event[2])), event[3])
        named = constraint_violated(
            refusal,
            origin,
            projectors=self._group.projectors,
            tables=self._group.tables,
            writing=refused.writing,
        )
        named.remedy = "Mend the handler or correct the event, then run the same command again; what is finished is kept."
        return named
