"""Time a rebuild of the bank's two tables by handlers and by declared projections, interleaved in one run.

    python bench/declared.py [--events 1000000] [--workers 1 2] [--rounds 3]

Both run ``sequent migrate online`` and throw the tables away; ``replay`` is the replay alone. At the end the declared tables are promoted, verified
against the handlers' fold of the log (``verify --all``), and compared with plain SQL. A server is started for the run unless SEQUENT_DATABASE_URL names one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import psycopg
from replay import database, online, say

from sequent_py import Config, Sequent
from sequent_py.demo.bank_check import check_bank
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory

CONTENDERS = {
    "handlers": "bank.migrations:BankMigrations",
    "declared": "declared_bank:DeclaredBankMigrations",
}


def measure(events: int, workers: list[int], rounds: int) -> dict[tuple[str, int, str], float]:
    """Load the events once and run both contenders ``rounds`` times; return medians by contender, workers and figure."""
    directory = example_directory("bank")
    sys.path.insert(0, str(directory))
    import bank.events

    figures: dict[tuple[str, int, str], list[float]] = {}
    with database() as url:
        apps = {
            name: Sequent(
                Config(database_url=url, migrations_class=migrations, sql_directory=directory / "sql")
            )
            for name, migrations in CONTENDERS.items()
        }
        apps["handlers"].install()
        apps["handlers"].store.import_history(bank_history(bank.events, events))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE sequent_schema.events")
            connection.execute("CHECKPOINT")
        for number in range(rounds):
            for count in workers:
                for name, app in apps.items():
                    for figure, value in online(app, count).items():
                        figures.setdefault((name, count, figure), []).append(value)
            say(f"round {number + 1} of {rounds} done")
        medians = {key: statistics.median(values) for key, values in figures.items()}
        say(table(events, workers, medians))
        say("comparing the declared tables with the log")
        prove(apps["declared"], url, max(workers))
        for app in apps.values():
            app.close()
    return medians


def prove(app: Sequent, url: str, workers: int) -> None:
    """Promote the declared tables and compare them with the log."""
    app.view_schema.online(workers=workers)
    app.view_schema.offline(workers=workers)
    with psycopg.connect(url, autocommit=True) as connection:
        differences = sum(
            item.differences for item in check_bank(connection, "sequent_schema", "view_schema")
        )
    if differences or not app.view_schema.verify(is_all=True, workers=workers).is_correct:
        raise SystemExit("the declared tables differ from the events")


def table(events: int, workers: list[int], medians: dict[tuple[str, int, str], float]) -> str:
    """Render the medians as Markdown."""
    lines = [
        "| workers | what | handlers, s | declared, s | handlers, events/s | declared, events/s | ratio |"
    ]
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for count in workers:
        for figure in ("online", "replay"):
            slow, fast = (medians[name, count, figure] for name in CONTENDERS)
            lines.append(
                f"| {count} | {figure} | {slow:.2f} | {fast:.2f} | {events / slow:,.0f} | {events / fast:,.0f} | {slow / fast:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    medians = measure(arguments.events, arguments.workers, arguments.rounds)
    head = f"{arguments.events:,} bank events, {os.cpu_count()} cores, medians of {arguments.rounds} interleaved rounds."
    sys.stdout.write(f"{head}\n\n{table(arguments.events, arguments.workers, medians)}\n")


if __name__ == "__main__":
    main()
