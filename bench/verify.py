"""Time ``verify --all`` of the bank's two live tables.

    python bench/verify.py [--events 100000] [--workers 1 2]

A server is started for the run unless SEQUENT_DATABASE_URL names one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from replay import database

from sequent_py import Config, Sequent
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory


def measure(events: int, workers: list[int]) -> None:
    """Load the events once, migrate, and verify once per number of workers."""
    directory = example_directory("bank")
    sys.path.insert(0, str(directory))
    bank_events = importlib.import_module("bank.events")
    with database() as url:
        config = Config(
            database_url=url,
            migrations_class="bank.migrations:BankMigrations",
            sql_directory=directory / "sql",
        )
        with Sequent(config) as app:
            app.install()
            app.store.import_history(bank_history(bank_events, events))
            app.view_schema.online()
            app.view_schema.offline()
            for count in workers:
                started, before = time.perf_counter(), os.times()
                report = app.view_schema.verify(is_all=True, workers=count, is_once=True)
                seconds, after = time.perf_counter() - started, os.times()
                cpu = after.user + after.children_user - before.user - before.children_user
                assert report.is_correct, report
                sys.stdout.write(
                    f"{count} workers: {report.events} events in {seconds:.1f} s, {report.events / seconds:,.0f} events/s,"
                    f" {cpu:.1f} s of CPU in Python, load {os.getloadavg()[0]:.1f}\n"
                )
                sys.stdout.flush()


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    measure(arguments.events, arguments.workers)


if __name__ == "__main__":
    main()
