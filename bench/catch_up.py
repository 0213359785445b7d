"""Time catch-up passes: do they cost what their window costs, or what the store costs, and how near do they come to a replay?

    python -m bench.catch_up [--stores 200000 1000000] [--orderings aggregate partition global] [--workers 2]

For each store of bank events and each ordering the bank's tables are built by ``online``; then windows of ``--small`` and ``--large`` new events are
written, one transaction of a thousand events after another, and each is caught up by running ``online`` again. Printed, in events/s: the replay, both windows
(for the large store as well); and the two ratios that matter:

small, large store / small store    how much longer a small window takes on the largest store than on the smallest: at most 2 is wanted
large window / replay               the rate of a large window over that of the replay of the same store: at least 0.5 is wanted

New events belong to old and new accounts as in the history before them. Windows of up to 20,000 events are replayed in this process, longer ones by
``--workers`` processes, whose start counts. Of ``--rounds`` windows of a size the median is printed. Tables are compared with hand-written SQL at the end.

Machines are noisy: compare within one run. A server is started for the run unless SEQUENT_DATABASE_URL names one.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from bench.contenders.ours import LastProgress
from bench.lines import ORDERINGS
from bench.server import say, server
from sequent_py import Config, Migrations, Sequent
from sequent_py.demo.bank_check import check_bank
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory
from sequent_py.testing.server import fresh_database

EVENTS_PER_TRANSACTION = 1_000
History = Iterator[tuple[UUID, Any, datetime]]


class Store:
    """A store whose history goes on: what was imported first, and windows of what comes then."""

    def __init__(self, url: str, events: int, most: int) -> None:
        self.url, self.events = url, events
        self._history: History = bank_history(importlib.import_module("bank.events"), most)
        self._numbers: Counter[UUID] = Counter()

    def load(self) -> None:
        """Import the first events."""
        with self.application(ORDERINGS["aggregate"], workers=0) as app:
            app.install()
            app.store.import_history(self._noted(itertools.islice(self._history, self.events)))
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute("VACUUM ANALYZE sequent_schema.events")
            connection.execute("CHECKPOINT")

    def _noted(self, happenings: History) -> History:
        for happening in happenings:
            self._numbers[happening[0]] += 1
            yield happening

    def application(self, migrations: type[Migrations], workers: int) -> Sequent:
        """Return the application with the bank's tables under one ordering."""
        directory = example_directory("bank") / "sql"
        return Sequent(
            Config(database_url=self.url, sql_directory=directory, workers=workers), migrations=migrations
        )

    def write_window(self, app: Sequent, events: int) -> None:
        """Write new events: by COPY, because appending one by one takes longer than all that is measured."""
        copy_rows = sql.SQL(
            "COPY sequent_schema.events (created_at, aggregate_id, sequence_number, event_type_id, payload) FROM STDIN"
        )
        with closing(psycopg.connect(self.url)) as connection:
            type_ids: dict[str, int] = dict(
                connection.execute("SELECT name, id FROM sequent_schema.event_types").fetchall()
            )
            window = itertools.islice(self._history, events)
            while happenings := list(itertools.islice(window, EVENTS_PER_TRANSACTION)):
                with connection.cursor() as cursor, cursor.copy(copy_rows) as copy:
                    for account, event, moment in happenings:
                        self._numbers[account] += 1
                        payload = app.event_types.encode(event).decode()
                        type_id = type_ids[type(event).__name__]
                        copy.write_row((moment, account, self._numbers[account], type_id, payload))
                connection.commit()

    def differences(self) -> int:
        """Count the rows of the tables being built that are not what SQL makes of the events."""
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute("CREATE SCHEMA checked")
            for name in ("account_records", "statement_records"):
                connection.execute(
                    sql.SQL("CREATE VIEW checked.{} AS TABLE view_schema.{}").format(
                        sql.Identifier(name), sql.Identifier(f"{name}_1")
                    )
                )
            found = sum(item.differences for item in check_bank(connection, "sequent_schema", "checked"))
            connection.execute("DROP VIEW checked.account_records, checked.statement_records")
            connection.execute("DROP SCHEMA checked")
        return found


