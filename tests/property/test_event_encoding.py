"""What is decoded equals what was encoded, whatever the payload."""

from __future__ import annotations

import enum
import json
import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sequent_py.column_types import simple_type
from sequent_py.conversions import converter
from sequent_py.errors import InvalidEvent
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.encoding import as_jsonb_reads
from sequent_py.events import Event


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Line(BaseModel):
    text: str
    price: Decimal


class Everything(Event):
    text: str
    number: int
    real: float
    is_true: bool
    exact: Decimal
    identifier: UUID
    day: date
    moment: datetime
    clock: time
    duration: timedelta
    data: bytes
    colour: Colour
    lines: list[Line]
    labels: dict[str, int]
    names: frozenset[str]
    pair: tuple[int, str]
    anything: Any
    maybe: str | None


TYPES = EventTypes([Everything])
AS_JSONB = converter(simple_type("jsonb"))

storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(storable, inner, max_size=3),
    max_leaves=8,
)

# Fixed offsets: in a zone with summer time, a moment that occurs twice or never equals no other by Python's rules (PEP 495).
OFFSETS = st.builds(timezone, st.builds(timedelta, minutes=st.integers(-14 * 60, 14 * 60)))

events = st.builds(
    Everything,
    text=storable,
    number=st.integers(-(2**70), 2**70),
    real=st.floats(allow_nan=False),
    is_true=st.booleans(),
    exact=st.decimals(allow_nan=False, allow_infinity=False, places=6),
    identifier=st.uuids(),
    day=st.dates(),
    moment=st.datetimes(datetime(1980, 1, 1), timezones=OFFSETS),
    clock=st.times(),
    duration=st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
    data=st.binary(max_size=20),
    colour=st.sampled_from(Colour),
    lines=st.lists(st.builds(Line, text=storable, price=st.decimals(places=2, allow_nan=False, allow_infinity=False)), max_size=3),
    labels=st.dictionaries(storable, st.integers(), max_size=4),
    names=st.frozensets(storable, max_size=3),
    pair=st.tuples(st.integers(), storable),
    anything=trees,
    maybe=st.none() | storable,
)  # fmt: skip


@given(events)
def test_decoding_undoes_encoding(event: Everything) -> None:
    payload = TYPES.encode(event)
    assert TYPES.decoder("Everything")(payload) == event
    as_read = event.model_copy(update={"anything": AS_JSONB(event.anything)})
    assert TYPES.decoder("Everything")(memoryview(as_jsonb_reads(payload))) == as_read


@given(events)
def test_payloads_are_what_jsonb_accepts(event: Everything) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    payload = json.loads(TYPES.encode(event), parse_constant=refuse)
    assert isinstance(payload, dict)
    assert set(payload) == set(Everything.model_fields)


@pytest.mark.parametrize("real", [math.nan, math.inf, -math.inf, -0.0, 1e-320, 1.7976931348623157e308])
def test_every_float_survives(real: float) -> None:
    class Reading(Event):
        real: float

    types = EventTypes([Reading])
    decoded = types.decoder("Reading")(types.encode(Reading(real=real)))
    assert isinstance(decoded, Reading)
    assert str(decoded.real) == str(real)


@given(st.text(st.characters(exclude_categories=[])))
def test_text_is_stored_or_refused_but_never_changed(text: str) -> None:
    class Note(Event):
        text: str

    types = EventTypes([Note])
    try:
        payload = types.encode(Note(text=text))
    except InvalidEvent:
        assert "\0" in text or any(0xD800 <= ord(character) < 0xE000 for character in text)
    else:
        assert types.decoder("Note")(payload) == Note(text=text)
        assert "\0" not in text
