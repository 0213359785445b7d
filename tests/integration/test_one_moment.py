"""What is read to report is read as of one moment: a swap that commits between two of its questions changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rollback_shop import Deployments, deployed_at, deployments
from shop import place_orders

from sequent_py.doctor import Verdict, examine
from sequent_py.errors import InvalidTransition, MigrationError
from sequent_py.event_store.gate import Gate
from sequent_py.view_schema.bookkeeping.relations import Relations
from sequent_py.view_schema.comparison import verify as verify_module


@pytest.fixture
def shops(store_database_url: str, tmp_path: Path) -> Iterator[Deployments]:
    with deployments(store_database_url, tmp_path) as made:
        yield made


def after_the_next(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], Any], *, call: int = 1
) -> list[str]:
    """Run an action once, right after a coming call of a function has its result; return a list that then has an entry."""
    function = getattr(owner, name)
    calls, done = [0], list[str]()

    def called(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        calls[0] += 1
        if calls[0] == call:
            done.append(name)
            action()
        return result

    monkeypatch.setattr(owner, name, called)
    return done


@pytest.mark.store(made_by=deployed_at(1))
def test_a_plan_is_of_one_moment(shops: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    place_orders(shops[1], range(5))
    shops[2].view_schema.online()
    done = after_the_next(monkeypatch, Gate, "read", shops.open_version(2, True).view_schema.golive)
    report = shops[2].view_schema.plan()
    assert done
    assert shops[2].view_schema.current_version() == 2
    # As it was when it was asked for.
    assert (report.plan.from_version, report.plan.target_version) == (1, 2)
    assert shops[2].view_schema.plan().plan.is_noop


@pytest.mark.store(made_by=deployed_at(2))
def test_a_check_is_of_one_moment(shops: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    done = after_the_next(monkeypatch, Gate, "read", shops.open_version(1, True).view_schema.rollback, call=3)
    problems = shops[1].view_schema.check().problems
    assert done
    assert problems[0] == "The code is at version 1, the database at 2."
    assert "can serve again" in problems[1]
    assert shops[1].view_schema.check().problems == ()


@pytest.mark.store(made_by=deployed_at(1))
def test_a_plan_of_a_rollback_is_of_one_moment(shops: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    place_orders(shops[1], range(5))
    shops.migrate(2)
    done = after_the_next(monkeypatch, Gate, "read", shops.open_version(1, True).view_schema.rollback)
    report = shops[1].view_schema.rollback_plan()
    assert done
    assert shops[1].view_schema.current_version() == 1
    assert (report.from_version, report.target_version) == (2, 1)
    assert shops[1].view_schema.rollback_plan().is_noop


@pytest.mark.store(made_by=deployed_at(2))
def test_a_status_is_of_one_moment(shops: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    done = after_the_next(monkeypatch, Gate, "read", shops.open_version(1, True).view_schema.rollback)
    report = shops[1].view_schema.status()
    assert done
    assert (report.live_version, report.state) == (2, "live")
    assert report.rollback is not None
    assert report.rollback.is_possible


@pytest.mark.store(made_by=deployed_at(1))
@pytest.mark.parametrize(
    ("owner", "name", "way"),
    [(Relations, "tables", "golive"), (Gate, "read", "golive"), (Gate, "read", "rollback")],
)
def test_what_doctor_finds_is_of_one_moment(
    shops: Deployments, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, way: str
) -> None:
    place_orders(shops[1], range(5))
    shops[2].view_schema.online()
    version = 2
    if way == "rollback":
        shops[2].view_schema.golive()
        version = 1
    other = shops.open_version(version, True).view_schema
    done = after_the_next(monkeypatch, owner, name, getattr(other, way))
    found = examine(shops[version]).findings
    assert done
    monkeypatch.undo()
    assert Verdict.PROBLEM not in {it.verdict for it in found}, found
    assert next(it.message for it in found if it.subject == "version") == (
        f"Code and database are at version {version}."
    )
    after = examine(shops[version]).findings
    assert [(it.subject, it.verdict) for it in found] == [(it.subject, it.verdict) for it in after]


@pytest.mark.store(made_by=deployed_at(1))
def test_a_verification_whose_subject_is_swapped_away_begins_again_with_what_serves(
    shops: Deployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_orders(shops[1], range(5))
    shops[2].view_schema.online()
    done = after_the_next(
        monkeypatch, verify_module, "find_subject", shops.open_version(2, True).view_schema.golive
    )
    report = shops[2].view_schema.verify(is_all=True, is_once=True)
    assert done
    assert (report.subject, report.version, report.is_correct) == ("live", 2, True)


@pytest.mark.store(made_by=deployed_at(1))
@pytest.mark.parametrize("way", ["golive", "abort"])
def test_a_verification_during_which_its_tables_go_says_so(
    shops: Deployments, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    place_orders(shops[1], range(5))
    shops[2].view_schema.online()
    other = shops.open_version(2, True).view_schema
    compare = verify_module.LogComparison.compare

    def compare_later(*arguments: Any, **options: Any) -> None:
        getattr(other, way)()
        compare(*arguments, **options)

    monkeypatch.setattr(verify_module.LogComparison, "compare", compare_later)
    with pytest.raises(MigrationError, match="are not there, or no longer") as caught:
        shops[2].view_schema.verify(is_once=True)
    assert "sequent migrate" in caught.value.remedy


@pytest.mark.store(made_by=deployed_at(2))
def test_what_is_wrong_at_one_moment_is_still_refused(shops: Deployments) -> None:
    with psycopg.connect(shops.connection.info.dsn, password=shops.connection.info.password) as connection:
        connection.execute("DROP TABLE view_schema.order_records_1")
    with pytest.raises(InvalidTransition, match="order_records_1 is missing"):
        shops[1].view_schema.rollback_plan()
