"""Coverage: whether the code can read what is in the log.

Two things are looked for. A stored event type that no event class of the application knows: a renamed class without an alias looks like that, and
a replay would pass over its events without a word. And payloads that their class no longer accepts, which a replay would meet after hours.

:func:`sample` reads the newest, the oldest and some random events of each type, some tenths of a second whatever the size of the log;
:func:`read_all` reads everything, as a stream, in bounded memory. Neither writes or locks anything.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.errors import UnknownEventType
from sequent_py.event_classes import EventTypes, describe_cause
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.event_store.transaction_ids import LATER_THAN_WRITER
from sequent_py.progress import SILENT, Progress, ReplayProgress
from sequent_py.replay.groups import PARTITION_COUNT
from sequent_py.replay.reader import RawEvent, read_events

Connection = psycopg.Connection[Any]

EVENTS_PER_TYPE = 200
"""Of each type, from each end of the log and from the middle."""
SAMPLED_EVENTS = 20_000
"""How far a sample looks from each end."""
SAMPLED_PAGES = 500
COUNT_TIMEOUT = "5s"
"""Counting the events of unknown types reads the log; a plan should not take minutes."""
EXAMPLES = 5
PROGRESS_EVENTS = 50_000


@dataclass(frozen=True, slots=True)
class EventName:
    """Which event: its aggregate, and its number there."""

    aggregate_id: UUID
    sequence_number: int

    def __str__(self) -> str:
        return f"aggregate {self.aggregate_id}, sequence number {self.sequence_number}"


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An event whose payload its class does not accept."""

    event_type: str
    event: EventName
    cause: str

    def __str__(self) -> str:
        return f"{self.event_type} ({self.event}): {self.cause}"


