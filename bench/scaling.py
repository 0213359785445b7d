"""Measure what an event costs a replay, in processor seconds, log and disk: the figures that docs/scaling.md counts with.

    python -m bench.scaling [--events 500000 1000000 2000000] [--workers 2] [--write docs/scaling.md]

For each size, on a fresh database: the processor seconds of the workers (Python) and of the server's processes, WAL and table bytes of ``online``, and its seconds.
The slope is a least-squares line through the sizes, so that what a command costs once (planning, processes, DDL) is not charged to the events. Processor
seconds depend on the machine, and less than wall-clock seconds on its neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from bench.contenders.ours import application
from bench.measure import Meter
from bench.report import write_between_markers
from bench.server import say, server
from bench.workloads.bank import BANK
from sequent_py.testing.server import fresh_database

COLUMNS = {
    "python_cpu": "Python, CPU seconds",
    "server_cpu": "server, CPU seconds",
    "wal": "WAL, MB",
    "tables": "tables and indexes, MB",
    "log": "events and their indexes, MB",
    "seconds": "online, seconds",
}


def _megabytes(connection: psycopg.Connection[Any], schema: str) -> float:
    row = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'r'",
        (schema,),
    ).fetchone()
    assert row is not None
    return int(row[0]) / 1e6


def measure(url: str, events: int, workers: int) -> dict[str, float | None]:
    """Load so many events into a database and rebuild the bank's two tables from them."""
    with application(url, BANK) as app, psycopg.connect(url, autocommit=True) as connection:
        app.install()
        app.store.import_history(BANK.history(events))
        connection.execute("VACUUM ANALYZE sequent_schema.events")
        connection.execute("CHECKPOINT")
        with Meter(url).measuring() as result:
            app.view_schema.online(workers=workers)
        return {
            "python_cpu": result.cost.python_cpu_seconds,
            "server_cpu": result.cost.postgres_cpu_seconds,
            "wal": result.cost.wal_mib * 2**20 / 1e6,
            "tables": _megabytes(connection, "view_schema"),
            "log": _megabytes(connection, "sequent_schema"),
            "seconds": result.cost.seconds,
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
    for key, name in COLUMNS.items():
        values = [each[key] for each in found]
        if None not in values:
            cells = " | ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {name} | {cells} | {slope(sizes, values) * 1e6:.1f} |")
    return head + "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[500_000, 1_000_000, 2_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument(
        "--write", type=Path, help="replace the table between the markers of this Markdown file"
    )
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    found = []
    with server() as server_url:
        with psycopg.connect(server_url) as connection:
            version = connection.info.parameter_status("server_version")
        for number, events in enumerate(arguments.events):
            with fresh_database(server_url, f"scaling_{os.getpid()}_{number}") as url:
                found.append(measure(url, events, arguments.workers))
            say(f"{events:,} events: {json.dumps(found[-1])}")
    result = {
        "sizes": arguments.events,
        "workers": arguments.workers,
        "found": found,
        "load": load,
        "postgresql": version,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    text = render(result)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.write:
        write_between_markers(arguments.write, text, "slopes")


if __name__ == "__main__":
    main()