@dataclass
class Measured:
    """Seconds of one ordering on one store: of the replay, and of each window."""

    events: int
    replay: float = 0.0
    small: list[float] = field(default_factory=list)
    large: list[float] = field(default_factory=list)


def measure(store: Store, ordering: str, options: argparse.Namespace, say: Callable[[str], None]) -> Measured:
    """Build the tables under one ordering, then catch windows up."""
    measured = Measured(sum(store._numbers.values()))
    with store.application(ORDERINGS[ordering], options.workers) as app:
        measured.replay = online(app)
        say(f"{ordering}, {store.events:,} events: replayed in {measured.replay:.2f} s")
        for events, seconds in ((options.small, measured.small), (options.large, measured.large)):
            for _ in range(options.rounds):
                store.write_window(app, events)
                seconds.append(online(app, events))
                say(f"{ordering}, {store.events:,} events: {events:,} caught up in {seconds[-1]:.2f} s")
        if options.check and (wrong := store.differences()):
            raise SystemExit(f"caught up under {ordering}, the tables differ from the events in {wrong} rows")
        app.view_schema.abort()
    return measured


def online(app: Sequent, events: int | None = None) -> float:
    """Run ``online`` and return how long the replay took, process starts included, planning and indexes not."""
    progress = LastProgress()
    report = app.view_schema.online(progress=progress)
    if events is not None and report.events != events:
        raise SystemExit(f"{report.events} events were caught up, not {events}")
    assert progress.replayed is not None
    return progress.replayed.seconds


def table(figures: dict[tuple[str, int], Measured], options: argparse.Namespace) -> str:
    """Render rates and ratios as Markdown."""
    lines = [
        f"| ordering | store | replay, events/s | {options.small:,} new | {options.large:,} new | large window / replay |"
        f" {options.small:,} new, this store / smallest |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (ordering, events), measured in figures.items():
        small, large = statistics.median(measured.small), statistics.median(measured.large)
        replay_rate, large_rate = measured.events / measured.replay, options.large / large
        base = statistics.median(figures[ordering, options.stores[0]].small)
        lines.append(
            f"| {ordering} | {events:,} | {replay_rate:,.0f} | {options.small / small:,.0f} | {large_rate:,.0f} |"
            f" {large_rate / replay_rate:.2f} | {small / base:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--orderings", nargs="+", choices=ORDERINGS, default=["aggregate"])
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="also write all seconds here")
    options = parser.parse_args()
    options.stores.sort()
    with server() as url:
        version, figures = run(url, options)
    sys.stdout.write(
        f"Bank events, two projectors, PostgreSQL {version}, Python {platform.python_version()}, {os.cpu_count()} cores,"
        f" {options.workers} workers, medians of {options.rounds} windows.\n\n{table(figures, options)}\n"
    )
    if options.json:
        values = {f"{ordering} {events}": vars(item) for (ordering, events), item in figures.items()}
        options.json.write_text(json.dumps(values, indent=2) + "\n")


def run(server_url: str, options: argparse.Namespace) -> tuple[str, dict[tuple[str, int], Measured]]:
    """Measure every ordering on every store; return the server's version and the figures."""
    windows = options.rounds * (options.small + options.large) * len(options.orderings)
    figures: dict[tuple[str, int], Measured] = {}
    for events in options.stores:
        with fresh_database(server_url, f"sequent_bench_{os.getpid()}") as url:
            store = Store(url, events, events + windows)
            started = time.perf_counter()
            store.load()
            say(f"loaded {events:,} events in {time.perf_counter() - started:.1f} s")
            for ordering in options.orderings:
                figures[ordering, events] = measure(store, ordering, options, say)
            with closing(psycopg.connect(url)) as connection:
                version = connection.info.parameter_status("server_version")
    return str(version), figures


if __name__ == "__main__":
    main()
