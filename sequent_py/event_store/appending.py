"""Appending: a batch's way to ``append_events`` and, once a version is live, through the projection to COMMIT.

On a connection of the store's own that is as few round trips as can be (:mod:`sequent_py.exchange`): one where nothing is projected, in which the server commits; else
one with BEGIN, the events and the look-ups that are foreseen, and one with what the handlers wrote and COMMIT. On a caller's connection statements go through cursors, one
by one, as the caller has set up the connection to send them.

Where a look-up that was sent along fails, whatever the reason, or the server has lost a prepared statement, the append is rolled back and tried once more without.

Guarantees: between the first statement and COMMIT no exception, wherever it comes from, leaves a transaction that can commit. On a connection of the store's own it is rolled
back, or the connection is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast, runtime_checkable

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from sequent_py.cursors import EventCursor, OwnCursor
from sequent_py.errors import ProjectionFailed, VersionMismatch
from sequent_py.event_store.append_call import Call, call_query, noted, recorded_by
from sequent_py.event_store.own_connections import OwnConnections
from sequent_py.event_store.store_errors import Explain, translated
from sequent_py.events import Event
from sequent_py.exchange import BEGIN, Exchange, Texts, is_lost, numbered
from sequent_py.persistors.lines import Foreseen
from sequent_py.persistors.lookups import Foresight


class Projection(Protocol):
    """What append calls with the events it recorded, in their transaction, once a version is live."""

    @property
    def versions(self) -> Sequence[int]:
        """The view-schema versions that this code serves."""

    def project(
        self, connection: psycopg.Connection, events: Sequence[Event], live_version: int, cut_overs: int
    ) -> None:
        """Apply the events to the live tables of that version; whatever it raises undoes the append.

        ``cut_overs`` is how often the live version was set: what is known of its tables holds until it rises.
        """


@runtime_checkable
class LineProjection(Projection, Protocol):
    """One that can send its statements along a line, and foresees some of them."""

    def ahead(self, exchange: Exchange, event: Event, *, is_numbered: bool) -> Sequence[Foreseen]:
        """Return the look-ups to send along with an event that knows its aggregate and, if ``is_numbered``, its number, and nothing else of its envelope."""

    def give_up(self, foresight: Foresight) -> None:
        """Send this look-up along no longer: it cannot be made."""

    def get_ready(self, exchange: Exchange, events: Sequence[Event]) -> Any:
        """Return what ``project_and_commit`` would begin with, as far as it is believed already; called while the server records the events."""

    def project_and_commit(
        self,
        exchange: Exchange,
        events: Sequence[Event],
        live_version: int,
        cut_overs: int,
        foreseen: Sequence[Foreseen],
        ready: Any,
    ) -> None:
        """As ``project``, and commit, on a connection of the store's own."""


class _InVain(Exception):
    """What was sent along with the events failed, and with it all of the transaction."""


