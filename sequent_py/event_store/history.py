"""Importing history: COPY of whole aggregates into a store that serves no projections yet.

Writes ``events`` directly, in one transaction, behind the gate's shared lock like every writer, and behind the rows of the partition keys that
it gives. Memory grows with the number of aggregates (some
100 bytes each, for their last sequence number), not with that of events.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.binary_copy import BEGINNING, TRAILER
from sequent_py.errors import ImportRefused, InvalidEvent, StoreError, WrongExpectedVersion
from sequent_py.event_store.encoding import checked_time
from sequent_py.event_store.partitions import assign_partitions, checked_partition_key, lock_partitions
from sequent_py.event_store.store_errors import Explain, translated
from sequent_py.events import POSTGRES_EPOCH, Event, event_type_of

# Five fields, each with its length: created_at, aggregate_id, sequence_number, event_type_id, and jsonb's version byte before the text.
_ROW = struct.Struct("!hiqi16siiiiiB")
_JSONB_VERSION = 1
_MICROSECOND = timedelta(microseconds=1)


def import_history(
    connection: psycopg.Connection,
    schema: str,
    events: Iterable[tuple[UUID, Event, datetime | None]],
    *,
    encode: Callable[[Event], bytes],
    type_id_of: Callable[[str], int],
    batch_events: int,
    progress: Callable[[int], None] | None,
    partition_keys: Mapping[UUID, str] | None = None,
    explain_refusal: Explain | None = None,
) -> int:
    """Copy the events in the connection's transaction; see :meth:`sequent_py.event_store.store.EventStore.import_history`."""
    if batch_events < 1:
        raise StoreError(f"batch_events is at least 1, not {batch_events}.")
    with translated(schema, connection, explain_refusal=explain_refusal):
        now = _pass_gate(connection, schema)
    rows = _Rows(encode, type_id_of, now, {} if partition_keys is None else partition_keys)
    try:
        for aggregate_id, event, created_at in events:
            rows.add(aggregate_id, event, created_at)
            if rows.count % batch_events == 0:
                _send(connection, schema, rows, explain_refusal)
                if progress is not None:
                    progress(rows.count)
        _send(connection, schema, rows, explain_refusal)
    except WrongExpectedVersion as error:
        cause = error.__cause__
        detail = cause.diag.message_detail if isinstance(cause, psycopg.Error) else None
        raise ImportRefused(
            f"An aggregate has events already; nothing was imported: {detail}",
            remedy="Import into a new store, or leave these aggregates out.",
        ) from error
    if progress is not None:
        progress(rows.count)
    return rows.count


def _send(connection: psycopg.Connection, schema: str, rows: _Rows, explain_refusal: Explain | None) -> None:
    """Copy a batch. The rows of its partition keys are locked first: positions are drawn behind that lock, as in an append."""
    keys, payload = rows.take_keys(), rows.take()
    target = sql.SQL(
        "COPY {} (created_at, aggregate_id, sequence_number, event_type_id, payload) FROM STDIN (FORMAT binary)"
    ).format(sql.Identifier(schema, "events"))
    with translated(schema, connection, explain_refusal=explain_refusal):
        if keys:
            lock_partitions(connection, schema, set(keys.values()))
        with connection.cursor() as cursor, cursor.copy(target) as copy:
            copy.write(BEGINNING)
            copy.write(payload + TRAILER)
        if keys:
            assign_partitions(connection, schema, keys)


def _pass_gate(connection: psycopg.Connection, schema: str) -> datetime:
    """Take the gate's lock, so that no version can go live before the import has ended; return the server's time."""
    row = connection.execute(
        sql.SQL("SELECT live_version, clock_timestamp() FROM {}()").format(
            sql.Identifier(schema, "check_gate_v2")
        )
    ).fetchone()
    assert row is not None
    live_version, now = row
    if live_version != 0:
        raise ImportRefused(
            f"View-schema version {live_version} is live: its tables would miss the imported events.",
            remedy="Import into a new store, or append the events.",
        )
    moment: datetime = now
    return moment


class _Rows:
    """Encodes rows of the binary COPY format and numbers them by aggregate."""

    def __init__(
        self,
        encode: Callable[[Event], bytes],
        type_id_of: Callable[[str], int],
        now: datetime,
        partition_keys: Mapping[UUID, str],
    ) -> None:
        self.count = 0
        self._encode = encode
        self._type_id_of = type_id_of
        self._now = now
        self._versions: dict[bytes, int] = {}
        self._type_ids: dict[str, int] = {}
        self._parts: list[bytes] = []
        self._partition_keys = partition_keys
        self._new_keys: dict[UUID, str] = {}

    def add(self, aggregate_id: UUID, event: Event, created_at: datetime | None) -> None:
        if not isinstance(event, Event) or not isinstance(aggregate_id, UUID):
            raise InvalidEvent(
                f"Item {self.count + 1} of the history is not (UUID, Event, datetime or None): "
                f"{type(aggregate_id).__name__}, {type(event).__name__}."
            )
        payload = self._encode(event)
        name = event_type_of(type(event))
        if name not in self._type_ids:
            self._type_ids[name] = self._type_id_of(name)
        key = aggregate_id.bytes
        number = self._versions[key] = self._versions.get(key, 0) + 1
        if number == 1 and (partition_key := self._partition_keys.get(aggregate_id)) is not None:
            self._new_keys[aggregate_id] = checked_partition_key(partition_key)
        microseconds = ((checked_time(created_at) or self._now) - POSTGRES_EPOCH) // _MICROSECOND
        self._parts.append(
            _ROW.pack(
                5, 8, microseconds, 16, key, 4, number, 4, self._type_ids[name], len(payload) + 1, _JSONB_VERSION
            )
        )  # fmt: skip
        self._parts.append(payload)
        self.count += 1

    def take_keys(self) -> dict[UUID, str]:
        """Return the keys of the aggregates that are new since the last call."""
        keys, self._new_keys = self._new_keys, {}
        return keys

    def take(self) -> bytes:
        block = b"".join(self._parts)
        self._parts.clear()
        return block
