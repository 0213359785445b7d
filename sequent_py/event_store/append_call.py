"""The call of ``append_events``: what it is given and what it answers, by cursor and by exchange. Pure, but for the names of things."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from psycopg import sql
from psycopg.pq.abc import PGresult

from sequent_py.database import for_parameters
from sequent_py.event_store.encoding import Batch, array_text, jsonb_array_text
from sequent_py.events import POSTGRES_EPOCH, Event

_ARRAY_HEADER_BYTES, _ELEMENT_BYTES = 20, 12
"""Of a ``bigint[]`` of one dimension without NULLs; an element is preceded by its length."""


def call_query(schema: str) -> bytes:
    """Return the query that calls it, in the driver's spelling."""
    function = for_parameters(sql.Identifier(schema, "append_events_v3"))
    return sql.SQL("SELECT * FROM {}(%b, %b, %s, %s, %s, %b, %s, %b)").format(function).as_bytes(None)


class Call(NamedTuple):
    """A batch, and how it is to be recorded."""

    batch: Batch
    type_ids: Sequence[int]
    expected_version: int | None
    partition_key: str | None

    def arguments(self, code_versions: Sequence[int]) -> list[Any]:
        """Return what a cursor or an exchange is given. Arrays as text: the driver would look for the type of every element."""
        batch = self.batch
        return [
            batch.aggregate_id,
            self.expected_version,
            array_text(self.type_ids),
            jsonb_array_text(batch.payloads),
            batch.metadata.decode(),
            batch.created_at,
            array_text(code_versions),
            self.partition_key,
        ]


class Recorded(NamedTuple):
    """What ``append_events`` answers. ``created_at`` in microseconds since 2000."""

    first_sequence_number: int
    positions: Sequence[int]
    created_at_us: int
    live_version: int
    cut_overs: int


def noted(batch: Batch, row: tuple[Any, ...]) -> list[Event]:
    """Return the recorded events, by the row that a cursor has read of the answer."""
    first_sequence_number, positions, created_at, *_ = row
    # What nobody can have given, and no clock shows, stays a number.
    created_at_us = (
        created_at if isinstance(created_at, int) else (created_at - POSTGRES_EPOCH) // timedelta(0, 0, 1)
    )
    return batch.recorded(first_sequence_number, positions, created_at_us)


def recorded_by(answer: PGresult) -> Recorded:
    """Read what ``append_events`` answers, in binary."""
    value: Any = answer.get_value
    positions: bytes = value(0, 1)
    return Recorded(
        int.from_bytes(value(0, 0), "big"),
        _numbers((len(positions) - _ARRAY_HEADER_BYTES) // _ELEMENT_BYTES).unpack_from(
            positions, _ARRAY_HEADER_BYTES
        ),
        int.from_bytes(value(0, 2), "big", signed=True),
        int.from_bytes(value(0, 3), "big"),
        int.from_bytes(value(0, 4), "big"),
    )


@cache
def _numbers(count: int) -> struct.Struct:
    return struct.Struct("!" + "4xq" * count)
