"""The bank's version 3 is a change in place: its file brings the older table to the newest shape, and no event is replayed."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import SecretStr

from sequent_py import Config, Migrations, Sequent, database
from sequent_py.demo.bank_check import check_bank
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory
from sequent_py.demo.session import application, importable

BANK = example_directory("bank")


def _migrations_of_version_2() -> type[Migrations]:
    projectors: Any = importlib.import_module("bank.projectors")

    class BankMigrations(Migrations):
        version = 2
        versions = {1: [projectors.AccountProjector], 2: [projectors.StatementProjector]}

    return BankMigrations


def test_version_3_alters_the_accounts_in_place(database_url: str) -> None:
    config = Config(database_url=SecretStr(database_url), project_directory=BANK, workers=0)
    with importable(BANK):
        history = bank_history(importlib.import_module("bank.events"), 400)
        with Sequent(config, migrations=_migrations_of_version_2()) as app:
            app.install()
            app.store.import_history(history)
            app.view_schema.online()
            app.view_schema.offline()
        with database.connect(database_url, autocommit=True) as connection:
            # The table file has the newest shape; this makes the table what version 2's file would have made it.
            connection.execute("ALTER TABLE view_schema.account_records DROP COLUMN is_active")
        with application(BANK, database_url, "bank.migrations:BankMigrations", workers=0) as app:
            plan = app.view_schema.plan().plan
            assert (plan.replays, [step.file_name for step in plan.alters]) == ((), ["account_records_3.sql"])
            app.view_schema.online()
            app.view_schema.offline()
            assert app.view_schema.check().is_current
    with database.connect(database_url, autocommit=True) as connection:
        assert [item.differences for item in check_bank(connection, "sequent_schema", "view_schema")] == [
            0,
            0,
        ]
        active = connection.execute(
            "SELECT count(*) FROM view_schema.account_records WHERE is_active"
        ).fetchone()
        assert active is not None
        assert active[0] > 0
