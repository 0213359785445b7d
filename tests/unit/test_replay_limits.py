"""What holds a replay back, decided from values."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sequent_py.errors import ConfigurationError
from sequent_py.replay.limits import (
    SMALLEST_GROUP_EVENTS,
    Cause,
    LagHistory,
    Limits,
    Pause,
    Readings,
    Standing,
    find_hold,
)

PAUSE = Pause(datetime(2026, 11, 22, 18, tzinfo=UTC), "ann (db1:7)", "evening peak")
LAGS = {"near": 0.2, "far": 12.0}


@pytest.mark.parametrize(
    ("standing", "readings", "cause"),
    [
        (Standing(), Readings(), None),
        (Standing(pause=PAUSE), Readings(), Cause.PAUSED),
        (Standing(pause=PAUSE, limits=Limits(max_load=1)), Readings(active_backends=5), Cause.PAUSED),
        (Standing(limits=Limits(max_load=4)), Readings(active_backends=4), None),
        (Standing(limits=Limits(max_load=4)), Readings(active_backends=5), Cause.LOAD),
        (Standing(limits=Limits(max_load=0)), Readings(active_backends=1), Cause.LOAD),
        (Standing(limits=Limits(rate=10)), Readings(active_backends=99, replica_lags=LAGS), None),
        (Standing(limits=Limits(max_replica_lag_seconds=12)), Readings(replica_lags=LAGS), None),
        (Standing(limits=Limits(max_replica_lag_seconds=11)), Readings(replica_lags=LAGS), Cause.REPLICA_LAG),
        (Standing(limits=Limits(max_replica_lag_seconds=1)), Readings(), None),
    ],
)
def test_a_group_waits_for_a_pause_and_for_what_exceeds_a_limit(
    standing: Standing, readings: Readings, cause: Cause | None
) -> None:
    hold = find_hold(standing, readings)
    assert (hold and hold.cause) == cause


def test_a_hold_says_what_was_measured_and_what_ends_it() -> None:
    paused = find_hold(Standing(pause=PAUSE), Readings())
    assert paused is not None
    assert "evening peak" in paused.message
    assert "ann" in paused.message
    assert "sequent migrate resume" in paused.message
    lagging = find_hold(Standing(limits=Limits(max_replica_lag_seconds=3)), Readings(replica_lags=LAGS))
    assert lagging is not None
    assert "far is 12.0 s behind" in lagging.message


def test_a_hold_is_the_same_as_long_as_its_cause_is() -> None:
    standing = Standing(limits=Limits(max_load=1))
    assert find_hold(standing, Readings(active_backends=5)) == find_hold(
        standing, Readings(active_backends=9)
    )


@pytest.mark.parametrize(
    ("rate", "target"),
    [(None, 100_000), (1_000_000.0, 100_000), (2_000.0, 10_000), (1.0, SMALLEST_GROUP_EVENTS)],
)
def test_groups_are_cut_small_enough_for_the_rate(rate: float | None, target: int) -> None:
    assert Limits(rate=rate).group_target(100_000) == target


def test_a_smaller_group_than_the_rate_asks_for_stays_as_it_is() -> None:
    assert Limits(rate=1.0).group_target(200) == 200


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rate": 0.0}, "--rate is 0.0, and must be a number, more than 0"),
        ({"rate": float("nan")}, "--rate is nan"),
        ({"rate": float("inf")}, "--rate is inf"),
        ({"max_load": -1.0}, "--max-load is -1.0, and must be a number, 0 or more"),
        ({"max_replica_lag_seconds": 0.0}, "--max-replica-lag is 0.0"),
    ],
)
def test_limits_that_mean_nothing_are_refused_by_name(values: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as raised:
        Limits(**values)
    assert "leave" in raised.value.remedy


class TestLag:
    def test_a_replica_that_keeps_up_is_as_late_as_it_says(self) -> None:
        history = LagHistory()
        assert history.look(0.0, 100, {"a": (100, None), "b": (100, 0.3)}) == {"a": 0.0, "b": 0.3}

    def test_a_replica_that_is_stuck_gets_later_although_it_goes_on_reporting_the_last_good_lag(self) -> None:
        history = LagHistory()
        history.look(0.0, 100, {"a": (100, 0.1)})
        assert history.look(1.0, 200, {"a": (100, 0.1)})["a"] == 0.1
        assert history.look(5.0, 300, {"a": (100, 0.1)})["a"] == 4.0
        assert history.look(9.0, 300, {"a": (250, 0.1)})["a"] == 4.0, "what it lacks was written at 5"
        assert history.look(10.0, 300, {"a": (300, None)})["a"] == 0.0

    def test_an_idle_server_makes_nobody_late(self) -> None:
        history = LagHistory()
        assert [history.look(float(at), 100, {"a": (100, None)})["a"] for at in (0, 60, 600)] == [0, 0, 0]


def test_limits_belong_to_one_run() -> None:
    standing = Standing(migration_id=3, epoch=2)
    assert standing.is_of(3, 2)
    assert not standing.is_of(3, 1)
    assert not Standing().is_of(3, 1)
