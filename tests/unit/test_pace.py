"""Passes that get shorter go on, short ones end quietly, and long ones that stay long are an error with both rates."""

from __future__ import annotations

import pytest

from sequent_py.errors import CatchUpTooSlow
from sequent_py.replay.limits import Limits
from sequent_py.view_schema.building.pace import Pace


def test_passes_that_get_shorter_go_on_however_many_there_are() -> None:
    pace, pending = Pace(), 1_000_000
    for _ in range(50):
        left = pending * 8 // 10
        assert pace.note(found=pending, left=left, seconds=pending / 1_000)
        pending = left


def test_one_burst_of_the_writers_is_no_reason_to_give_up() -> None:
    pace = Pace()
    for _ in range(3):
        assert pace.note(found=1_000, left=5_000, seconds=2.0)
        assert pace.note(found=5_000, left=1_000, seconds=8.0)


def test_two_long_passes_that_gain_nothing_are_an_error_with_both_rates() -> None:
    pace = Pace()
    assert pace.note(found=4_000, left=4_500, seconds=2.0)
    with pytest.raises(CatchUpTooSlow) as caught:
        pace.note(found=4_500, left=6_000, seconds=3.0)
    assert caught.value.message == (
        "Catching up does not get ahead of the writers: in the last 3.0 s 1,500 events/s were caught up and 2,000 events/s appended;"
        " 6,000 are pending."
    )
    assert caught.value.is_final
    for way_out in ("--workers", "slow the writers down", "sequent migrate offline"):
        assert way_out in caught.value.remedy


def test_what_holds_the_replay_back_is_named_first() -> None:
    pace = Pace(Limits(rate=100, max_load=4))
    assert pace.note(found=400, left=450, seconds=4.0)
    with pytest.raises(CatchUpTooSlow) as caught:
        pace.note(found=450, left=500, seconds=4.5)
    assert caught.value.remedy.startswith(
        "It runs with --rate 100, --max-load 4: ease that, give it more workers"
    )


def test_short_passes_end_as_soon_as_they_stay_as_they_are() -> None:
    pace = Pace()
    assert pace.note(found=300, left=100, seconds=0.1)
    assert not pace.note(found=100, left=95, seconds=0.1)
