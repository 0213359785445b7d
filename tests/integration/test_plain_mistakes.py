"""Plain mistakes at the command line, and tables that somebody dropped: what is wrong is said in our words, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from shop import SQL_DIRECTORY, Shop1, Shop2, actual_rows, expected_rows, place_orders, shop

from sequent_py.cli import run
from sequent_py.config import Config
from sequent_py.errors import ConfigurationError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with nothing but settings, and a directory of schema migrations; its database is not needed."""
    (tmp_path / "pyproject.toml").write_text("[tool.sequent]\n")
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "001_nothing.py").write_text("def up(op):\n    pass\n")
    monkeypatch.setenv("SEQUENT_DATABASE_URL", "postgresql://localhost:1/shop")
    monkeypatch.setenv("SEQUENT_MIGRATIONS_CLASS", "shop:Shop1")
    monkeypatch.setenv("SEQUENT_SQL_DIRECTORY", str(SQL_DIRECTORY))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Unexpected" not in text
    assert "SQLSTATE" not in text
    return " ".join(text.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["schema", "migrate", "--lock-timeout", "nan"],
        ["schema", "migrate", "--lock-timeout", "-1"],
        ["schema", "migrate", "--lock-timeout", "1e15"],
        ["migrate", "golive", "--lock-timeout", "inf"],
        ["migrate", "rollback", "--lock-timeout", "1e12"],
        ["migrate", "rollback", "--stall-limit", "1e12"],
    ],
)
def test_a_time_that_the_server_could_not_be_given_is_wrong_usage(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run([*arguments, "--project", str(project)]) == 2
    assert arguments[2] in said(capsys)


def test_a_setting_that_the_server_could_not_be_given_is_named() -> None:
    with pytest.raises(ConfigurationError, match="SEQUENT_LOCK_TIMEOUT_SECONDS"):
        Config.load(environment={"SEQUENT_LOCK_TIMEOUT_SECONDS": "inf"})


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["schema", "migrate", "--log", "{project}/no/such.log"], "no/such.log"),
        (["schema", "new", "artists", "--dir", "{project}/pyproject.toml/migrations"], "pyproject.toml"),
    ],
)
def test_a_path_that_cannot_be_used_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], path: str
) -> None:
    filled = [argument.format(project=project) for argument in arguments]
    assert run([*filled, "--project", str(project)]) == 1
    text = said(capsys)
    assert path in text
    assert "Check the path" in text


@pytest.mark.parametrize("name", ["shop", "shop:", "shop:Nothing", "shop:OrderRecord"])
def test_a_migrations_class_that_is_none_says_what_one_looks_like(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SEQUENT_MIGRATIONS_CLASS", name)
    assert run(["migrate", "plan", "--project", str(project)]) == 1
    assert 'migrations_class = "package.module:Class"' in said(capsys)


def test_a_table_that_somebody_dropped_is_named_and_can_be_built_anew(
    project: Path,
    store_database_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEQUENT_DATABASE_URL", store_database_url)
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        with shop(store_database_url, Shop1) as app:
            place_orders(app, range(5))
            app.view_schema.online()
            app.view_schema.golive()
        connection.execute("DROP TABLE view_schema.order_records")
        for command in ("verify", "diff"):
            assert run(["migrate", command, "--project", str(project)]) == 1
            assert "order_records" in said(capsys)
        with shop(store_database_url, Shop2) as newer:
            warning = newer.view_schema.plan().warnings[0]
            assert warning.startswith("The table order_records is missing from the schema view_schema.")
            newer.view_schema.online()
            report = newer.view_schema.golive()
            assert any("order_records is missing" in text for text in report.warnings)
        assert actual_rows(connection) == expected_rows(connection)
        drop_all(connection)
        for command in ("verify", "diff"):
            assert run(["migrate", command, "--project", str(project)]) == 1
            said(capsys)


def drop_all(connection: psycopg.Connection[Any]) -> None:
    connection.execute("DROP SCHEMA view_schema CASCADE")
