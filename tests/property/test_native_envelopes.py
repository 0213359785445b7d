"""The envelope of an event, set and read in C, is what Python makes of it."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequent_py import Event
from sequent_py.events import (
    is_recorded,
    is_recorded_in_python,
    moment,
    moment_in_python,
    set_envelope,
    set_envelope_in_python,
)
from sequent_py.native import IS_NATIVE

FIRST, LAST = -63_082_281_600_000_000, 252_455_615_999_999_999
"""Microseconds from 2000-01-01 to the first and the last moment that a datetime can be."""

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the C module is not there, or not wanted")


class Moved(Event):
    by: int


class Further(Moved):
    to: str


@given(st.integers(FIRST, LAST))
def test_a_moment_is_the_same_in_both(microseconds: int) -> None:
    native, python = moment(microseconds), moment_in_python(microseconds)
    assert (native, native.tzinfo, type(native)) == (python, python.tzinfo, type(python))


@pytest.mark.parametrize("microseconds", [FIRST, LAST, 0, -1, 1, 5097599999999, 5097600000000])
def test_ends_of_days_and_of_time_are_the_same_in_both(microseconds: int) -> None:
    assert moment(microseconds) == moment_in_python(microseconds)


@given(st.one_of(st.integers(max_value=FIRST - 1), st.integers(min_value=LAST + 1)))
def test_a_moment_outside_the_years_of_a_datetime_is_refused_by_both(microseconds: int) -> None:
    for made in (moment, moment_in_python):
        with pytest.raises(OverflowError):
            made(microseconds)


def test_whether_it_is_there_is_the_same_in_both() -> None:
    event = Further(by=1, to="x")
    assert is_recorded(event) is is_recorded_in_python(event) is False
    set_envelope_in_python(event, UUID(int=1), 1, 0, 1, b"{}")
    assert is_recorded(event) is is_recorded_in_python(event) is True


@given(
    st.uuids(),
    st.integers(1, 2**31 - 1),
    st.integers(FIRST, LAST),
    st.integers(1, 2**63 - 1),
    st.dictionaries(st.text(), st.integers()),
)
def test_an_envelope_is_the_same_in_both(
    aggregate_id: UUID, number: int, microseconds: int, position: int, metadata: dict[str, int]
) -> None:
    from pydantic_core import to_json

    found = []
    for set_in in (set_envelope, set_envelope_in_python):
        event = Further(by=1, to="here")
        set_in(event, aggregate_id, number, microseconds, position, to_json(metadata))
        # A second time, as nobody does, must not leak or mix.
        set_in(event, aggregate_id, number, microseconds, position, to_json(metadata))
        found.append(
            (event.aggregate_id, event.sequence_number, event.created_at, event.position, event.metadata)
        )
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "arguments", [(), (Moved(by=1),), (object(), 1, 2, 3, 4, b"{}"), (1, 2, 3, 4, 5, b"{}")]
)
def test_only_events_get_an_envelope(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        set_envelope(*arguments)  # type: ignore[arg-type]
