"""Measure what a golive costs those who write and read meanwhile.

    python -m bench.golive [--events 100000] [--rate 500] [--threads 4] [--rounds 3]

A store of bank events is at version 1. A second process, which carries the code of both versions, appends one event per transaction,
projection included, ``--rate`` times a second from ``--threads`` threads, and looks rows up 200 times a second. Meanwhile version 2, which rebuilds both tables, is
built by ``online`` and promoted by ``golive``. Printed per round: the stall as golive reports it (an upper bound), and the latencies that the other
process measured around its calls while golive ran; then whether anything failed and whether the tables equal the log.

Machines are noisy, and one of two cores belongs to the writers: compare within one run. A server is started for the run unless
SEQUENT_DATABASE_URL names one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from bench.server import database
from sequent_py import Config, Migrations, Sequent
from sequent_py.demo.bank_check import check_bank
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory
from sequent_py.view_schema.going_live.golive import GoliveReport

SERVER = {
    "fsync": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "listen_addresses": "''",
    "max_connections": "50",
}
"""fsync off, because disks here are shared: a commit, ours included, is a commit of milliseconds elsewhere."""
READS_PER_SECOND = 200


def declarations(version: int) -> type[Migrations]:
    """Return a declaration that rebuilds both tables with each version, and serves the version before."""
    directory = str(example_directory("bank"))
    if directory not in sys.path:
        sys.path.insert(0, directory)
    projectors = importlib.import_module("bank.projectors")
    both = [projectors.AccountProjector, projectors.StatementProjector]

    def declared(number: int, also: tuple[type[Migrations], ...]) -> type[Migrations]:
        values = {
            "version": number,
            "versions": dict.fromkeys(range(1, number + 1), both),
            "also_serves": also,
        }
        return type(f"Bank{number}", (Migrations,), values)

    return declared(version, (declared(version - 1, ()),) if version > 1 else ())


@contextmanager
def application(url: str, version: int) -> Iterator[Sequent]:
    config = Config(database_url=url, workers=0, sql_directory=example_directory("bank") / "sql")
    with Sequent(config, migrations=declarations(version)) as app:
        yield app


# The other process


@dataclass(frozen=True)
class Load:
    """What the other process does; it arrives on standard input, because the URL may hold a password."""

    url: str
    version: int
    rate: float
    threads: int


class Traffic:
    """Appends and looks rows up at a fixed pace; what took long is followed at once by what is due."""

    def __init__(self, load: Load, app: Sequent) -> None:
        self._load, self._app = load, app
        self._events = importlib.import_module("bank.events")
        self._stop = threading.Event()
        self._due = count()
        self._lock = threading.Lock()
        self.appends: list[tuple[float, float]] = []
        """When each began and how long it took."""
        self.reads: list[tuple[float, float]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._write) for _ in range(self._load.threads)]
        threads.append(threading.Thread(target=self._read))
        started = time.time()
        self._started = started
        for thread in threads:
            thread.start()
        sys.stdout.write("started\n")
        sys.stdout.flush()
        sys.stdin.read()
        self._stop.set()
        for thread in threads:
            thread.join()

    def _write(self) -> None:
        accounts: list[tuple[UUID, int]] = []
        while not self._stop.is_set():
            with self._lock:
                due = self._started + next(self._due) / self._load.rate
            self._stop.wait(max(0.0, due - time.time()))
            if len(accounts) < 20:
                account, version = uuid4(), 0
                event: Any = self._events.AccountOpened(owner="Walk-in")
            else:
                account, version = accounts.pop(0)
                event = self._events.MoneyDeposited(amount=1)
            began = time.time()
            try:
                self._app.store.append(account, [event], expected_version=version)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                accounts.append((account, version + 1))
            self.appends.append((began, time.time() - began))

    def _read(self) -> None:
        with psycopg.connect(self._load.url, autocommit=True) as connection:
            while not self._stop.wait(1 / READS_PER_SECOND):
                began = time.time()
                try:
                    connection.execute(
                        "SELECT owner, balance FROM view_schema.account_records WHERE aggregate_id = %s",
                        (uuid4(),),
                    )
                except psycopg.Error as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                self.reads.append((began, time.time() - began))


def serve() -> None:
    """Be the other process."""
    load = Load(**json.loads(sys.stdin.readline()))
    with application(load.url, load.version) as app:
        traffic = Traffic(load, app)
        traffic.run()
    seen = {"appends": traffic.appends, "reads": traffic.reads, "failures": traffic.failures}
    with suppress(BrokenPipeError):
        # Nobody listens when golive has failed.
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


# This process


def measure(url: str, version: int, rate: float, threads: int) -> dict[str, Any]:
    """Go from the version before to ``version`` under traffic."""
    load = Load(url, version, rate, threads)
    with (
        application(url, version) as app,
        subprocess.Popen(
            [sys.executable, "-m", "bench.golive", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other,
    ):
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(json.dumps(asdict(load)) + "\n")
        other.stdin.flush()
        assert other.stdout.readline() == "started\n"
        app.view_schema.online()
        began = time.time()
        report = app.view_schema.golive()
        ended = time.time()
        time.sleep(0.5)
        other.stdin.close()
        seen = json.loads(other.stdout.readline())
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            differences = sum(
                item.differences for item in check_bank(connection, "sequent_schema", "view_schema")
            )
            connection.execute(
                sql.SQL("DROP TABLE {}").format(
                    sql.SQL(", ").join(sql.Identifier("view_schema", name) for name in report.retired_tables)
                )
            )
    during = [took * 1000 for at, took in seen["appends"] if began <= at + took and at <= ended]
    reads = [took * 1000 for at, took in seen["reads"] if began <= at + took and at <= ended]
    return {
        "report": report,
        "rate": len(during) / (ended - began),
        "appends": during,
        "reads": reads,
        "failures": seen["failures"],
        "differences": differences,
    }


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def line(measured: dict[str, Any]) -> str:
    """Return one row of the table."""
    report: GoliveReport = measured["report"]
    figures = [
        f"{report.writers_stall_milliseconds:.0f}",
        f"{report.readers_stall_milliseconds:.0f}",
        f"{report.tries}",
        f"{report.window_events}",
        f"{measured['rate']:.0f}",
        *(f"{quantile(measured['appends'], share):.1f}" for share in (0.5, 0.99, 1.0)),
        *(f"{quantile(measured['reads'], share):.1f}" for share in (0.99, 1.0)),
        f"{len(measured['failures'])}",
        f"{measured['differences']}",
    ]
    return "| " + " | ".join(figures) + " |"


COLUMNS = (
    "stall of writers, ms",
    "of readers, ms",
    "tries",
    "events in the last window",
    "appends/s",
    "append p50, ms",
    "p99",
    "max",
    "read p99, ms",
    "max",
    "failures",
    "wrong rows",
)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    with database(SERVER) as url:
        with application(url, 1) as app:
            app.install()
            app.store.import_history(bank_history(importlib.import_module("bank.events"), arguments.events))
            app.view_schema.online()
            app.view_schema.golive()
        with closing(psycopg.connect(url)) as connection:
            version = connection.info.parameter_status("server_version")
        say(
            f"{arguments.events:,} bank events, two tables, {arguments.rate:g} appends/s wanted from {arguments.threads} threads, "
            f"PostgreSQL {version}, Python {platform.python_version()}, {os.cpu_count()} cores.\n"
        )
        say("| " + " | ".join(COLUMNS) + " |")
        say("|" + " ---: |" * len(COLUMNS))
        for number in range(arguments.rounds):
            measured = measure(url, number + 2, arguments.rate, arguments.threads)
            say(line(measured))
            for failure in dict.fromkeys(measured["failures"]):
                say(f"failed: {failure}")


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
