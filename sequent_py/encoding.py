"""What goes over the wire to ``events`` and comes back from it. Pure.

A batch is encoded *and decoded again* before it is sent: what append returns and what the live projection gets is what every later
reader gets, also where Python types do not survive JSON (a date in a field of type ``Any`` becomes text; the keys of a dict come back in
``jsonb``'s order).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import PydanticSerializationError, from_json, to_json

from sequent_py.arguments import checked_aggregate_id
from sequent_py.errors import InvalidEvent
from sequent_py.events import (
    Envelope,
    Event,
    EventTypes,
    describe_cause,
    event_type_of,
    is_recorded,
    recorded,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one aggregate, ready to be sent."""

    aggregate_id: UUID
    type_names: tuple[str, ...]
    payloads: tuple[bytes, ...]
    decoded: tuple[Event, ...]
    metadata: bytes
    created_at: datetime | None

    def recorded(
        self, first_sequence_number: int, positions: Sequence[int], created_at: datetime
    ) -> list[Event]:
        """Return the events with their envelopes."""
        return [
            recorded(
                event,
                Envelope(
                    self.aggregate_id,
                    first_sequence_number + index,
                    created_at,
                    position,
                    from_json(self.metadata),
                ),
            )
            for index, (event, position) in enumerate(zip(self.decoded, positions, strict=True))
        ]


def encode_batch(
    event_types: EventTypes,
    aggregate_id: UUID,
    events: Sequence[Event],
    metadata: Mapping[str, Any] | None,
    created_at: datetime | None,
) -> Batch:
    """Check and encode what append was given.

    Raises
    ------
    InvalidEvent
        Something in it cannot be stored: names the event type and the cause.
    InvalidAggregateId
        ``aggregate_id`` is no UUID.
    """
    checked_aggregate_id(aggregate_id)
    if isinstance(events, Event) or not isinstance(events, Sequence):
        raise InvalidEvent("Events are appended as a list.", remedy="Write append(aggregate_id, [event]).")
    if not events:
        raise InvalidEvent("There is nothing to append: the list of events is empty.")
    payloads = tuple(_encode(event_types, event) for event in events)
    return Batch(
        aggregate_id,
        tuple(event_type_of(type(event)) for event in events),
        payloads,
        tuple(_decode(event_types, event, payload) for event, payload in zip(events, payloads, strict=True)),
        encode_metadata(metadata),
        checked_time(created_at),
    )


def encode_metadata(metadata: Mapping[str, Any] | None) -> bytes:
    """Return the metadata as JSON, in the order in which it is read again.

    Raises
    ------
    InvalidEvent
        It is not a JSON object.
    """
    if metadata is None:
        return b"{}"
    if not isinstance(metadata, Mapping):
        raise InvalidEvent(f"Metadata is a mapping, not {type(metadata).__name__}.")
    try:
        encoded = to_json(dict(metadata), inf_nan_mode="strings", bytes_mode="base64")
    except (PydanticSerializationError, UnicodeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"The metadata cannot be stored: {error}.") from error
    if b"\\u0000" in encoded and "\0" in _texts(json.loads(encoded)):
        raise InvalidEvent("The metadata holds a NUL character, which PostgreSQL cannot store.")
    return to_json(_ordered(from_json(encoded)))


def checked_time(created_at: datetime | None) -> datetime | None:
    """Return it if it is aware; a naive time would mean another moment on every machine."""
    if created_at is None or (isinstance(created_at, datetime) and created_at.utcoffset() is not None):
        return created_at
    raise InvalidEvent(
        f"created_at is an aware datetime, not {created_at!r:.80}.", remedy="Use datetime.now(timezone.utc)."
    )


def jsonb_array_text(payloads: Iterable[bytes]) -> str:
    """Return JSON texts as the text of a ``jsonb[]``. The driver's own lists cost three times as much: it looks for each one's type."""
    quoted = (payload.decode().replace("\\", "\\\\").replace('"', '\\"') for payload in payloads)
    return '{"' + '","'.join(quoted) + '"}'


def array_text(numbers: Iterable[int]) -> str:
    """Return numbers as the text of an ``integer[]``."""
    return "{" + ",".join(map(str, numbers)) + "}"


def as_jsonb_reads(payload: bytes) -> bytes:
    """Put the keys of nested objects into the order in which ``jsonb`` returns them: by length, then by bytes."""
    if payload.find(b"{", 1) < 0 and payload.startswith(b"{"):
        # No nested object; a model's own fields have the order of its class whatever that of the keys.
        return payload
    return to_json(_ordered(from_json(payload)), inf_nan_mode="strings")


def _encode(event_types: EventTypes, event: Any) -> bytes:
    if not isinstance(event, Event):
        what = event.__name__ if isinstance(event, type) else type(event).__name__
        raise InvalidEvent(
            f"{what} is not an event: {event!r:.80}.", remedy="Append instances of Event's subclasses."
        )
    if is_recorded(event):
        raise InvalidEvent(
            f"{event_type_of(type(event))} is already recorded as number {event.sequence_number} of aggregate {event.aggregate_id}.",
            remedy="To record the same payload once more, append event.model_copy().",
        )
    return event_types.encode(event)


def _decode(event_types: EventTypes, event: Event, payload: bytes) -> Event:
    name = event_type_of(type(event))
    try:
        return event_types.decoder(name)(as_jsonb_reads(payload))
    except Exception as error:
        raise InvalidEvent(
            f"{name} would not load again: {describe_cause(error)}.",
            remedy="Check its upcasters and validators: they run on new payloads too.",
        ) from error


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=_jsonb_order)
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    return value


def _jsonb_order(key: str) -> tuple[int, bytes]:
    encoded = key.encode()
    return len(encoded), encoded


def _texts(value: Any) -> str:
    """All texts within a JSON value, one after the other."""
    if isinstance(value, dict):
        return "".join(key + _texts(item) for key, item in value.items())
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return value if isinstance(value, str) else ""
