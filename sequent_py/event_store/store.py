"""The event store: append, load, read by range and by snapshot window.

Owns ``events`` and, by triggers, ``event_edits``. Writes events through the SQL function ``append_events``, which passes the gate, checks versions and numbers the events
(:mod:`sequent_py.event_store.appending`). Locks: those of that function, those of live projections, and none for reading.

Guarantees:

* A batch is recorded whole or not at all, with its projections. When append raises, nothing of it will ever be visible: on a caller's
  connection the transaction is left aborted, as PostgreSQL does, also when a Python handler was to blame.
* Within an aggregate, sequence numbers have no gaps, and positions rise with them.
* What append returns equals what load returns, to the microsecond.

After a crash there is nothing to clean up: everything is in the server's transactions. If the connection breaks during an append, the
caller learns that the outcome is unknown, and an ``expected_version`` makes the retry safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import sqlalchemy
from psycopg import sql
from pydantic_core import from_json

from sequent_py.arguments import checked_aggregate_id, checked_count, checked_event_classes
from sequent_py.cursors import EventCursor, EventServerCursor, OwnCursor
from sequent_py.database import for_parameters, preparing, raw_connection
from sequent_py.errors import InvalidEnvelope, SequentError, StoreError, WrongExpectedVersion
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.append_call import Call
from sequent_py.event_store.appending import Appender, Projection
from sequent_py.event_store.encoding import encode_batch
from sequent_py.event_store.event_types import EventTypeIds
from sequent_py.event_store.own_connections import OwnConnections
from sequent_py.event_store.store_errors import translated
from sequent_py.events import Envelope, Event, aliases_of, event_type_of
from sequent_py.roles.lacking import Deed, lacking
from sequent_py.windows import window_condition

WINDOW_FETCH_EVENTS = 2_000
"""Rows per fetch of a window's cursor: past it the round trips no longer show, and the memory would."""

AnyConnection = sqlalchemy.Connection | psycopg.Connection


