"""Time ``verify --all`` of the bank's two live tables.

    python -m bench.verify [--events 100000] [--workers 1 2]

A server is started for the run unless SEQUENT_DATABASE_URL names one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from bench.contenders.ours import application
from bench.server import database
from bench.workloads.bank import BANK


def measure(events: int, workers: list[int]) -> None:
    """Load the events once, migrate, and verify once per number of workers."""
    with database() as url, application(url, BANK) as app:
        app.install()
        app.store.import_history(BANK.history(events))
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
