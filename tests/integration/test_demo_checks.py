"""The bank's comparison with SQL notices what is wrong, and the scratch database is gone afterwards."""

from __future__ import annotations

import importlib
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from sequent_py import database
from sequent_py.demo.bank_check import check_bank
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory
from sequent_py.demo.scratch import scratch
from sequent_py.demo.session import application, importable
from sequent_py.errors import ConfigurationError, DatabaseUnavailable


@pytest.mark.parametrize(
    ("damage", "differences"),
    [
        ("SELECT", [0, 0]),
        ("UPDATE view_schema.account_records SET balance = balance + 1 WHERE id = (SELECT min(id) FROM view_schema.account_records)", [2, 0]),
        ("DELETE FROM view_schema.statement_records WHERE sequence_number = 2 AND aggregate_id = (SELECT min(aggregate_id::text)::uuid FROM view_schema.statement_records WHERE sequence_number = 2)", [0, 1]),
        ("UPDATE view_schema.account_records SET updated_at = updated_at + interval '1 microsecond' WHERE id = (SELECT min(id) FROM view_schema.account_records)", [2, 0]),
    ],
)  # fmt: skip
def test_every_column_of_every_row_is_compared(
    database_url: str, damage: sql.LiteralString, differences: list[int]
) -> None:
    project = example_directory("bank")
    with (
        importable(project),
        application(project, database_url, "bank.migrations:BankMigrations", workers=0) as app,
    ):
        app.install()
        app.store.import_history(bank_history(importlib.import_module("bank.events"), 500))
        app.view_schema.online()
        app.view_schema.offline()
    with database.connect(database_url, autocommit=True) as connection:
        connection.execute(damage)
        found = check_bank(connection, "sequent_schema", "view_schema")
    assert [comparison.differences for comparison in found] == differences
    assert [bool(comparison.examples) for comparison in found] == [bool(number) for number in differences]
    assert found[1].rows == 500


def _databases(server_url: str) -> set[str]:
    with psycopg.connect(server_url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def test_the_scratch_database_is_dropped_also_when_the_block_fails(server_url: str, tmp_path: Path) -> None:
    names: list[str] = []

    def fail() -> None:
        with scratch("bank", server_url=server_url, keep=False, working_directory=tmp_path) as place:
            with psycopg.connect(place.database_url) as connection:
                names.append(connection.info.dbname)
            assert names[0] in _databases(server_url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names[0] not in _databases(server_url)
    assert not list(tmp_path.iterdir())


def test_a_role_that_may_not_create_databases_is_told_so(
    server_url: str, database_prefix: str, tmp_path: Path
) -> None:
    role = sql.Identifier(f"{database_prefix}_poor")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'sesame'").format(role))
        try:
            url = psycopg.conninfo.make_conninfo(
                server_url, user=f"{database_prefix}_poor", password="sesame"
            )
            with (
                pytest.raises(ConfigurationError, match="may not create one") as caught,
                scratch("bank", server_url=url, keep=False, working_directory=tmp_path),
            ):
                pass
            assert "sesame" not in str(caught.value)
            assert "CREATEDB" in str(caught.value)
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseUnavailable, match="nowhere") as caught,
        scratch(
            "bank",
            server_url="postgresql://me:sesame@nowhere.invalid/x",
            keep=False,
            working_directory=tmp_path,
        ),
    ):
        pass
    assert "sesame" not in str(caught.value)