class EventStore:
    """The events of one schema. Safe for threads, as the engine is."""

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        schema: str,
        event_types: EventTypes,
        projection: Projection | None = None,
    ) -> None:
        self.engine = engine
        self.schema = schema
        self.event_types = event_types
        self.projection = projection
        self._queries: dict[str, bytes] = {}
        self._connections = OwnConnections(engine)
        self._may_not_append = partial(self._explained, Deed.APPEND)
        self._may_not_read = partial(self._explained, Deed.READ)
        self._appender = Appender(self._connections, schema, projection, self._may_not_append)
        self._ids = EventTypeIds(schema, lambda: self._connections.lend(autocommit=True))

    # Writing

    def append(
        self,
        aggregate_id: UUID,
        events: Sequence[Event],
        expected_version: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime | None = None,
        partition_key: str | None = None,
        connection: AnyConnection | None = None,
    ) -> list[Event]:
        """Record events at the end of an aggregate and return them with their envelopes.

        ``expected_version`` is the number of events that the caller decided on, 0 for a new aggregate; None appends after whatever is
        there. ``created_at`` is the server's time unless given. ``partition_key`` is given with an aggregate's first events, if at all, and
        may be repeated later; appends to aggregates of one key form a line (docs/concepts.md). On a ``connection`` everything happens in its transaction, which is neither committed nor
        rolled back; without one it is committed on return.

        Raises
        ------
        WrongExpectedVersion
            The aggregate is at another version, or another transaction has just appended to it.
        MaintenanceModeActive
            The gate is closed.
        VersionMismatch
            Another view-schema version is live than those that this code serves.
        PartitionKeyConflict
            The aggregate has another partition key, or events without one.
        InvalidEvent, InvalidAggregateId
            Something cannot be stored, was recorded before, or is no event; the id is no UUID.
        ProjectionFailed
            A handler raised, or a table refuses the rows it made (ConstraintViolated).
        psycopg.OperationalError
            A deadlock or a serialization failure, for example: roll back and try again.
        StoreNotInstalled, DatabaseUnavailable
            There is no event store, or no server.
        InsufficientPrivileges
            The login may not append; names the role that may.
        ReadOnlySession
            The session may not write, or the server is a standby.
        """
        if expected_version is not None and (
            not isinstance(expected_version, int)
            or isinstance(expected_version, bool)
            or expected_version < 0
        ):
            raise StoreError(
                f"expected_version is a number of events, 0 for a new aggregate, not {expected_version!r:.80}."
            )
        if partition_key is not None and (not isinstance(partition_key, str) or not partition_key):
            raise StoreError(f"partition_key is a text that is not empty, not {partition_key!r:.80}.")
        batch = encode_batch(self.event_types, aggregate_id, events, metadata, created_at)
        call = Call(batch, self._stored_type_ids(batch.type_names), expected_version, partition_key)
        if connection is not None:
            raw = raw_connection(connection)
            with preparing(raw):
                return self._appender.append_on(raw, call)
        try:
            return self._appender.append(call)
        except WrongExpectedVersion as error:
            if error.actual is not None:
                raise
            # The unique key was faster than our reading; the winner has committed, and now its version can be read.
            raise WrongExpectedVersion(
                aggregate_id, expected_version, self.version_of(aggregate_id)
            ) from error

    def import_history(
        self,
        events: Iterable[tuple[UUID, Event, datetime | None]],
        *,
        batch_events: int = 10_000,
        progress: Callable[[int], None] | None = None,
        partition_keys: Mapping[UUID, str] | None = None,
    ) -> int:
        """Copy the history of new aggregates into a store that has no live version; return the number of events.

        One transaction: an interrupted import leaves nothing. Events get positions in the given order and sequence numbers from 1 by
        aggregate. ``progress`` is called with the number of events sent so far, every ``batch_events`` of them and at the end.
        ``partition_keys`` holds those of the aggregates that have one; it is asked once for each, with its first event.

        Raises
        ------
        ImportRefused
            A version is live, whose tables would miss these events, or an aggregate has events already.
        MaintenanceModeActive, InvalidEvent, StoreNotInstalled
            As in :meth:`append`.
        InsufficientPrivileges
            Only the store's owner may.
        """
        from sequent_py.event_store.history import import_history

        with self._connections.lend() as own:
            return import_history(
                own,
                self.schema,
                events,
                encode=self.event_types.encode,
                type_id_of=lambda name: self._stored_type_ids([name])[0],
                batch_events=batch_events,
                progress=progress,
                partition_keys=partition_keys,
                explain_refusal=partial(self._explained, Deed.IMPORT),
            )

    # Reading

    def load(
        self,
        aggregate_id: UUID,
        *,
        after: int = 0,
        until: int | None = None,
        connection: AnyConnection | None = None,
    ) -> list[Event]:
        """Return the events of an aggregate in order, those with ``after < sequence_number <= until``; of an unknown one, none.

        Raises
        ------
        InvalidAggregateId, StoreError
            An argument is of another type.
        UnknownEventType, InvalidPayload, InvalidEnvelope
            Naming type, aggregate and sequence number.
        InsufficientPrivileges
            The login may not read events; names the roles that may.
        """
        checked_aggregate_id(aggregate_id)
        checked_count("after", after)
        if until is not None:
            checked_count("until", until)
        return self._select(
            "aggregate_id = %s AND sequence_number > %s AND sequence_number <= coalesce(%s, 2147483647)"
            " ORDER BY sequence_number",
            [aggregate_id, after, until],
            connection,
        )

    def load_range(
        self,
        *,
        after_position: int = 0,
        limit: int = 1000,
        event_types: Sequence[type[Event]] | None = None,
    ) -> list[Event]:
        """Return up to ``limit`` events after a position, by position.

        For looking around. Not for following the store: a transaction may commit lower positions later, which only :meth:`window` does not miss.

        Raises
        ------
        StoreError
            An argument is of another type.
        """
        checked_count("after_position", after_position)
        checked_count("limit", limit)
        return self._select(
            "position > %s AND (%s::integer[] IS NULL OR event_type_id = ANY (%s)) ORDER BY position LIMIT %s",
            [after_position, *[self._type_filter(event_types)] * 2, limit],
            None,
        )

    def window(
        self,
        since: str | None,
        until: str | None = None,
        *,
        event_types: Sequence[type[Event]] | None = None,
    ) -> Iterator[Event]:
        """Yield the events visible in snapshot ``until`` and not in ``since``, in position order.

        Snapshots are texts that :meth:`snapshot` returned earlier; None is the beginning, or now. Consecutive windows hold every
        committed event once, and keep the order within every aggregate. Memory stays bounded; the connection is held until the last event.

        Raises
        ------
        StoreError
            A text is not a snapshot.
        """
        condition = for_parameters(window_condition(since, until))
        type_ids = self._type_filter(event_types)
        return self._stream(
            sql.SQL("({}) AND (%s::integer[] IS NULL OR event_type_id = ANY (%s)) ORDER BY position").format(
                condition
            ),
            [type_ids, type_ids],
        )

    def snapshot(self) -> str:
        """Return the present snapshot, as text to be kept."""
        with self._connections.lend(autocommit=True) as own:
            return str(_one(OwnCursor(own).execute("SELECT pg_current_snapshot()::text")))

    def version_of(self, aggregate_id: UUID) -> int:
        """Return the number of an aggregate's events; 0 for an unknown one.

        Raises
        ------
        InvalidAggregateId
            It is no UUID.
        """
        checked_aggregate_id(aggregate_id)
        with self._connections.lend(autocommit=True) as own, self._translated():
            query = self._query(
                "SELECT coalesce(max(sequence_number), 0) FROM {events} WHERE aggregate_id = %s"
            )
            return int(_one(OwnCursor(own).execute(query, [aggregate_id])))

    # Inside

    def _stored_type_ids(self, names: Sequence[str]) -> list[int]:
        known = self._ids.cached_ids_of(names)
        if known is not None:
            return known
        with translated(self.schema, None, explain_refusal=self._may_not_append):
            return self._ids.ids_of(names)

    def _type_filter(self, event_types: Sequence[type[Event]] | None) -> list[int] | None:
        if event_types is None:
            return None
        classes = checked_event_classes(event_types)
        names = [name for cls in classes for name in (event_type_of(cls), *aliases_of(cls))]
        with self._translated():
            return self._ids.known_ids_of(names)

    def _select(
        self, condition: LiteralString, parameters: list[Any], connection: AnyConnection | None
    ) -> list[Event]:
        query = self._query(_SELECT + condition)
        if connection is not None:
            raw = raw_connection(connection)
            with self._translated(raw), preparing(raw):
                rows = EventCursor(raw).execute(query, parameters).fetchall()
        else:
            with self._connections.lend(autocommit=True) as own, self._translated(own):
                rows = EventCursor(own).execute(query, parameters).fetchall()
        return [self._decoded(row) for row in rows]

    def _stream(self, condition: sql.Composable, parameters: list[Any]) -> Iterator[Event]:
        query = (
            sql.SQL(_SELECT).format(events=for_parameters(sql.Identifier(self.schema, "events"))) + condition
        )
        with (
            self._connections.lend() as own,
            self._translated(own),
            EventServerCursor(own, "sequent_window") as cursor,
        ):
            cursor.itersize = WINDOW_FETCH_EVENTS
            cursor.execute(query, parameters, binary=True)
            for row in cursor:
                yield self._decoded(row)

    def _decoded(self, row: tuple[Any, ...]) -> Event:
        aggregate_id, sequence_number, created_at, position, metadata, event_type_id, payload = row
        name, noted = self._ids.name_of(event_type_id), from_json(metadata)
        if created_at.__class__ is not datetime or noted.__class__ is not dict:
            raise InvalidEnvelope(
                name,
                aggregate_id,
                sequence_number,
                "created_at is no moment of the years 1 to 9999"
                if created_at.__class__ is not datetime
                else "metadata is no JSON object",
            )
        envelope = Envelope(aggregate_id, sequence_number, created_at, position, noted)
        return self.event_types.decode(name, payload.encode(), envelope)

    def _query(self, text: LiteralString) -> bytes:
        """Fill in the store's names; composing them anew would add a tenth to an append."""
        query = self._queries.get(text)
        if query is None:
            composed = sql.SQL(text).format(
                events=for_parameters(sql.Identifier(self.schema, "events")),
            )
            query = self._queries[text] = composed.as_bytes(None)
        return query

    def _translated(self, connection: psycopg.Connection | None = None) -> Any:
        return translated(self.schema, connection, explain_refusal=self._may_not_read)

    def _explained(
        self, deed: Deed, error: psycopg.Error, refused: psycopg.Connection | None
    ) -> SequentError | None:
        """Say which role the login lacks; None where nobody can be asked. The transaction that was refused cannot: it is aborted."""
        try:
            with self._connections.lend(autocommit=True) as own:
                login = refused.info.user if refused is not None and not refused.closed else None
                return lacking(own, self.schema, deed, error, login=login)
        except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError, SequentError):
            return None


_SELECT: LiteralString = (
    "SELECT aggregate_id, sequence_number, created_at, position, metadata::text, event_type_id, payload::text"
    " FROM {events} WHERE "
)


def _one(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row[0]