class Appender:
    """Appends to one store."""

    def __init__(
        self,
        connections: OwnConnections,
        schema: str,
        projection: Projection | None,
        explain_refusal: Explain,
    ) -> None:
        self.projection = projection
        self._connections, self._schema, self._explain_refusal = connections, schema, explain_refusal
        self._along_a_line = projection if isinstance(projection, LineProjection) else None
        self._may_project = projection is not None
        """Whether the next append needs a transaction, to project in. A guess from the last one, which the server corrects."""
        self._query = call_query(schema)
        self._statement = numbered(self._query)

    def append(self, call: Call) -> list[Event]:
        """Record and project on a connection of the store's own, and commit."""
        with self._connections.lend_exchange() as exchange:
            if exchange is not None:
                return self._append_by(exchange, call)
        if not self._may_project:
            try:
                with self._connections.lend(autocommit=True) as own:
                    row = self._record(own, call, ())
                return noted(call.batch, row)
            except VersionMismatch:
                # Serving no version, it is refused as soon as one is live: nothing was written.
                if self.projection is None:
                    raise
        with self._connections.lend() as own:
            return self.append_on(own, call)

    # By exchanges

    def _append_by(self, exchange: Exchange, call: Call) -> list[Event]:
        """Try until nothing that was only believed stands in the way: each of these at most once."""
        sends_ahead, may_be_lost = True, True
        while True:
            # Read once: other threads set it.
            projects = self._may_project
            versions = self.projection.versions if self.projection is not None and projects else ()
            values = exchange.dump(call.arguments(versions))
            try:
                if not projects:
                    return self._append_alone(exchange, call, values)
                return self._append_in_transaction(exchange, call, values, sends_ahead)
            except VersionMismatch:
                # Serving no version, it is refused as soon as one is live: nothing was written.
                if self.projection is None or projects:
                    raise
                self._may_project = True
            except _InVain:
                sends_ahead = False
            except (psycopg.Error, ProjectionFailed) as error:
                if not may_be_lost or not is_lost(error):
                    exchange.roll_back()
                    raise
                may_be_lost = False
                exchange.forget()
            exchange.roll_back()

    def _append_alone(self, exchange: Exchange, call: Call, values: Texts) -> list[Event]:
        """One round trip: the call is a transaction of its own."""
        with self._translated(exchange.connection, call, ()):
            answers = exchange.ask((self._statement, values))
            for answer in answers:
                exchange.checked(answer)
        return call.batch.recorded(*recorded_by(answers[0])[:3])

    def _append_in_transaction(
        self, exchange: Exchange, call: Call, values: Texts, sends_ahead: bool
    ) -> list[Event]:
        """Two round trips or a few more; without ``sends_ahead`` no look-up is sent before a handler asks for it."""
        projection = self.projection
        assert projection is not None
        along, batch = self._along_a_line, call.batch
        with self._translated(exchange.connection, call, projection.versions):
            exchange.send((BEGIN, ()), (self._statement, values), more_comes_now=True)
            foreseen = self._look_ups_ahead(exchange, call) if sends_ahead else ()
            exchange.post(*[(item.foresight.look_up.statement, item.texts) for item in foreseen])
            ready = None if along is None else along.get_ready(exchange, batch.decoded)
            begun, appended, *found = exchange.answers()
            exchange.checked(begun)
            recorded = recorded_by(exchange.checked(appended))
        for item, answer in zip(foreseen, found, strict=True):
            try:
                item.answer = exchange.checked(answer)
            except psycopg.Error as error:
                if is_lost(error):
                    raise
                if along is not None and not isinstance(error, psycopg.OperationalError):
                    along.give_up(item.foresight)
                raise _InVain from error
        events = batch.recorded(*recorded[:3])
        if recorded.live_version == 0:
            self._may_project = False
            exchange.commit()
        elif along is not None:
            along.project_and_commit(
                exchange, events, recorded.live_version, recorded.cut_overs, foreseen, ready
            )
        else:
            projection.project(exchange.connection, events, recorded.live_version, recorded.cut_overs)
            exchange.commit()
        return events

    def _look_ups_ahead(self, exchange: Exchange, call: Call) -> Sequence[Foreseen]:
        """Return what the handlers of the batch's first event look up. What those of later events do may be rows that the earlier ones have written."""
        version = call.expected_version
        if self._along_a_line is None:
            return ()
        first = call.batch.first_expected_at(1 if version is None else version + 1)
        return self._along_a_line.ahead(exchange, first, is_numbered=version is not None)

    # By cursors

    def append_on(self, connection: psycopg.Connection, call: Call) -> list[Event]:
        """Record and project in the connection's transaction, or in one of its own where it commits by itself."""
        code_versions = self.projection.versions if self.projection is not None else ()
        is_idle = connection.info.transaction_status == TransactionStatus.IDLE
        is_pipelined = connection.info.pipeline_status != PipelineStatus.OFF
        needs_transaction = self.projection is not None and connection.autocommit and is_idle
        begins = is_idle and not connection.autocommit and psycopg.Pipeline.is_supported()
        try:
            with connection.transaction() if needs_transaction else nullcontext():
                row = self._record(connection, call, code_versions, begins=begins)
                recorded = noted(call.batch, row)
                *_, live_version, cut_overs = row
                self._may_project = self.projection is not None and live_version > 0
                if self.projection is not None and live_version > 0:
                    self.projection.project(connection, recorded, live_version, cut_overs)
                return recorded
        except BaseException as error:
            # Whatever it is, an alarm between two lines of this method included: the server may have recorded the events.
            _abort(connection, is_pipelined=is_pipelined)
            interruption = error.__context__
            if (
                isinstance(error, psycopg.OperationalError)
                and error.sqlstate is None
                and interruption is not None
            ):
                # The driver left a pipeline in vain, because of an exception that came from elsewhere.
                raise interruption from None
            raise

    def _record(
        self,
        connection: psycopg.Connection,
        call: Call,
        code_versions: Sequence[int],
        *,
        begins: bool = False,
    ) -> tuple[Any, ...]:
        """Call ``append_events``. ``begins``: the driver sends BEGIN before it, and a pipeline does not wait for the answer to that."""
        with self._translated(connection, call, code_versions):
            with connection.pipeline() if begins else nullcontext():
                cursor = EventCursor(connection).execute(self._query, call.arguments(code_versions))
            return cast(tuple[Any, ...], cursor.fetchone())

    def _translated(
        self, connection: psycopg.Connection, call: Call, code_versions: Sequence[int]
    ) -> AbstractContextManager[None]:
        return translated(
            self._schema,
            connection,
            aggregate_id=call.batch.aggregate_id,
            expected_version=call.expected_version,
            code_versions=code_versions,
            explain_refusal=self._explain_refusal,
        )


def _abort(connection: psycopg.Connection, *, is_pipelined: bool) -> None:
    """Leave the transaction aborted: a caller that goes on after any exception must not commit events without their projection.

    ``is_pipelined``: the caller had opened a pipeline. Where an exception came in the middle of what the driver was doing, it may wait for the
    server for ever, and the connection is closed.
    """
    status = connection.info.transaction_status
    if not is_pipelined:
        if connection.info.pipeline_status != PipelineStatus.OFF or status == TransactionStatus.ACTIVE:
            connection.close()
            return
        if status != TransactionStatus.INTRANS:
            return
    try:
        # In a pipeline this is only queued, before any COMMIT.
        OwnCursor(connection).execute(
            "DO $$ BEGIN RAISE 'an append failed: this transaction cannot commit'; END $$"
        )
    except psycopg.errors.RaiseException:
        return
    except psycopg.Error:
        connection.close()
    except BaseException:
        connection.close()
        raise