@dataclass(frozen=True, slots=True)
class TypeCoverage:
    """One stored event type."""

    name: str
    is_known: bool
    is_ignored: bool
    """Whether the application says that it knowingly does without it."""
    ambiguity: str
    """Which classes have the name, where several have and no projector handles one of them: such events cannot be loaded, nor looked at here."""
    events: int | None
    """How many were read, or exist; None where counting took too long."""
    first: EventName | None = None
    last: EventName | None = None
    undecodable: int = 0
    examples: tuple[Undecodable, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """What was found."""

    events: int
    """How many were decoded."""
    is_complete: bool
    types: tuple[TypeCoverage, ...]
    later_than_writer: int = 0
    """Events whose transaction id cannot be that of their writer; looked for in a complete reading only."""

    @property
    def unknown(self) -> tuple[TypeCoverage, ...]:
        """The types that no class knows and nobody ignores, of which there are events."""
        return tuple(it for it in self.types if not it.is_known and not it.is_ignored and it.events != 0)

    def undecodable(self, names: Collection[str] | None = None) -> tuple[TypeCoverage, ...]:
        """Return the types, or those of ``names``, with payloads that do not decode."""
        return tuple(it for it in self.types if it.undecodable and (names is None or it.name in names))


@dataclass(slots=True)
class _Tally:
    """What has been read of one type."""

    events: int = 0
    first: tuple[int, EventName] | None = None
    last: tuple[int, EventName] | None = None
    undecodable: int = 0
    examples: list[Undecodable] = field(default_factory=list)


class _Reading:
    """Decodes events and remembers little of them."""

    def __init__(
        self, event_types: EventTypes, stored_types: Mapping[str, int], ignored: Collection[str]
    ) -> None:
        self._names = {type_id: name for name, type_id in stored_types.items()}
        self._ignored = ignored
        self._tallies: dict[int, _Tally] = {type_id: _Tally() for type_id in self._names}
        self._decoders: dict[int, Any] = {}
        self._ambiguous: dict[int, str] = {}
        self._unknown: set[int] = set()
        for type_id, name in self._names.items():
            try:
                self._decoders[type_id] = event_types.decoder(name)
            except UnknownEventType as error:
                # Of several classes none is handled, or that one would be meant: nobody renamed it, and a replay rightly passes over it.
                if error.is_ambiguous:
                    self._ambiguous[type_id] = error.message
                else:
                    self._unknown.add(type_id)
        self.events = 0

    @property
    def unknown_ids(self) -> list[int]:
        return [it for it in self._unknown if self._names[it] not in self._ignored]

    def add(self, raw: RawEvent) -> None:
        position, _, aggregate_id, sequence_number, type_id, payload, _ = raw
        self.events += 1
        tally = self._tallies.get(type_id)
        if tally is None:
            tally = self._tallies[type_id] = _Tally()
        tally.events += 1
        if tally.first is None or position < tally.first[0]:
            tally.first = (position, EventName(UUID(bytes=bytes(aggregate_id)), sequence_number))
        if tally.last is None or position > tally.last[0]:
            tally.last = (position, EventName(UUID(bytes=bytes(aggregate_id)), sequence_number))
        decode = self._decoders.get(type_id)
        if decode is None:
            return
        try:
            decode(payload)
        except Exception as error:
            tally.undecodable += 1
            if len(tally.examples) < EXAMPLES:
                name = EventName(UUID(bytes=bytes(aggregate_id)), sequence_number)
                tally.examples.append(Undecodable(self._names[type_id], name, describe_cause(error)))

    def types(
        self, counts: Mapping[int, tuple[int | None, EventName | None, EventName | None]]
    ) -> tuple[TypeCoverage, ...]:
        """Return what was read; ``counts`` knows better about some types."""
        found = []
        for type_id, tally in self._tallies.items():
            name = self._names.get(type_id)
            seen = (tally.events, tally.first and tally.first[1], tally.last and tally.last[1])
            events, first, last = counts.get(type_id, seen)
            found.append(
                TypeCoverage(
                    name=name
                    if name is not None
                    else f"id {type_id}, which is not among the stored event types",
                    is_known=type_id in self._decoders or type_id in self._ambiguous,
                    is_ignored=name in self._ignored,
                    ambiguity=self._ambiguous.get(type_id, ""),
                    events=events,
                    first=first,
                    last=last,
                    undecodable=tally.undecodable,
                    examples=tuple(tally.examples),
                )
            )
        return tuple(sorted(found, key=lambda it: it.name))


def sample(
    connection: Connection, schema: str, event_types: EventTypes, *, ignored: Collection[str]
) -> Coverage:
    """Look at some events of each stored type. For an autocommit connection, which is busy meanwhile."""
    reading = _Reading(event_types, stored_event_types(connection, schema), ignored)
    seen: set[int] = set()
    for query in _sample_queries(connection, schema):
        with closing(read_events(connection, query)) as raw_events:
            for raw in raw_events:
                if raw[0] not in seen:
                    seen.add(raw[0])
                    reading.add(raw)
    return Coverage(reading.events, False, reading.types(_count(connection, schema, reading.unknown_ids)))


def unknown_types(
    connection: Connection, schema: str, event_types: EventTypes, *, ignored: Collection[str]
) -> tuple[TypeCoverage, ...]:
    """Return the unknown types of which there are events; reads no event unless a stored type is unknown."""
    reading = _Reading(event_types, stored_event_types(connection, schema), ignored)
    coverage = Coverage(0, False, reading.types(_count(connection, schema, reading.unknown_ids)))
    return coverage.unknown


def read_all(
    connection: Connection,
    schema: str,
    event_types: EventTypes,
    *,
    ignored: Collection[str],
    progress: Progress = SILENT,
) -> Coverage:
    """Read the whole log. For an autocommit connection, which is busy meanwhile; each partition is read in one snapshot."""
    reading = _Reading(event_types, stored_event_types(connection, schema), ignored)
    row = connection.execute(
        sql.SQL(
            "SELECT sum(greatest(reltuples, 0))::bigint FROM pg_catalog.pg_class WHERE oid IN (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = {}::regclass)"
        ).format(sql.Literal(sql.Identifier(schema, "events").as_string(None)))
    ).fetchone()
    estimated = int(row[0] or 0) if row is not None else 0
    started = time.monotonic()
    progress.step("reading all events")
    for number in range(PARTITION_COUNT):
        query = sql.SQL("SELECT {} FROM {}").format(_COLUMNS, sql.Identifier(schema, f"events_{number:02d}"))
        with closing(read_events(connection, query)) as raw_events:
            for raw in raw_events:
                reading.add(raw)
                if reading.events % PROGRESS_EVENTS == 0:
                    progress.replay(_progress(reading.events, estimated, number, started))
    progress.replay(_progress(reading.events, max(estimated, reading.events), PARTITION_COUNT, started))
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
            sql.Identifier(schema, "events"), LATER_THAN_WRITER
        )
    ).fetchone()
    return Coverage(reading.events, True, reading.types({}), int(row[0]) if row is not None else 0)


