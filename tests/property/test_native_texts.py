"""Parameters that are written in C are what Python writes."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequent_py.exchange import texts_in_python
from sequent_py.native import IS_NATIVE, native

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the C module is not there, or not wanted")

COMMON = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(),
    st.uuids(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(COMMON))
def test_values_of_the_commonest_types_are_the_same_in_both(values: list[Any]) -> None:
    assert native.texts(values) == native.texts(tuple(values)) == texts_in_python(values)


class Color(enum.StrEnum):
    RED = "red"


class Id(UUID):
    pass


@pytest.mark.parametrize(
    "rare",
    [
        True,
        1.5,
        b"bytes",
        "a\0b",
        "\ud800",
        Color.RED,
        Id(int=1),
        2**63,
        -(2**63) - 1,
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
    ids=repr,
)
def test_what_is_rare_is_left_to_the_driver(rare: Any) -> None:
    assert native.texts([1, rare]) is None
