"""The pass that is replayed while writers wait: everything that can be done before has been done before.

Its two connections are open, the code is imported, the shapes of the tables are read, and the same objects have replayed earlier windows with the
gate open, so that plans and caches are warm and one knows how long a window takes. A window is *one* transaction: the pass, its groups and
their rows become visible together, so no worker elsewhere can claim a group of it, and no half of it is ever found. Its writer holds
``worker_key()``: a later coordinator ends it before it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sequent_py.errors import CatchUpTooSlow
from sequent_py.replay.group_replayer import GroupReplayer, connect_worker
from sequent_py.replay.ledger import Connection, Pass
from sequent_py.verification import Verification
from sequent_py.view_schema.building.pace import Pace
from sequent_py.view_schema.building.passes import Passes
from sequent_py.view_schema.building.time_limit import TimeLimit
from sequent_py.view_schema.context import Context

LOCK_TIMEOUT_SECONDS = 0.5
"""Nothing should be in the way of a window; and where something of our own is, the server cannot see that we wait for ourselves."""
SLOWEST_WINDOW_SECONDS = 0.5
"""However few events are pending: where a window takes longer, handlers are slow, and writers would wait for them."""
COUNTED_ROWS = 200_000
"""Counting so many takes some 10 ms; more were counted before."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A window that has been committed."""

    window: Pass
    seconds: float

    @property
    def events(self) -> int:
        """How many events it has."""
        return self.window.estimated_events


class LastWindow:
    """Replays and checks windows over connections that are open already. Made by :func:`opened`."""

    def __init__(
        self,
        context: Context,
        passes: Passes,
        reader: Connection,
        writer: Connection,
        *,
        max_delta_events: int,
        max_lag_seconds: float,
    ) -> None:
        self._context = context
        self._max_delta_events = max_delta_events
        self._max_lag_seconds = max_lag_seconds
        self._reader = reader
        self._writer = writer
        # Over the writer, whose transaction the pass is written in.
        self._passes = passes.on(writer)
        self._replayer = GroupReplayer(passes.task(), context.migrations, context.event_types)
        self._replayer.prepare(writer)
        self._verification = Verification(
            event_store_schema=context.schema,
            projectors=self._replayer.projectors,
            tables=self._replayer.tables,
            event_types=context.event_types,
            stored_types={},
        )
        self._verification.prepare(writer)
        self._latest: Replayed | None = None
        self._empty_seconds: float | None = None
        self.check_seconds: float | None = None
        """How long :meth:`check` took when there was something to check; None before."""

    def replay(self, *, must_be_little: bool = False) -> Replayed:
        """Replay what has come in since the newest pass, which must be finished, in one transaction.

        Raises
        ------
        CatchUpTooSlow
            It had to be little and is not; nothing was done.
        EventsEdited, ProjectionFailed, InvalidPayload
            Nothing was done.
        """
        started = time.monotonic()
        with self._writer.transaction():
            self._passes.require_unedited()
            window = self._passes.create_next()
            events = window.estimated_events
            if must_be_little and not self.is_little(events):
                raise CatchUpTooSlow(
                    f"{events:,} events had come in by the time that writers were held up; they were let go on.",
                    remedy="Run it again, give --max-delta or --max-lag if a longer stall is all right, or: sequent migrate offline",
                )
            # Also without events: rows of aggregates that were erased have to go.
            self._replayer.run(self._reader, self._writer)
        replayed = Replayed(window, time.monotonic() - started)
        if events or self._latest is None:
            self._latest = replayed
        if not events:
            self._empty_seconds = replayed.seconds
        return replayed

    def expected_seconds(self, events: int) -> float:
        """Say how long so many events will take: as long as the latest window that had any, times how many more there are.

        None take as long as the latest empty window did: one slow window must not stand for a store in which nothing happens any more.
        """
        if self._latest is None:
            return 0.0
        if events == 0 and self._empty_seconds is not None:
            return self._empty_seconds
        return self._latest.seconds * max(1.0, events / max(self._latest.events, 1))

    def approach(self, *, most_windows: int, limit: TimeLimit) -> Iterator[Replayed]:
        """Replay window after window until little is left, ``most_windows`` of them at most; yield each. Nobody waits yet.

        Raises
        ------
        CatchUpTooSlow
            It does not become little, or windows do not get shorter.
        TimeLimitReached
            Before a window.
        """
        pace, pending = Pace(), 0
        for _ in range(most_windows):
            limit.require()
            found, started = pending, time.monotonic()
            yield self.replay()
            # What the caller did with it counts as part of the window: events come in meanwhile, too.
            pending = self._passes.pending_events()
            if self.is_little(pending):
                return
            if found:
                # Short ones may meet a gap between writers yet; those that are long and stay so raise.
                pace.note(found=found, left=pending, seconds=time.monotonic() - started)
        raise self._never_little(pending, most_windows)

    def is_little(self, events: int) -> bool:
        """Whether everybody may wait for so many events."""
        seconds = self.expected_seconds(events)
        is_few = events <= self._max_delta_events and seconds <= SLOWEST_WINDOW_SECONDS
        return is_few or seconds <= self._max_lag_seconds

    def _never_little(self, pending: int, windows: int) -> CatchUpTooSlow:
        seconds = self.expected_seconds(pending)
        return CatchUpTooSlow(
            f"{pending:,} events are pending after {windows} more passes, and would take about {seconds:.2g} s:"
            f" {'writers are as fast as the replay' if pending else 'that long takes a window without any'}.",
            remedy="Run it again when less is written, give --max-delta or --max-lag if a longer stall is all right,"
            " or: sequent migrate offline",
        )

    def check(self, replayed: Replayed, *, sample: int, most_events: int) -> int:
        """Compare aggregates of a window with the log, and all row counts where that is quick; return how many aggregates that were.

        Raises
        ------
        VerificationFailed
            They differ.
        """
        if replayed.events == 0:
            return 0
        started = time.monotonic()
        verification = self._verification
        # A type that is new in this window has its id only now.
        verification.refresh(self._writer, left_out=self._passes.set_aside())
        window = replayed.window
        aggregates = verification.sample(
            self._writer, until=window.until, since=window.since, size=sample, most_events=most_events
        )
        verified = verification.check_aggregates(
            self._writer, self._reader, aggregates, until=window.until, most_events=most_events
        )
        rows = self._passes.expected_rows()
        if sum(rows.values()) <= COUNTED_ROWS:
            verification.check_counts(self._writer, rows)
        self.check_seconds = time.monotonic() - started
        return verified


@contextmanager
def opened(
    context: Context, passes: Passes, *, max_delta_events: int, max_lag_seconds: float
) -> Iterator[LastWindow]:
    """Open the connections of a last window, of the epoch that ``passes`` are at.

    It is little with at most ``max_delta_events``, or where it is expected to take at most ``max_lag_seconds``.
    """
    reader, writer = connect_worker(context.database_url, context.schema)
    with reader, writer:
        for connection in (reader, writer):
            connection.execute(
                "SELECT set_config('lock_timeout', %s, false)", (f"{round(LOCK_TIMEOUT_SECONDS * 1000)}ms",)
            )
        yield LastWindow(
            context,
            passes,
            reader,
            writer,
            max_delta_events=max_delta_events,
            max_lag_seconds=max_lag_seconds,
        )
