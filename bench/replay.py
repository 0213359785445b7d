"""Time a rebuild of the bank's two tables against hand-written SQL over the same events, all in one run.

    python bench/replay.py [--events 1000000] [--workers 1 2] [--rounds 3] [--write docs/performance.md]

What is timed, in turn, round after round (medians are printed):

online      ``sequent migrate online`` as a whole: planning, worker processes, replay through Python handlers, keys, indexes, ANALYZE
replay      of that, the replay alone, from the first group's claim to the last group's commit
insert      one session, hand-written: two set-based ``INSERT … SELECT`` into empty tables without indexes
insert+ix   the same, and then the same keys and indexes and ANALYZE as online builds
copy        one session: the same two selects drained by ``COPY … TO STDOUT`` and thrown away

Machines are noisy: compare within one run. A server is started for the run unless SEQUENT_DATABASE_URL names one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from sequent_py import Config, Sequent
from sequent_py.demo.bank_check import _ACCOUNTS, _MOVES, _STATEMENTS, check_bank
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory
from sequent_py.progress import ReplayProgress
from sequent_py.testing.server import fresh_database, shared_server

SERVER = {
    "fsync": "off",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "jit": "off",
    "listen_addresses": "''",
    "max_connections": "50",
}
"""Checkpoints in the middle of one contender would be charged to it alone; fsync off, because disks here are shared."""

ACCOUNT_COLUMNS = "aggregate_id, owner, currency, balance, transactions, status, opened_at, updated_at"
STATEMENT_COLUMNS = "aggregate_id, sequence_number, kind, amount, balance, other_account, booked_at"


class Watch:
    """Keeps the last progress of the replay."""

    def __init__(self) -> None:
        self.last: ReplayProgress | None = None

    def step(self, name: str) -> None:
        pass

    def replay(self, progress: ReplayProgress) -> None:
        self.last = progress

    def note(self, text: str) -> None:
        pass


@contextmanager
def database() -> Iterator[str]:
    """A fresh database, on a server of our own unless one is named."""
    named = os.environ.pop("SEQUENT_DATABASE_URL", None)
    if named:
        with fresh_database(named, f"sequent_bench_{os.getpid()}") as url:
            yield url
        return
    with (
        shared_server(f"bench{os.getpid()}", options=SERVER) as server,
        fresh_database(server, "sequent_bench") as url,
    ):
        yield url


def online(app: Sequent, workers: int) -> dict[str, float]:
    """Build both tables, then throw them away."""
    watch = Watch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    app.view_schema.online(workers=workers, progress=watch)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert watch.last is not None
    measured = {
        "online": seconds,
        "replay": watch.last.seconds,
        "python_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_rss_mib": after.ru_maxrss / 1024,
    }
    app.view_schema.abort()
    return measured


def handwritten(url: str, directory: Path) -> dict[str, float]:
    """Run the set-based rebuild and the drained COPY in one session."""
    measured = {}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = bench, public")
        connection.execute("SET work_mem = '256MB'")
        connection.execute("SET maintenance_work_mem = '256MB'")
        connection.execute("CREATE SCHEMA bench")
        for table in ("account_records", "statement_records"):
            connection.execute(_file(directory / f"{table}.sql"))
        moves = sql.SQL(_MOVES).format(
            events=sql.Identifier("sequent_schema", "events"),
            event_types=sql.Identifier("sequent_schema", "event_types"),
        )
        selects = {
            ("account_records", ACCOUNT_COLUMNS): sql.SQL("WITH moves AS ({}) {}").format(
                moves, sql.SQL(_ACCOUNTS)
            ),
            ("statement_records", STATEMENT_COLUMNS): sql.SQL("WITH moves AS ({}) {}").format(
                moves, sql.SQL(_STATEMENTS)
            ),
        }
        started = time.perf_counter()
        with connection.transaction():
            for (table, columns), select in selects.items():
                connection.execute(
                    sql.SQL("INSERT INTO {} ({}) {}").format(sql.Identifier(table), sql.SQL(columns), select)
                )
        measured["insert"] = time.perf_counter() - started
        for table in ("account_records", "statement_records"):
            connection.execute(_file(directory / f"{table}.indexes.sql"))
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))
        measured["insert+ix"] = time.perf_counter() - started
        started = time.perf_counter()
        for select in selects.values():
            with connection.cursor().copy(sql.SQL("COPY ({}) TO STDOUT").format(select)) as copy:
                for _ in copy:
                    pass
        measured["copy"] = time.perf_counter() - started
        connection.execute("DROP TABLE account_records, statement_records")
        connection.execute("DROP SCHEMA bench")
    return measured


def _file(path: Path) -> bytes:
    return path.read_text().replace("%SUFFIX%", "").encode()


def measure(events: int, workers: list[int], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Load the events once and run every contender ``rounds`` times, interleaved."""
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
            started = time.perf_counter()
            app.store.import_history(bank_history(bank_events, events))
            say(f"loaded {events} events in {time.perf_counter() - started:.1f} s")
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE sequent_schema.events")
                connection.execute("CHECKPOINT")
                version = connection.execute("SHOW server_version").fetchone()
            figures: dict[str, list[float]] = {}
            for number in range(rounds):
                for count in workers:
                    for name, value in online(app, count).items():
                        figures.setdefault(f"{name} ({count} workers)", []).append(value)
                for name, value in handwritten(url, directory / "sql").items():
                    figures.setdefault(name, []).append(value)
                say(f"round {number + 1} of {rounds} done")
            app.view_schema.online(workers=max(workers))
            app.view_schema.offline(workers=max(workers))
            with psycopg.connect(url, autocommit=True) as connection:
                differences = sum(
                    item.differences for item in check_bank(connection, "sequent_schema", "view_schema")
                )
    if differences:
        raise SystemExit(f"the rebuilt tables differ from the events in {differences} rows")
    return {
        "events": events,
        "rounds": rounds,
        "postgresql": version[0] if version else "?",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "medians": {name: statistics.median(values) for name, values in figures.items()},
        "all": figures,
    }


def table(result: dict[str, Any]) -> str:
    """Render the medians as Markdown."""
    medians, events = result["medians"], result["events"]
    base = medians["insert"]
    lines = ["| what | seconds | events/s | rate, insert = 1 |", "| --- | ---: | ---: | ---: |"]
    for name, value in medians.items():
        if name.startswith(("python_cpu", "peak_rss")):
            continue
        lines.append(f"| {name} | {value:.2f} | {events / value:,.0f} | {base / value:.2f} |")
    lines.append("")
    lines += [
        f"- {name}: {value:,.1f}"
        for name, value in medians.items()
        if name.startswith(("python_cpu", "peak_rss"))
    ]
    return "\n".join(lines)


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument(
        "--write", type=Path, help="replace the table between the markers of this Markdown file"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory():
        result = measure(arguments.events, arguments.workers, arguments.rounds, say)
    head = (
        f"{result['events']:,} bank events, two projectors, PostgreSQL {result['postgresql']}, Python {result['python']}, "
        f"{result['cores']} cores, medians of {result['rounds']} interleaved rounds."
    )
    text = f"{head}\n\n{table(result)}"
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.write:
        page = arguments.write.read_text()
        begin, end = "<!-- replay: begin -->", "<!-- replay: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        arguments.write.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