def _count(
    connection: Connection, schema: str, type_ids: Collection[int]
) -> dict[int, tuple[int | None, EventName | None, EventName | None]]:
    """Count the events of some types, and name the first and the last; gives up after :data:`COUNT_TIMEOUT`."""
    if not type_ids:
        return {}
    events = sql.Identifier(schema, "events")
    ids = sql.Literal(list(type_ids))
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('statement_timeout', %s, true)", (COUNT_TIMEOUT,))
            rows = connection.execute(
                sql.SQL(
                    "SELECT event_type_id, count(*), min(position), max(position) FROM {} WHERE event_type_id = ANY ({}::int[]) GROUP BY 1"
                ).format(events, ids)
            ).fetchall()
            wanted = sql.Literal([position for row in rows for position in row[2:]])
            ends = {
                position: EventName(aggregate_id, sequence_number)
                for position, aggregate_id, sequence_number in connection.execute(
                    sql.SQL(
                        "SELECT position, aggregate_id, sequence_number FROM {} WHERE position = ANY ({}::bigint[])"
                    ).format(events, wanted)
                )
            }
    except psycopg.errors.QueryCanceled:
        return dict.fromkeys(type_ids, (None, None, None))
    counts: dict[int, tuple[int | None, EventName | None, EventName | None]] = dict.fromkeys(
        type_ids, (0, None, None)
    )
    counts |= {type_id: (count, ends[first], ends[last]) for type_id, count, first, last in rows}
    return counts


def _sample_queries(connection: Connection, schema: str) -> Iterator[sql.Composed]:
    events = sql.Identifier(schema, "events")
    row = connection.execute(
        "SELECT coalesce(sum(pg_relation_size(i.inhrelid)), 0) / 8192 FROM pg_catalog.pg_inherits i WHERE i.inhparent = %s::regclass",
        (events.as_string(None),),
    ).fetchone()
    pages = int(row[0]) if row is not None else 0
    for direction in ("ASC", "DESC"):
        ends = sql.SQL("SELECT {} FROM {} ORDER BY position {} LIMIT {}").format(
            _COLUMNS, events, sql.SQL(direction), sql.Literal(SAMPLED_EVENTS)
        )
        yield _few_of_each(ends, sql.SQL(direction))
    if pages > SAMPLED_PAGES:
        middle = sql.SQL("SELECT {} FROM {} TABLESAMPLE SYSTEM ({})").format(
            _COLUMNS, events, sql.Literal(100.0 * SAMPLED_PAGES / pages)
        )
        yield _few_of_each(middle, sql.SQL("DESC"))


def _few_of_each(source: sql.Composed, direction: sql.SQL) -> sql.Composed:
    return sql.SQL(
        "SELECT {} FROM (SELECT s.*, row_number() OVER (PARTITION BY event_type_id ORDER BY position {}) AS number FROM ({}) s) n"
        " WHERE number <= {}"
    ).format(_COLUMNS, direction, source, sql.Literal(EVENTS_PER_TYPE))


def _progress(done: int, total: int, partitions: int, started: float) -> ReplayProgress:
    return ReplayProgress(
        events_done=done,
        events_total=max(total, done),
        groups_done=partitions,
        groups_total=PARTITION_COUNT,
        workers=1,
        seconds=time.monotonic() - started,
    )


_COLUMNS = sql.SQL("position, created_at, aggregate_id, sequence_number, event_type_id, payload, metadata")
