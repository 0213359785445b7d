"""Every order of the steps of online, offline, golive, rollback and abort, with faults: nothing lost, nothing twice, nobody stuck.

``make model`` prints how many states were looked at, and looks at larger scenarios.
"""

from __future__ import annotations

import pytest
from model_checker import explore
from protocol_model import GUARDS, Scenario, WriterKind

BOTH = (1, 2)
OFFLINE = ("online", "offline")
GOLIVE = ("online", "golive")

SCENARIOS = {
    "the first migration": Scenario(
        (WriterKind(), WriterKind(is_early=True)), OFFLINE, old_version=0, faults=1
    ),
    "offline with a late append": Scenario((WriterKind(), WriterKind(is_early=True)), OFFLINE),
    "offline beside a long transaction": Scenario(
        (WriterKind(), WriterKind(is_bystander=True)), OFFLINE, catch_ups=1, faults=0
    ),
    "offline and two aggregates": Scenario(
        (WriterKind(), WriterKind(versions=BOTH), WriterKind(aggregate=1, versions=(2,))),
        OFFLINE,
        aggregates=2,
        faults=0,
    ),
    "two workers": Scenario((WriterKind(),), OFFLINE, aggregates=2, workers=2),
    "abort": Scenario((WriterKind(),), (*OFFLINE, "abort"), faults=2),
    "golive with a late append": Scenario(
        (WriterKind(versions=BOTH), WriterKind(versions=BOTH, is_early=True), WriterKind()), GOLIVE, faults=0
    ),
    "golive": Scenario((WriterKind(versions=BOTH), WriterKind()), (*GOLIVE, "offline")),
    "golive and rollback": Scenario(
        (WriterKind(versions=BOTH), WriterKind()), (*GOLIVE, "rollback"), cut_overs=2
    ),
    "back and forth": Scenario(
        (WriterKind(versions=BOTH), WriterKind(versions=BOTH)),
        (*GOLIVE, "rollback", "forth"),
        cut_overs=3,
        faults=0,
    ),
}
"""The smallest ones that show each fault; together they take some ten seconds."""

LARGE = {
    "offline, two faults": Scenario((WriterKind(), WriterKind(is_early=True)), (*OFFLINE, "abort"), faults=2),
    "two workers, two faults": Scenario(
        (WriterKind(),), (*OFFLINE, "abort"), aggregates=2, workers=2, faults=2
    ),
    "golive, two faults": Scenario(
        (WriterKind(versions=BOTH), WriterKind(versions=BOTH, is_early=True)), (*GOLIVE, "offline"), faults=2
    ),
    "golive beside a long transaction": Scenario(
        (WriterKind(versions=BOTH), WriterKind(is_early=True), WriterKind(is_bystander=True)), GOLIVE
    ),
    "back and forth, a fault": Scenario(
        (WriterKind(versions=BOTH), WriterKind(versions=BOTH, is_early=True)),
        (*GOLIVE, "rollback", "forth"),
        cut_overs=3,
    ),
}

MUTATIONS = {
    "gate is read under its lock": "golive",
    "version is checked": "golive and rollback",
    "closing drains": "offline beside a long transaction",
    "draining follows the closing": "offline beside a long transaction",
    "closing dies with its coordinator": "offline with a late append",
    "a closing is read again": "offline with a late append",
    "windows are differences of snapshots": "offline beside a long transaction",
    "windows begin at a snapshot": "golive with a late append",
    "last window follows the closing": "offline and two aggregates",
    "last window follows the lock": "golive",
    "lock lasts until the swap": "golive",
    "rows and done commit together": "offline with a late append",
    "pass and groups commit together": "offline with a late append",
    "claims are locked": "two workers",
    "unfinished passes are finished": "offline with a late append",
    "nothing unfinished is promoted": "golive",
    "workers are fenced": "offline with a late append",
    "epochs are checked": "abort",
    "swap and version commit together": "golive",
    "renames commit together": "golive",
    "abort is one transaction": "abort",
    "rollback begins at the cut-over": "golive and rollback",
    "rollback catches up": "golive and rollback",
}
"""The guard that is taken away, and the scenario that misses it."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_breaks_a_promise(name: str) -> None:
    check(name, SCENARIOS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_no_order_of_more_steps_breaks_a_promise(name: str) -> None:
    check(name, LARGE[name])


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_is_needed(guard: str) -> None:
    found = explore(SCENARIOS[MUTATIONS[guard]].without(guard))
    assert found.violation is not None, f"the model does not notice that this is missing: {GUARDS[guard]}"
    print(f"\nwithout «{guard}», after {found.states} states: {found.violation}")  # noqa: T201 - make model shows it
    assert found.violation.trace


def check(name: str, scenario: Scenario) -> None:
    found = explore(scenario)
    assert found.violation is None, str(found.violation)
    assert found.good_ends > 0
    print(f"\n{name}: {found.states} states, {found.steps} steps, {found.good_ends} good ends")  # noqa: T201 - make model shows it
