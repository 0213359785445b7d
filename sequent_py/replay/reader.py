"""Reading the events of a group: binary COPY, parsed here.

A server-side cursor costs about twice as much per row as this parser, because every value becomes a Python object before anybody has
asked for it. The parser hands out the aggregate id and the metadata as bytes and the time as an integer; the event's properties convert
them when a handler reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.binary_copy import HEADER, SIGNATURE, TRAILER
from sequent_py.copy_out import copy_out
from sequent_py.errors import EventsEdited
from sequent_py.native import native
from sequent_py.replay.groups import Group
from sequent_py.windows import window_condition

RawEvent = tuple[int, int, bytes, int, int, bytes, bytes]
"""position, created_at in microseconds since 2000-01-01 UTC, aggregate id, sequence number, event type id, payload, metadata."""

_FIXED = struct.Struct(">hiqiqi16siiiii")
"""Field count, then position, created_at, aggregate id, sequence number and type id with their lengths, then the payload's length."""
_raw_event: Callable[[bytes | memoryview], RawEvent | None] | None = (
    None if native is None else native.raw_event
)
_LENGTH = struct.Struct(">i")
_FIELDS = 7
_JSONB_VERSION_BYTES = 1


def group_source(
    schema: str,
    group: Group,
    *,
    event_type_ids: Sequence[int],
    since: str | None,
    until: str,
    left_out: Collection[UUID] = (),
    left_out_query: sql.Composable | None = None,
) -> sql.Composed:
    """Compose ``FROM … AS e WHERE …`` of a group's events of some types.

    Not read are the aggregates ``left_out``, and those that ``left_out_query`` selects by the time of reading.
    """
    table = "events" if group.partition is None else f"events_{group.partition:02d}"
    conditions: list[sql.Composable] = []
    # Before the window, whose functions cost more: each group of a window goes through all of its events.
    if group.lower is not None:
        conditions.append(sql.SQL("aggregate_id >= {}").format(sql.Literal(group.lower)))
    if group.upper is not None:
        conditions.append(sql.SQL("aggregate_id < {}").format(sql.Literal(group.upper)))
    conditions.append(window_condition(since, until))
    if left_out:
        # A list of literals, which the server hashes.
        ids = sorted(str(item) for item in left_out)
        conditions.append(sql.SQL("aggregate_id <> ALL ({}::uuid[])").format(sql.Literal(ids)))
    if group.slices is not None and group.slices > 1:
        conditions.append(_in_slice(schema, group))
    return _source(schema, table, [*conditions, *_but_for(left_out_query)], event_type_ids)


def _in_slice(schema: str, group: Group) -> sql.Composed:
    """Return the condition that an event's partition key, or its aggregate id where it has none, falls into the group's slice.

    A key is written with the aggregate's first event and never changes, so every event of a key is in one slice, whichever passes and
    workers read it. A subquery rather than a join: it leaves the scan by position as it is, so that nothing need be sorted.
    """
    return sql.SQL(
        "abs(mod(hashtextextended(coalesce((SELECT k.partition_key FROM {keys} AS k WHERE k.aggregate_id = e.aggregate_id),"
        " e.aggregate_id::text) COLLATE {collation}, 0), {slices})) = {slice}"
    ).format(
        keys=sql.Identifier(schema, "aggregate_partitions"),
        collation=sql.Identifier("C"),
        slices=sql.Literal(group.slices),
        slice=sql.Literal(group.slice),
    )


def aggregates_query(
    schema: str,
    aggregate_ids: Sequence[UUID],
    *,
    event_type_ids: Sequence[int],
    until: str,
    since: str | None = None,
    left_out_query: sql.Composable | None = None,
) -> sql.Composed:
    """Compose the SELECT of some aggregates' events visible in ``until`` and not in ``since``, in position order; see :func:`group_source`."""
    ids = sql.SQL("aggregate_id = ANY({}::uuid[])").format(sql.Literal([str(item) for item in aggregate_ids]))
    conditions = [ids, window_condition(since, until), *_but_for(left_out_query)]
    return in_position_order(_source(schema, "events", conditions, event_type_ids))


def _but_for(left_out_query: sql.Composable | None) -> list[sql.Composable]:
    """Leave aggregates out by an uncorrelated NOT IN, which the server hashes once, whatever the way in which it reads the events."""
    return [] if left_out_query is None else [sql.SQL("aggregate_id NOT IN ({})").format(left_out_query)]


