"""Those who use the application while something else happens to it: a writer that keeps an account, and a reader that trusts nothing.

Both are threads at a modest pace. What they may meet is said when they are made; anything else is a failure, and so is every row that is not what
a prefix of its aggregate's events gives.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any
from uuid import UUID

import psycopg
from parcels import ParcelLost, ParcelMoved, ParcelPosted, codes_of, parcel, parcels
from waiting import wait_until

from sequent_py import Sequent
from sequent_py.errors import DatabaseUnavailable, MaintenanceModeActive

LOST_CONNECTION = (psycopg.OperationalError, DatabaseUnavailable)
_NOT_LOST = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.OutOfMemory,
)
"""psycopg counts them as operational, too; nobody may meet them."""
WRITER_PAUSE_SECONDS = 0.01
READER_PAUSE_SECONDS = 0.01


class Writer(threading.Thread):
    """Appends: short ones, slow transactions beside them that commit out of order, and ones that roll back."""

    def __init__(self, url: str, version: int, first_parcel: int) -> None:
        super().__init__(daemon=True, name="writer")
        self._url = url
        self._version = version
        self._next = first_parcel
        self._turn = 0
        self._slow: tuple[psycopg.Connection[Any], UUID, int] | None = None
        self._is_stopping = threading.Event()
        self.acknowledged: dict[UUID, int] = {}
        """The last sequence number of each aggregate whose commit has returned."""
        self.losing: set[UUID] = set()
        """Aggregates that may have been lost: their rows may vanish."""
        self.appends = 0
        self.refused = 0
        self.cut_off = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        with parcels(self._url, self._version) as app:
            while not self._is_stopping.wait(WRITER_PAUSE_SECONDS):
                try:
                    self._step(app)
                except MaintenanceModeActive:
                    self.refused += 1
                    self._drop_slow()
                except BaseException as error:
                    if isinstance(error, LOST_CONNECTION) and not isinstance(error, _NOT_LOST):
                        self.cut_off += 1
                    else:
                        self.errors.append(error)
                    self._drop_slow()
            with suppress(*LOST_CONNECTION, MaintenanceModeActive):
                self._end_slow(is_committed=True)
            self._drop_slow()

    def stop(self) -> None:
        self._is_stopping.set()
        self.join(30)
        assert not self.is_alive(), "the writer hangs"

    def _step(self, app: Sequent) -> None:
        self._turn += 1
        kind = self._turn % 6
        if kind == 1:
            self._next += 1
            self._append(app, parcel(self._next), [ParcelPosted(city=f"city {self._next}")])
        elif kind == 2 and self._slow is None:
            self._begin_slow(app)
        elif kind == 5 and self._slow is not None:
            self._end_slow(is_committed=self._turn % 4 != 3)
        elif kind == 4 and self._turn % 5 == 0 and len(self.acknowledged) > 5:
            lost = next(iter(self.acknowledged))
            self.losing.add(lost)
            del self.acknowledged[lost]
            app.store.append(lost, [ParcelLost()])
        elif self.acknowledged:
            aggregate = list(self.acknowledged)[self._turn % len(self.acknowledged)]
            if self._slow is None or self._slow[1] != aggregate:
                self._append(app, aggregate, [ParcelMoved(cents=self._turn), ParcelMoved(cents=1)])

    def _append(self, app: Sequent, aggregate: UUID, events: Sequence[Any]) -> None:
        recorded = app.store.append(aggregate, events)
        self.acknowledged[aggregate] = recorded[-1].sequence_number
        self.appends += 1

    def _begin_slow(self, app: Sequent) -> None:
        """Take a transaction id first, and append late."""
        self._next += 1
        aggregate = parcel(self._next)
        connection = psycopg.connect(self._url)
        self._slow = (connection, aggregate, 2)
        connection.execute("SELECT pg_current_xact_id()")
        app.store.append(aggregate, [ParcelPosted(city="slow"), ParcelMoved(cents=3)], connection=connection)

    def _end_slow(self, *, is_committed: bool) -> None:
        if self._slow is None:
            return
        connection, aggregate, sequence_number = self._slow
        self._slow = None
        with connection:
            if is_committed:
                connection.commit()
                self.acknowledged[aggregate] = sequence_number
            else:
                connection.rollback()

    def _drop_slow(self) -> None:
        if self._slow is not None:
            self._slow[0].close()
            self._slow = None


class Reader(threading.Thread):
    """Looks at both tables at once, all the time."""

    QUERY = """
        SELECT p.aggregate_id, p.sequence_number, p.stops, p.cents, p.code, s.number, s.cents, s.least, s.most
        FROM parcel_records p, LATERAL (
            SELECT count(*) AS number, coalesce(sum(s.cents), 0) AS cents, min(s.code) AS least, max(s.code) AS most
            FROM stop_records s WHERE s.aggregate_id = p.aggregate_id
        ) s
    """

    def __init__(self, url: str, versions: Sequence[int], writer: Writer) -> None:
        super().__init__(daemon=True, name="reader")
        self._url = url
        self.codes = {codes_of(version) for version in versions}
        """Of the parcels and the stops: those of one version, not one of each."""
        self._writer = writer
        self._is_stopping = threading.Event()
        self._seen: dict[UUID, int] = {}
        self._gone: set[UUID] = set()
        self.polls = 0
        self.cut_off = 0
        self.errors: list[str] = []

    def run(self) -> None:
        while not self._is_stopping.is_set():
            try:
                with psycopg.connect(
                    self._url,
                    autocommit=True,
                    options="-c search_path=view_schema",
                    application_name="reader",
                ) as connection:
                    while not self._is_stopping.wait(READER_PAUSE_SECONDS):
                        self._look(connection)
            except Exception as error:
                if isinstance(error, psycopg.OperationalError) and not isinstance(error, _NOT_LOST):
                    self.cut_off += 1
                else:
                    self.errors.append(repr(error))
                self._is_stopping.wait(0.05)

    def stop(self) -> None:
        self._is_stopping.set()
        self.join(30)
        assert not self.is_alive(), "the reader hangs"

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        if self.polls % 5 == 4:
            # The other order of locks, in a transaction that keeps them.
            with connection.transaction():
                connection.execute("SELECT count(*) FROM stop_records")
                connection.execute("SELECT count(*) FROM parcel_records")
        rows = connection.execute(self.QUERY).fetchall()
        found = {row[0]: row[1] for row in rows}
        for aggregate, sequence_number, stops, cents, _, number, sum_of_cents, _, _ in rows:
            if stops != sequence_number - 1 or number != stops or cents != sum_of_cents:
                self.errors.append(f"{aggregate} is no prefix: {sequence_number}, {stops} and {number} stops")
            if sequence_number < self._seen.get(aggregate, 0):
                self.errors.append(f"{aggregate} went back from {self._seen[aggregate]} to {sequence_number}")
            if aggregate in self._gone:
                self.errors.append(f"{aggregate} came back")
        parcel_codes = {row[4] for row in rows}
        stop_codes = {code for row in rows for code in row[7:] if code is not None}
        if rows and not any(
            parcel_codes <= {parcels_code} and stop_codes <= {stops_code}
            for parcels_code, stops_code in self.codes
        ):
            self.errors.append(f"rows of codes {parcel_codes} and {stop_codes}, which no one version serves")
        for aggregate in self._seen.keys() - found.keys():
            if aggregate not in self._writer.losing:
                self.errors.append(f"{aggregate} has vanished")
            self._gone.add(aggregate)
        self._seen = found
        self.polls += 1


class Bystanders:
    """A writer and a reader for the block; at its end they are asked what they have seen."""

    def __init__(
        self,
        url: str,
        versions: Sequence[int],
        *,
        first_parcel: int = 1000,
        may_be_refused: bool = False,
        may_be_cut_off: bool = False,
    ) -> None:
        self.writer = Writer(url, max(versions), first_parcel)
        self.reader = Reader(url, versions, self.writer)
        self._url = url
        self._may_be_refused = may_be_refused
        self._may_be_cut_off = may_be_cut_off

    def __enter__(self) -> Bystanders:
        self.writer.start()
        self.reader.start()
        self.see_progress()
        return self

    def see_progress(self) -> None:
        """Wait until both have done something more: the writer's append has been committed, the reader's look has shown rows."""
        appends, polls = self.writer.appends, self.reader.polls
        wait_until(lambda: self.writer.appends > appends or self.writer.errors, 30)
        wait_until(lambda: self.reader.polls > polls or self.reader.errors, 30)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.writer.stop()
        self.reader.stop()
        if error is None:
            self.check()

    def check(self) -> None:
        """Fail on anything that nobody may meet, and on an acknowledged append that is not in the log."""
        assert not self.writer.errors, self.writer.errors
        assert not self.reader.errors, self.reader.errors[:5]
        if not self._may_be_refused:
            assert self.writer.refused == 0, "appends were refused"
        if not self._may_be_cut_off:
            assert self.writer.cut_off == 0, "a writer lost its connection"
            assert self.reader.cut_off == 0, "a reader lost its connection"
        with psycopg.connect(self._url, autocommit=True) as connection:
            stored = dict(
                connection.execute(
                    "SELECT aggregate_id, max(sequence_number) FROM sequent_schema.events GROUP BY 1"
                ).fetchall()
            )
        lost = {
            aggregate: number
            for aggregate, number in self.writer.acknowledged.items()
            if stored.get(aggregate, 0) < number
        }
        assert not lost, f"acknowledged appends are not in the log: {lost}"
