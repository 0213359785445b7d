"""The governor: asks, before a worker begins a group, whether it may, and waits until it may.

The edge of :mod:`sequent_py.replay.limits`. What holds (a pause, limits, the run that they are of) stands in the ledger's database
(:mod:`sequent_py.replay.control`), so that it holds for workers on every host, for those that join later, and after a restart. Nothing waits in a
transaction: a group that was begun is finished. A worker also leaves here when its run is over: when nobody coordinates any longer, or
somebody else does; closing a pipe tells that to workers on the coordinator's host only.

A rate is kept by places in a line: each group takes one as long as its events may take at that rate, in one statement, and is begun when its place
begins. So groups of several workers are spread over time, and a worker that dies leaves nothing behind but a little time unused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sequent_py.progress import Progress
from sequent_py.replay import fence
from sequent_py.replay.control import Control, require_statistics, take_readings
from sequent_py.replay.ledger import Connection, Ledger
from sequent_py.replay.limits import Hold, LagHistory, Standing, find_hold

LOOK_SECONDS = 0.5
"""Between two looks while something holds: as soon as anybody would notice, and a millisecond of work each."""

Listener = Callable[[Hold | None], object]
"""Told when something begins to hold, when the cause changes, and (None) when it is over."""


class Governor:
    """Admits one worker of one run of a migration to its groups."""

    def __init__(
        self,
        schema: str,
        migration_id: int,
        epoch: int,
        *,
        listener: Listener = lambda _hold: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._schema = schema
        self._control = Control(schema)
        self._ledger = Ledger(schema)
        self._migration_id, self._epoch = migration_id, epoch
        self._listener, self._sleep = listener, sleep
        self._history = LagHistory()
        self._told: Hold | None = None
        self._may_watch = False
        self._place: tuple[float, float] | None = None
        """The rate and the estimated events of the group that is to be begun."""

    def admit(self, connection: Connection) -> bool:
        """Wait until a group may be begun; False when there is none, or the run is over, and the worker is to leave.

        ``connection`` commits by itself and is in no transaction.

        Raises
        ------
        InsufficientPrivileges
            The run has limits that this login cannot watch.
        """
        begins_at: float | None = None
        self._place = None
        while True:
            standing = self._control.read(connection)
            if not self._is_on(connection, standing):
                return False
            hold = self.look(connection, standing)
            wait_seconds = LOOK_SECONDS
            if hold is None:
                if standing.limits.rate is None:
                    return True
                if begins_at is None:
                    place = self._reserve(connection, standing.limits.rate)
                    if place is None:
                        return False
                    begins_at = time.monotonic() + place
                wait_seconds = begins_at - time.monotonic()
                if wait_seconds <= 0:
                    return True
            elif not self._ledger.has_unfinished(connection, self._migration_id):
                return False
            self._sleep(min(wait_seconds, LOOK_SECONDS))

    def wait_while_held(self, connection: Connection) -> bool:
        """Wait until nothing holds, and say whether something did; a rate does not hold."""
        has_waited = False
        while self.look(connection) is not None:
            has_waited = True
            self._sleep(LOOK_SECONDS)
        return has_waited

    def look(self, connection: Connection, standing: Standing | None = None) -> Hold | None:
        """Say what holds just now, and tell the listener if that is new."""
        standing = standing or self._control.read(connection)
        if standing.limits.needs_statistics and not self._may_watch:
            # Of a worker that joined by another login, too: what it may not see would count as idle.
            require_statistics(connection)
            self._may_watch = True
        hold = find_hold(standing, take_readings(connection, standing.limits, self._history))
        if hold != self._told:
            self._told = hold
            self._listener(hold)
        return hold

    def finished(self, connection: Connection, events: int) -> None:
        """Pay for the difference between a group's events and their estimate, which is poor for the groups of a sampled store."""
        if self._place is not None:
            rate, estimated = self._place
            self._place = None
            if events != estimated:
                self._control.correct(connection, (events - estimated) / rate)

    def _is_on(self, connection: Connection, standing: Standing) -> bool:
        return (
            standing.is_of(self._migration_id, self._epoch)
            and fence.coordinator(connection, self._schema) is not None
        )

    def _reserve(self, connection: Connection, rate: float) -> float | None:
        """Take a place for the group that comes next; return in how many seconds it begins, None when no group is left."""
        events = self._ledger.next_group_events(connection, self._migration_id, epoch=self._epoch)
        if events is None:
            return None
        self._place = (rate, events)
        return self._control.reserve(connection, events / rate)


def note_hold(progress: Progress, hold: Hold | None) -> None:
    """Tell whoever watches."""
    progress.note("The replay goes on." if hold is None else f"The replay waits: {hold.message}.")
