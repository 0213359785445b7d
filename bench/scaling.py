"""Measure what an event costs a replay, in processor seconds, log and disk: the figures that docs/scaling.md counts with.

    python bench/scaling.py [--events 100000 200000 400000] [--workers 2] [--write docs/scaling.md]

For each size, on a fresh database: the processor seconds of the workers (Python) and of the server's processes, WAL and table bytes of ``online``, and its seconds.
The slope is a least-squares line through the sizes, so that what a command costs once (planning, processes, DDL) is not charged to the events. Processor
seconds depend on the machine, and less than wall-clock seconds on its neighbours. Linux only: the server's are read from /proc.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from replay import SERVER, say

from sequent_py import Config, Sequent
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory
from sequent_py.testing.server import fresh_database, shared_server

TICKS = os.sysconf("SC_CLK_TCK")
COLUMNS = {
    "python_cpu": ("Python, CPU seconds", 1.0),
    "server_cpu": ("server, CPU seconds", 1.0),
    "wal": ("WAL, MB", 1e-6),
    "tables": ("tables and indexes, MB", 1e-6),
    "log": ("events and their indexes, MB", 1e-6),
    "seconds": ("online, seconds", 1.0),
}


def server_cpu(connection: psycopg.Connection[Any]) -> float:
    """Sum the processor seconds of the server's processes, those that have ended included."""
    row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    postmaster = int(Path(row[0], "postmaster.pid").read_text().splitlines()[0])
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(entry.name) == postmaster:
                total += sum(int(fields[index]) for index in (11, 12, 13, 14))
            elif int(fields[1]) == postmaster:
                total += int(fields[11]) + int(fields[12])
    return total / TICKS


def _bytes(connection: psycopg.Connection[Any], schema: str) -> int:
    row = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'r'",
        (schema,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def measure(url: str, events: int, workers: int) -> dict[str, float]:
    """Load so many events into a database and rebuild the bank's two tables from them."""
    directory = example_directory("bank")
    config = Config(
        database_url=url, migrations_class="bank.migrations:BankMigrations", sql_directory=directory / "sql"
    )
    with Sequent(config) as app, psycopg.connect(url, autocommit=True) as connection:
        app.install()
        app.store.import_history(bank_history(importlib.import_module("bank.events"), events))
        connection.execute("VACUUM ANALYZE sequent_schema.events")
        connection.execute("CHECKPOINT")
        log = _bytes(connection, "sequent_schema")
        wal = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        server, started = server_cpu(connection), time.perf_counter()
        app.view_schema.online(workers=workers)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        written = connection.execute(
            "SELECT (pg_current_wal_insert_lsn() - %s::pg_lsn)::bigint", wal
        ).fetchone()
        assert written is not None
        return {
            "python_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "server_cpu": server_cpu(connection) - server,
            "wal": float(written[0]),
            "tables": float(_bytes(connection, "view_schema")),
            "log": float(log),
            "seconds": seconds,
        }


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return how much a value grows with one event, by least squares."""
    middle, mean = sum(sizes) / len(sizes), sum(values) / len(values)
    above = sum((size - middle) * (value - mean) for size, value in zip(sizes, values, strict=True))
    return above / sum((size - middle) ** 2 for size in sizes)


def render(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    sizes, found = result["sizes"], result["found"]
    head = (
        f"Bank events, two projectors, two tables, {result['workers']} workers, PostgreSQL {result['postgresql']}, Python {result['python']},"
        f" {result['cores']} cores, load average at the start {result['load']:.1f}.\n\n"
    )
    lines = [
        f"| | {' | '.join(f'{size:,} events' for size in sizes)} | slope, per million events |",
        f"| --- |{' ---: |' * (len(sizes) + 1)}",
    ]
    for key, (name, factor) in COLUMNS.items():
        values = [each[key] * factor for each in found]
        cells = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {name} | {cells} | {slope(sizes, values) * 1e6:.1f} |")
    return head + "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 200_000, 400_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument(
        "--write", type=Path, help="replace the table between the markers of this Markdown file"
    )
    arguments = parser.parse_args()
    sys.path.insert(0, str(example_directory("bank")))
    load = os.getloadavg()[0]
    found = []
    with shared_server(f"scaling{os.getpid()}", options=SERVER) as server:
        with psycopg.connect(server) as connection:
            version = connection.execute("SHOW server_version").fetchone()
        for number, events in enumerate(arguments.events):
            with fresh_database(server, f"scaling_{number}") as url:
                found.append(measure(url, events, arguments.workers))
            say(f"{events:,} events: {json.dumps(found[-1])}")
    result = {
        "sizes": arguments.events,
        "workers": arguments.workers,
        "found": found,
        "load": load,
        "postgresql": version[0] if version else "?",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    text = render(result)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.write:
        page = arguments.write.read_text()
        begin, end = "<!-- slopes: begin -->", "<!-- slopes: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        arguments.write.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
