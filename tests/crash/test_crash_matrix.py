"""Kill anything, at any time: the old version serves or the new one does, the same command goes on, and nothing is lost or doubled.

``make crash-matrix`` tries every point; the ordinary run tries those of :data:`BOUNDED`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from scenarios import BY_NAME, KILLS, Matrix, Point, all_points

POINTS = all_points()
BOUNDED_POINTS = 1
"""Of each scenario and kill."""


def _bounded() -> set[Point]:
    chosen: set[Point] = set()
    for scenario in BY_NAME:
        for kill in KILLS:
            points = [point for point in POINTS if (point.scenario, point.kill) == (scenario, kill)]
            chosen.update(
                random.Random(f"{scenario} {kill}").sample(points, min(BOUNDED_POINTS, len(points)))
            )
    return chosen


BOUNDED = _bounded()


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(
            point, marks=() if point in BOUNDED else (pytest.mark.slow, pytest.mark.matrix), id=str(point)
        )
        for point in POINTS
    ],
)
def test_a_crash_leaves_nothing_that_the_same_command_does_not_finish(
    matrix: Matrix, point: Point, record_property: Callable[[str, object], None]
) -> None:
    for name in ("scenario", "step", "kill"):
        record_property(name, getattr(point, name))
    result = matrix.try_point(point)
    what = "not reached" if not result.at else f"{result.state} at {result.live}"
    record_property("outcome", f"exit {result.exit_code}, {what}")


@pytest.mark.parametrize("name", BY_NAME)
def test_every_step_of_a_command_has_points(matrix: Matrix, name: str) -> None:
    steps = matrix.trace(BY_NAME[name])
    if not BY_NAME[name].uses_workers:
        assert set(BY_NAME[name].steps) == set(steps)


def test_the_full_matrix_has_more_than_two_hundred_points() -> None:
    assert len(set(POINTS)) > 200
