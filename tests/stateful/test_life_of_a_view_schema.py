"""Lives of a view schema at random; ``make state-machine`` lives many more of them.

``STATE_MACHINE_EXAMPLES`` says how many per test. Without it they are few and always the same ones.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from life import SEEN, Life
from stores import Stores

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "0"))
STEPS = 30 if EXAMPLES else 16
BOUNDED_EXAMPLES = 4


@pytest.mark.parametrize("part", range(4))
def test_a_life_of_appends_commands_and_crashes(stores: Stores, part: int) -> None:
    class Here(Life):
        def database(self) -> AbstractContextManager[str]:
            return stores.fresh()

    # Shrinking repeats whole lives, minutes each: worth it where somebody has asked for a long run.
    phases = [Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate]
    run_state_machine_as_test(
        seed(part + (int(os.environ.get("STATE_MACHINE_SEED", "0")) * 1000))(Here),
        settings=settings(
            max_examples=EXAMPLES or BOUNDED_EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=False,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for what, times in sorted(SEEN.items()):
        print(f"{times:5} × {what}")  # noqa: T201 - shown with -s
