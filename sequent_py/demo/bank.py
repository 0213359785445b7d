"""The bank demonstration: a migration while a second process appends, then every row against plain SQL."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sequent_py import database
from sequent_py.app import Sequent
from sequent_py.demo.bank_check import check_bank
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.reports import Comparison, DemoProgress, DemoReport, WriterReport
from sequent_py.demo.scratch import Scratch, scratch
from sequent_py.demo.session import Session, application, importable
from sequent_py.demo.writer import Writer
from sequent_py.demo.writer_process import WriterTask

DEFAULT_EVENTS = 200_000
APPENDS_PER_SECOND = 250.0
"""A busy application that still leaves the machine to the migration: on two cores, appends at full speed take one of them."""
WRITER_ACCOUNTS = 200
APPENDS_AFTER_SWAP = 100
APPEND_TIMEOUT_SECONDS = 60.0
_MIGRATIONS = "bank.migrations:BankMigrations"


def run_bank(
    *,
    events: int,
    workers: int | None,
    keep: bool,
    server_url: str | None,
    working_directory: Path,
    progress: DemoProgress,
) -> DemoReport:
    """Load ``events`` bank events, migrate to the bank's version while a writer appends, compare everything.

    Raises
    ------
    SequentError
        Anything went wrong on the way. Differences are not raised but reported.
    """
    session = Session(progress)
    with ExitStack() as stack:
        place = stack.enter_context(
            scratch("bank", server_url=server_url, keep=keep, working_directory=working_directory)
        )
        stack.enter_context(importable(place.project_directory))
        app = stack.enter_context(
            application(place.project_directory, place.database_url, _MIGRATIONS, workers=workers)
        )
        accounts = _load(app, session, events)
        writer = _migrate(app, session, place, accounts)
        comparisons = _check(app, session)
        return DemoReport(
            subject=f"bank: {events:,} events of {len(accounts):,} accounts",
            server=place.server,
            phases=session.phases,
            gate_closed_seconds=session.gate_closed_seconds,
            writer=writer,
            comparisons=comparisons,
            kept=place.kept,
        )


def _load(app: Sequent, session: Session, count: int) -> list[UUID]:
    """Install the store and import the history; return the accounts, in the order of their opening."""
    accounts: dict[UUID, None] = {}

    def noted() -> Iterator[tuple[UUID, Any, datetime]]:
        for account, event, moment in bank_history(importlib.import_module("bank.events"), count):
            accounts.setdefault(account)
            yield account, event, moment

    session.progress.step("install the event store")
    app.install()
    with session.phase("load") as events:
        events.append(app.store.import_history(session.counted(noted(), count)))
    return list(accounts)


def _migrate(app: Sequent, session: Session, place: Scratch, accounts: list[UUID]) -> WriterReport:
    every = max(len(accounts) // WRITER_ACCOUNTS, 1)
    task = WriterTask(
        database_url=place.database_url,
        project_directory=str(place.project_directory),
        migrations_class=_MIGRATIONS,
        events_module="bank.events",
        accounts=tuple(map(str, accounts[::every])),
        appends_per_second=APPENDS_PER_SECOND,
    )
    session.progress.step("a second process begins to append")
    with Writer(task) as writer:
        session.online(app, "version 3")
        session.offline(app, "version 3")
        session.progress.step("the second process goes on, projecting live")
        started = time.monotonic()
        writer.wait_for(writer.appends + APPENDS_AFTER_SWAP, APPEND_TIMEOUT_SECONDS)
        session.progress.note(f"{APPENDS_AFTER_SWAP} more appends in {time.monotonic() - started:.1f} s")
        return writer.stop()


def _check(app: Sequent, session: Session) -> tuple[Comparison, ...]:
    with (
        session.phase("check against SQL") as events,
        database.connect(app.database_url) as connection,
    ):
        comparisons = check_bank(connection, app.config.event_store_schema, app.config.view_schema)
        events.append(next(item.rows for item in comparisons if "statement" in item.name))
    return comparisons
