"""What goes over the wire to ``events`` and comes back from it. Pure.

A batch is encoded *and decoded again* before it is sent: what append returns and what the live projection gets is what every later
reader gets, also where Python types do not survive JSON (a date in a field of type ``Any`` becomes text; the keys of a dict come back in
``jsonb``'s order).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import PydanticSerializationError, from_json, to_json

from sequent_py.arguments import checked_aggregate_id
from sequent_py.errors import InvalidEvent
from sequent_py.event_classes import EventTypes, describe_cause
from sequent_py.events import Event, event_type_of, is_recorded, set_envelope


class Batch(NamedTuple):
    """Events of one aggregate, ready to be sent."""

    aggregate_id: UUID
    type_names: tuple[str, ...]
    payloads: tuple[bytes, ...]
    decoded: tuple[Event, ...]
    metadata: bytes
    created_at: datetime | None

    def recorded(
        self, first_sequence_number: int, positions: Sequence[int], created_at_us: int
    ) -> list[Event]:
        """Return the events with their envelopes; the time in microseconds since 2000."""
        aggregate_id, metadata = self.aggregate_id, self.metadata
        for number, (event, position) in enumerate(
            zip(self.decoded, positions, strict=True), first_sequence_number
        ):
            set_envelope(event, aggregate_id, number, created_at_us, position, metadata)
        return list(self.decoded)

    def first_expected_at(self, sequence_number: int) -> Event:
        """Return the first event as it will be if nothing comes between: of its envelope only aggregate and number are true."""
        first = self.decoded[0]
        set_envelope(first, self.aggregate_id, sequence_number, 0, 0, self.metadata)
        return first


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
    if events.__class__ is not list and (isinstance(events, Event) or not isinstance(events, Sequence)):
        raise InvalidEvent("Events are appended as a list.", remedy="Write append(aggregate_id, [event]).")
    if not events:
        raise InvalidEvent("There is nothing to append: the list of events is empty.")
    names: list[str] = []
    payloads: list[bytes] = []
    decoded: list[Event] = []
    before: type | None = None
    for event in events:
        if event.__class__ is not before:
            # Batches are mostly of one type.
            before, name = event.__class__, _type_name(event)
            decode: Callable[[bytes | memoryview], Event] | None = None
        if is_recorded(event):
            raise InvalidEvent(
                f"{name} is already recorded as number {event.sequence_number} of aggregate {event.aggregate_id}.",
                remedy="To record the same payload once more, append event.model_copy().",
            )
        payload = event_types.encode(event)
        try:
            if decode is None:
                decode = event_types.decoder(name)
            decoded.append(decode(as_jsonb_reads(payload)))
        except Exception as error:
            raise InvalidEvent(
                f"{name} would not load again: {describe_cause(error)}.",
                remedy="Check its upcasters and validators: they run on new payloads too.",
            ) from error
        names.append(name)
        payloads.append(payload)
    return Batch(
        aggregate_id,
        tuple(names),
        tuple(payloads),
        tuple(decoded),
        encode_metadata(metadata),
        checked_time(created_at),
    )


def encode_metadata(metadata: Mapping[str, Any] | None) -> bytes:
    """Return the metadata as the JSON that is read again.

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
        read_again = _ordered(_read(encoded, is_spelled_anew=True))
    except (PydanticSerializationError, UnicodeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"The metadata cannot be stored: {error}.") from error
    if b"\\u0000" in encoded and "\0" in _texts(read_again):
        raise InvalidEvent("The metadata holds a NUL character, which PostgreSQL cannot store.")
    return to_json(read_again)


def checked_time(created_at: datetime | None) -> datetime | None:
    """Return it in UTC if it is aware; a naive time would mean another moment on every machine.

    Raises
    ------
    InvalidEvent
        It is naive, or no datetime, or not within the years 1 to 9999 of UTC, so that it could not be read again.
    """
    if created_at is None:
        return None
    if not isinstance(created_at, datetime) or created_at.utcoffset() is None:
        raise InvalidEvent(
            f"created_at is an aware datetime, not {created_at!r:.80}.",
            remedy="Use datetime.now(timezone.utc).",
        )
    try:
        return created_at.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(
            f"created_at {created_at} is not within the years 1 to 9999 of UTC: it could not be read again.",
            remedy="Give a moment that Python can express in UTC.",
        ) from None


def jsonb_array_text(payloads: Iterable[bytes]) -> str:
    """Return JSON texts as the text of a ``jsonb[]``. The driver's own lists cost three times as much: it looks for each one's type."""
    quoted = [payload.replace(b"\\", b"\\\\").replace(b'"', b'\\"') for payload in payloads]
    return (b'{"' + b'","'.join(quoted) + b'"}').decode()


def array_text(numbers: Iterable[int]) -> str:
    """Return numbers as the text of an ``integer[]``."""
    return f"{{{','.join(map(str, numbers))}}}"


_finds_exponent = re.compile(rb"e[-+]?[0-9]").search
"""What every number with an exponent holds, and few texts do; looking for it costs a quarter of looking for the whole."""
_SPELLED_ANEW = re.compile(rb"[:\[,](?:-0\.0|-?[0-9][0-9.]*e)")
"""Where there is a number that ``jsonb`` spells in another way than the encoder; within a text it costs time only."""


def as_jsonb_reads(payload: bytes) -> bytes:
    """Return the JSON that ``jsonb`` makes of it, as far as a reader can tell.

    Keys of nested objects come by length, then by bytes; numbers are those of ``numeric``, which knows no -0.0, and no exponent: 1e16 is read as a whole number.
    """
    is_object = payload.startswith(b"{")
    is_spelled_anew = not is_object or (
        (_finds_exponent(payload) is not None or b"-0.0" in payload)
        and _SPELLED_ANEW.search(payload) is not None
    )
    if not is_spelled_anew and payload.find(b"{", 1) < 0:
        # No nested object; a model's own fields have the order of its class whatever that of the keys.
        return payload
    return to_json(_ordered(_read(payload, is_spelled_anew)), inf_nan_mode="strings")


def _read(payload: bytes, is_spelled_anew: bool) -> Any:
    # The second reader costs several times as much.
    return json.loads(payload, parse_float=_as_numeric) if is_spelled_anew else from_json(payload)


def _as_numeric(text: str) -> float | int:
    """Return what is read of a number with a point or an exponent, once ``numeric`` has printed it."""
    if "e" in text:
        number = Decimal(text)
        if number == number.to_integral_value() and int(number.as_tuple().exponent) >= 0:
            return int(number)
    return float(text) + 0.0  # no -0.0


def _type_name(event: Any) -> str:
    if not isinstance(event, Event):
        what = event.__name__ if isinstance(event, type) else type(event).__name__
        raise InvalidEvent(
            f"{what} is not an event: {event!r:.80}.", remedy="Append instances of Event's subclasses."
        )
    return event_type_of(type(event))


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
