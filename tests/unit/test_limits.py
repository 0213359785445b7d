"""What a cut-over may take: what is given, else what is configured, else what is usual."""

from __future__ import annotations

import pytest

from sequent_py.config import Config
from sequent_py.view_schema.going_live.cut_over import LOCK_TIMEOUT_SECONDS
from sequent_py.view_schema.rebuild import _limits


@pytest.mark.parametrize(
    ("configured", "given", "expected"),
    [
        (None, None, LOCK_TIMEOUT_SECONDS),
        (0.7, None, 0.7),
        (0.7, 0.3, 0.3),
        (None, 0.3, 0.3),
    ],
)
def test_the_lock_timeout_is_the_option_else_the_setting_else_what_is_usual(
    configured: float | None, given: float | None, expected: float
) -> None:
    limits = _limits(Config(lock_timeout_seconds=configured), lock_timeout_seconds=given)
    assert limits.lock_timeout_seconds == expected


def test_the_lock_timeout_of_the_environment_is_a_number_of_seconds() -> None:
    assert Config.load(environment={"SEQUENT_LOCK_TIMEOUT_SECONDS": "0.5"}).lock_timeout_seconds == 0.5
    assert Config.load(environment={"SEQUENT_LOCK_TIMEOUT_SECONDS": ""}).lock_timeout_seconds is None