def _source(
    schema: str, table: str, conditions: Sequence[sql.Composable], event_type_ids: Sequence[int]
) -> sql.Composed:
    return sql.SQL("FROM {} AS e WHERE {} AND event_type_id = ANY({}::int[])").format(
        sql.Identifier(schema, table), sql.SQL(" AND ").join(conditions), sql.Literal(list(event_type_ids))
    )


def in_position_order(source: sql.Composable) -> sql.Composed:
    """Compose the SELECT of raw events from a ``FROM … AS e WHERE …``, in position order, which keeps the order within every scope of an ordering."""
    return _raw_events(source, "position")


def in_aggregate_order(source: sql.Composable) -> sql.Composed:
    """Compose the same SELECT, one aggregate after another, each in position order."""
    return _raw_events(source, "aggregate_id, position")


def _raw_events(source: sql.Composable, order: LiteralString) -> sql.Composed:
    return sql.SQL(
        "SELECT position, created_at, aggregate_id, sequence_number, event_type_id, payload, metadata {} ORDER BY {}"
    ).format(source, sql.SQL(order))


def in_order(raw_events: Iterable[RawEvent]) -> Iterator[RawEvent]:
    """Pass on events, provided that within every aggregate their sequence numbers rise with their positions.

    Appending keeps them so. An event that was deleted and inserted anew by hand may have got the position of a new one, and every replay
    would fold it too late.

    Raises
    ------
    EventsEdited
        They do not.
    """
    latest: dict[bytes, int] = {}
    for raw in raw_events:
        aggregate_id, sequence_number = raw[2], raw[3]
        if latest.get(aggregate_id, 0) >= sequence_number:
            raise EventsEdited(
                f"Positions of aggregate {UUID(bytes=bytes(aggregate_id))} were edited: its event {sequence_number} comes after event"
                f" {latest[aggregate_id]}.",
                remedy="Give its events positions that rise with their sequence numbers, then run the same command again.",
            )
        latest[aggregate_id] = sequence_number
        yield raw


def read_events(connection: psycopg.Connection[Any], query: sql.Composed) -> Generator[RawEvent, None, None]:
    """Yield the rows of ``query`` as raw events.

    The connection is in COPY mode until the generator is exhausted or closed: nothing else can run on it meanwhile. Close it when a
    handler may raise, for a traceback keeps it alive.
    """
    with closing(copy_out(connection, query)) as blocks:
        yield from parse(blocks)


def parse(blocks: Iterator[bytes | memoryview]) -> Iterator[RawEvent]:
    """Parse a binary COPY stream whose blocks may end anywhere.

    Raises
    ------
    ValueError
        The stream is not what :func:`in_position_order` selects.
    """
    unpack_fixed, unpack_length = _FIXED.unpack_from, _LENGTH.unpack_from
    fixed_size = _FIXED.size
    rest = b""
    header_seen = False
    for block in blocks:
        if header_seen and not rest and _raw_event is not None and (raw := _raw_event(block)) is not None:
            yield raw
            continue
        data = rest + bytes(block) if rest else bytes(block)
        offset, size = 0, len(data)
        if not header_seen:
            if size < HEADER.size:
                rest = data
                continue
            signature, _flags, extension = HEADER.unpack_from(data)
            if signature != SIGNATURE:
                raise ValueError("not a binary COPY stream")
            offset, header_seen = HEADER.size + extension, True
        while size - offset >= fixed_size:
            fields, _, position, _, created_at, _, aggregate_id, _, sequence, _, type_id, length = (
                unpack_fixed(data, offset)
            )
            if fields != _FIELDS:
                raise ValueError(f"expected {_FIELDS} fields, got {fields}")
            payload_end = offset + fixed_size + length
            if size < payload_end + 4:
                break
            metadata_length: int = unpack_length(data, payload_end)[0]
            end = payload_end + 4 + metadata_length
            if size < end:
                break
            yield (
                position,
                created_at,
                aggregate_id,
                sequence,
                type_id,
                data[offset + fixed_size + _JSONB_VERSION_BYTES : payload_end],
                data[payload_end + 4 + _JSONB_VERSION_BYTES : end],
            )
            offset = end
        rest = data[offset:] if offset < size else b""
    if rest[:2] not in (b"", TRAILER):
        raise ValueError("the COPY stream ended within a row")
