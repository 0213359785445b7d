"""Slices of the aggregates: disjoint, and nothing between them."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from sequent_py.checks.slices import Slice, in_lists, ranges

ids = st.integers(0, 2**128 - 1).map(lambda number: UUID(int=number))


@given(sample=st.lists(ids, max_size=50), pieces=st.integers(1, 20), aggregate_id=ids)
def test_every_id_lies_in_exactly_one_range(sample: list[UUID], pieces: int, aggregate_id: UUID) -> None:
    cut = ranges(sample, pieces)
    assert sum(which.holds(aggregate_id) for which in cut) == 1
    assert len(cut) <= pieces


def test_lists_hold_every_aggregate_once() -> None:
    given_ids = [UUID(int=number) for number in range(7)]
    lists = in_lists(given_ids, 3)
    assert [len(which.aggregate_ids or ()) for which in lists] == [3, 3, 1]
    assert [item for which in lists for item in which.aggregate_ids or ()] == given_ids


@given(lower=st.none() | ids, upper=st.none() | ids, listed=st.none() | st.lists(ids, max_size=3).map(tuple))
def test_slices_travel_as_json(
    lower: UUID | None, upper: UUID | None, listed: tuple[UUID, ...] | None
) -> None:
    which = Slice(lower, upper, listed)
    assert Slice.from_json(which.to_json()) == which
