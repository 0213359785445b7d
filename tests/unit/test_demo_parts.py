"""The made-up bank, the writer's measurements, the comparison with git, and where examples are."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sequent_py.demo import examples
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.git_check import compare
from sequent_py.demo.reports import Comparison, DemoReport, Phase
from sequent_py.demo.writer_process import Measurements
from sequent_py.errors import ConfigurationError

sys.path.insert(0, str(examples.example_directory("bank")))
bank_events: Any = importlib.import_module("bank.events")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 2_000])
def test_a_bank_has_exactly_as_many_events_as_asked_for(count: int) -> None:
    assert len(list(bank_history(bank_events, count))) == count


def test_the_same_seed_makes_the_same_bank_and_another_one_another() -> None:
    first, again, other = (list(bank_history(bank_events, 500, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_accounts_are_opened_first_never_overdrawn_and_empty_when_closed_for_good() -> None:
    balances: dict[Any, int] = {}
    closed = set()
    for account, event, _ in bank_history(bank_events, 20_000):
        assert account not in closed
        match event:
            case bank_events.AccountOpened():
                assert account not in balances
                balances[account] = 0
            case bank_events.MoneyDeposited() | bank_events.TransferReceived():
                balances[account] += event.amount
            case bank_events.MoneyWithdrawn() | bank_events.TransferSent():
                balances[account] -= event.amount
            case bank_events.AccountClosed():
                assert balances[account] == 0
                closed.add(account)
        assert balances[account] >= 0
    assert closed
    assert sum(balances.values()) > 0


def test_account_sizes_are_skewed_and_time_goes_forward() -> None:
    history = list(bank_history(bank_events, 20_000))
    sizes: dict[Any, int] = {}
    for account, _, _ in history:
        sizes[account] = sizes.get(account, 0) + 1
    largest = sorted(sizes.values(), reverse=True)[: len(sizes) // 10]
    assert sum(largest) > 0.35 * len(history)
    assert all(former < latter for (_, _, former), (_, _, latter) in pairwise(history))


def test_transfers_come_in_pairs() -> None:
    sent = received = 0
    for _, event, _ in bank_history(bank_events, 20_000):
        match event:
            case bank_events.TransferSent():
                sent += event.amount
            case bank_events.TransferReceived():
                received += event.amount
    assert sent == received > 0


def test_the_stall_is_the_gap_in_which_the_gate_refused() -> None:
    seconds = iter([0.0, 1.0, 31.0, 36.0])
    measured = Measurements(clock=lambda: next(seconds))
    measured.succeeded(0.5, 1)
    measured.succeeded(30.0, 1)
    assert measured.report().stall_seconds == 0
    measured.was_refused()
    measured.was_refused()
    measured.succeeded(35.9, 2)
    report = measured.report()
    assert (report.appends, report.events, report.refused, report.appends_after_swap) == (3, 4, 2, 1)
    assert report.stall_seconds == 5
    assert report.latency_p50_milliseconds == pytest.approx(500)
    assert report.latency_max_milliseconds == pytest.approx(1000)


def test_what_is_missing_on_either_side_differs() -> None:
    comparison = compare("it", {"a": [1], "b": [2], "c": [3]}, {"a": [1], "b": [0], "d": [4]})
    assert (comparison.rows, comparison.differences) == (4, 3)
    assert comparison.examples[0] == "'b': expected [2], found [0]"
    assert compare("it", {"a": [1]}, {"a": [1]}).differences == 0


def test_a_report_is_correct_when_nothing_differs() -> None:
    def report(*differences: int) -> DemoReport:
        comparisons = tuple(Comparison("it", 5, number, ()) for number in differences)
        return DemoReport("it", "a server", (Phase("load", 10, 2.0),), 0.0, None, comparisons, None)

    assert report(0, 0).is_correct
    assert not report(0, 1).is_correct
    assert report().phases[0].events_per_second == 5


def test_an_example_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_PACKAGE", tmp_path / "sequent_py")
    with pytest.raises(ConfigurationError, match="'bank' is missing"):
        examples.example_directory("bank")
    (tmp_path / "examples" / "bank").mkdir(parents=True)
    (tmp_path / "examples" / "bank" / "pyproject.toml").touch()
    assert examples.example_directory("bank") == tmp_path / "examples" / "bank"
    (tmp_path / "sequent_py" / "_examples" / "bank").mkdir(parents=True)
    (tmp_path / "sequent_py" / "_examples" / "bank" / "pyproject.toml").touch()
    assert examples.example_directory("bank") == tmp_path / "sequent_py" / "_examples" / "bank"
