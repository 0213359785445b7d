"""Code that changed since its tables were built: found by check, plan and doctor, accepted by a command, noted during a migration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import shop as shop_module
from shop import (
    FailingProjector,
    LineAdded,
    Shop2,
    ShopFailing,
    actual_rows,
    expected_rows,
    live_shop,
    place_orders,
    shop,
)

from sequent_py import Sequent
from sequent_py.cli.blocks import Items, Tone
from sequent_py.cli.descriptions import plan as describe_plan
from sequent_py.doctor import Verdict, examine
from sequent_py.errors import ProjectionFailed
from sequent_py.view_schema import fingerprints


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, name: str) -> None: ...

    def replay(self, progress: Any) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Edit the application's source as fingerprints see it."""
    real = fingerprints.source_of

    def edit(old: str, new: str) -> None:
        def edited(value: Any) -> str:
            return (real(value) or "").replace(old, new)

        monkeypatch.setattr(fingerprints, "source_of", edited)

    return edit


CHANGE = ("order.lines += 1", "order.lines += 2")


def code_findings(app: Sequent, verdict: Verdict = Verdict.PROBLEM) -> list[str]:
    return [it.message for it in examine(app).findings if it.subject == "code" and it.verdict is verdict]


@pytest.mark.store(made_by=live_shop(3))
def test_unchanged_code_is_current(app: Sequent) -> None:
    assert app.view_schema.check().is_current
    assert code_findings(app) == []


@pytest.mark.store(made_by=live_shop())
def test_a_changed_handler_is_named_by_check_plan_and_doctor_until_it_is_accepted(
    app: Sequent, edit: Any
) -> None:
    edit(*CHANGE)
    check = app.view_schema.check()
    assert not check.is_current
    for part in ("OrderProjector", "order_records", "version 1", "OrderProjector.line_added", "accept-code"):
        assert part in check.problems[0]
    assert "line_records" not in " ".join(check.problems)
    plan = app.view_schema.plan()
    assert plan.plan.is_noop
    assert plan.warnings == check.problems
    assert Items("Warnings:", check.problems, Tone.WARNING) in list(describe_plan(plan))
    assert "OrderProjector.line_added" in code_findings(app)[0]
    report = app.view_schema.accept_code()
    assert report.changed == {"order_records": ("OrderProjector.line_added",)}
    assert app.view_schema.check().is_current
    edit("nothing at all", "nothing")
    assert app.view_schema.check().is_current, "the release that built it passes as well"
    edit("order.lines += 1", "order.lines += 3")
    assert not app.view_schema.check().is_current


def test_a_changed_table_file_is_named(store_database_url: str, tmp_path: Path) -> None:
    for file in shop_module.SQL_DIRECTORY.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    with shop(store_database_url, sql_directory=tmp_path) as app:
        migrate(app)
        path = tmp_path / "line_records.sql"
        path.write_text("-- only a comment\n" + path.read_text())
        assert app.view_schema.check().is_current
        path.write_text(path.read_text() + "\nCOMMENT ON TABLE line_records%SUFFIX% IS 'x';")
        assert "line_records.sql" in app.view_schema.check().problems[0]


@pytest.mark.store(made_by=live_shop(3))
def test_a_new_version_that_lists_the_projector_needs_nothing_more(
    app: Sequent, store_database_url: str, edit: Any
) -> None:
    edit(*CHANGE)
    with shop(store_database_url, Shop2) as newer:
        assert newer.view_schema.plan().warnings == ()
        migrate(newer)
        assert newer.view_schema.check().is_current
        assert code_findings(newer) == []


@pytest.mark.store(made_by=live_shop())
def test_what_an_earlier_release_built_is_recorded_by_accepting_it(
    app: Sequent, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("UPDATE sequent_schema.view_tables SET code = NULL")
    assert app.view_schema.check().is_current
    assert "an earlier release" in code_findings(app, Verdict.NOTICE)[0]
    assert app.view_schema.accept_code().recorded == ("line_records", "order_records")
    assert code_findings(app, Verdict.NOTICE) == []


def test_a_handler_that_was_mended_during_a_migration_is_noted_and_goes_on(
    store_database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, edit: Any
) -> None:
    with shop(store_database_url, ShopFailing) as app:
        orders = place_orders(app, range(8))
        app.store.append(orders[0], [LineAdded(product="poison", cents=1)])
        with pytest.raises(ProjectionFailed):
            app.view_schema.online(group_target_events=5)
        monkeypatch.setattr(FailingProjector, "is_mended", True)
        edit('raise ValueError("no poison here")', "return")
        notes = Notes()
        app.view_schema.online(progress=notes)
        [said] = [note for note in notes.notes if "code has changed" in note]
        assert "FailingProjector.refuses" in said
        assert "folded by the earlier code" in said
        app.view_schema.offline()
        assert app.view_schema.check().is_current, "what was promoted is what worked on it last"


def test_nothing_is_noted_when_nothing_changed(app: Sequent) -> None:
    place_orders(app, range(3))
    app.view_schema.online()
    notes = Notes()
    app.view_schema.online(progress=notes)
    app.view_schema.offline(progress=notes)
    assert not [note for note in notes.notes if "code" in note]


def test_rows_are_as_ever(app: Sequent, connection: psycopg.Connection[Any]) -> None:
    place_orders(app, range(10))
    migrate(app)
    assert actual_rows(connection) == expected_rows(connection)
