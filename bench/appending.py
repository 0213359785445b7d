"""Appends and loads, beside what one would write by hand and beside the packages' appends.

Everything is measured in turn, round after round, in a process of its own connections; each figure is the median of its rounds. All of them commit at the same durability, that of
the server. ``bare`` is an INSERT of one event into a table with the columns that an event store
written by hand has, and a key, and a COMMIT: in three round trips, by the driver's cursors. Ours has ``xact_id`` and two more indexes, and is partitioned; in a table with those columns and
indexes the bare INSERT is 0 to 3 % slower. Single appends are measured twice: where a commit waits for nothing, so
that what we add shows best, and where it waits for the disk, as an application's does.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from bench.contenders.ours import application
from bench.server import say
from bench.workloads.bank import BANK, bank_events
from sequent_py import Sequent
from sequent_py.testing.server import fresh_database

ACCOUNTS = 50
BATCH_EVENTS = 100
APPENDERS = 4

BARE_TABLE = """
    CREATE TABLE bare_events (
        position bigserial NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        aggregate_id uuid NOT NULL,
        sequence_number integer NOT NULL,
        event_type_id integer NOT NULL,
        payload jsonb NOT NULL,
        metadata jsonb NOT NULL DEFAULT '{}',
        PRIMARY KEY (aggregate_id, sequence_number)
    )
"""
_INSERT = (
    "INSERT INTO bare_events (aggregate_id, sequence_number, event_type_id, payload) VALUES (%s, %s, 1, %s)"
)
_SELECT = (
    "SELECT aggregate_id, sequence_number, created_at, position, metadata, event_type_id, payload"
    " FROM sequent_schema.events WHERE aggregate_id = %s ORDER BY sequence_number"
)


@dataclass(slots=True)
class Case:
    """Something that is done as often as is asked for."""

    name: str
    do: Callable[[int], object]
    events: int
    """How many events one measurement appends or loads."""
    unit: str = "events/s"
    of: str | None = None
    """The case that it is compared with."""
    values: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Do it once, and keep the rate, or the milliseconds."""
        started = time.perf_counter()
        self.do(self.events)
        seconds = time.perf_counter() - started
        self.values.append(self.events / seconds if self.unit == "events/s" else seconds / self.events * 1e3)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def measure_appends(
    server_url: str, events: int, rounds: int, *, with_packages: bool
) -> list[dict[str, Any]]:
    """Measure everything ``rounds`` times in turn; ``events`` single appends at a time."""
    with ExitStack() as stack:
        quiet, live = _applications(stack, server_url)
        cases = [
            *_single_cases(stack, quiet, live, events),
            *(_package_cases(stack, quiet, events) if with_packages else ()),
            *_batch_cases(stack, quiet, events),
            *_crowd_cases(stack, quiet, events),
            *_load_cases(stack, quiet, events),
        ]
        return _measured(cases, rounds, "appends")


def measure_durable_appends(server_url: str, events: int, rounds: int) -> list[dict[str, Any]]:
    """Measure single appends alone, on a server whose commits wait for its disk."""
    with ExitStack() as stack:
        quiet, live = _applications(stack, server_url)
        return _measured(_single_cases(stack, quiet, live, events, ", durable"), rounds, "durable appends")


def _measured(cases: Sequence[Case], rounds: int, what: str) -> list[dict[str, Any]]:
    for case in cases:
        # Statements get prepared, connections opened.
        case.do(max(case.events // 10, 1))
    for number in range(rounds):
        for case in cases:
            case.measure()
        say(f"{what}, round {number + 1} of {rounds}")
    medians = {case.name: case.median for case in cases}
    return [
        {
            "name": case.name,
            "unit": case.unit,
            "median": case.median,
            "all": case.values,
            "of": case.of,
            "ratio": case.median / medians[case.of] if case.of else None,
        }
        for case in cases
    ]


def _applications(stack: ExitStack, server_url: str) -> tuple[Sequent, Sequent]:
    """Return the bank with nothing live, beside the table of bare INSERTs, and the bank with its two projections live."""
    quiet_url = stack.enter_context(fresh_database(server_url, f"bench_{os.getpid()}_appends"))
    live_url = stack.enter_context(fresh_database(server_url, f"bench_{os.getpid()}_appends_live"))
    quiet = stack.enter_context(application(quiet_url, BANK))
    live = stack.enter_context(application(live_url, BANK))
    for app in (quiet, live):
        app.install()
    live.store.append(uuid4(), [bank_events().AccountOpened(owner="First")])
    live.view_schema.online(workers=0)
    live.view_schema.offline(workers=0)
    with psycopg.connect(quiet_url, autocommit=True) as connection:
        connection.execute(BARE_TABLE)
    return quiet, live


def _single_cases(
    stack: ExitStack, quiet: Sequent, live: Sequent, events: int, durability: str = ""
) -> list[Case]:
    bare = f"bare INSERT, COMMIT{durability}"
    return [
        Case(bare, stack.enter_context(_bare(quiet.database_url)), events),
        Case(f"append{durability}", _appender(quiet), events, of=bare),
        Case(f"append, two live projections{durability}", _appender(live), events, of=bare),
    ]


def _package_cases(stack: ExitStack, quiet: Sequent, events: int) -> Iterator[Case]:
    from bench.contenders import eventsource_package, eventsourcing_package

    for name, package in (
        ("eventsourcing: save", eventsourcing_package),
        ("eventsource-py: append", eventsource_package),
    ):
        do, close = package.appender(quiet.database_url)
        stack.callback(close)
        yield Case(name, do, events, of="bare INSERT, COMMIT")


def _batch_cases(stack: ExitStack, quiet: Sequent, events: int) -> list[Case]:
    copy = f"COPY of {BATCH_EVENTS}, COMMIT"
    return [
        Case(copy, stack.enter_context(_copies(quiet.database_url)), events * 5),
        Case(f"append of {BATCH_EVENTS}", _batches(quiet), events * 5, of=copy),
    ]


def _crowd_cases(stack: ExitStack, quiet: Sequent, events: int) -> list[Case]:
    """Return what shows whether appenders wait for each other."""
    crowd = f"bare INSERT, COMMIT, {APPENDERS} threads"
    bare = [stack.enter_context(_bare(quiet.database_url)) for _ in range(APPENDERS)]
    ours = [_appender(quiet) for _ in range(APPENDERS)]
    alone, few = "append of 1 alone", max(events // 10, 1)
    return [
        Case(crowd, _crowd(bare), events),
        Case(f"append, {APPENDERS} threads", _crowd(ours), events, of=crowd),
        Case(alone, _appender(quiet), few, "ms"),
        Case(
            "append of 1 beside an open transaction that appended elsewhere",
            stack.enter_context(_beside_open_transaction(quiet)),
            few,
            "ms",
            of=alone,
        ),
    ]


def _load_cases(stack: ExitStack, quiet: Sequent, events: int) -> list[Case]:
    account = uuid4()
    made = [bank_events().AccountOpened(owner="Long")]
    made += [bank_events().MoneyDeposited(amount=5) for _ in range(BATCH_EVENTS - 1)]
    quiet.store.append(account, made, 0)
    select, loads = f"SELECT of {BATCH_EVENTS} events", max(events // 5, 1)
    return [
        Case(select, stack.enter_context(_selects(quiet.database_url, account)), loads, "ms"),
        Case(
            f"load of {BATCH_EVENTS} events",
            lambda count: [quiet.store.load(account) for _ in range(count)],
            loads,
            "ms",
            of=select,
        ),
    ]


@contextmanager
def _bare(url: str) -> Iterator[Callable[[int], None]]:
    accounts = [uuid4() for _ in range(ACCOUNTS)]
    versions = dict.fromkeys(accounts, 0)
    with psycopg.connect(url) as connection:

        def insert(count: int) -> None:
            for number in range(count):
                account = accounts[number % ACCOUNTS]
                versions[account] += 1
                connection.execute(_INSERT, (account, versions[account], Jsonb({"amount": 5})))
                connection.commit()

        yield insert


@contextmanager
def _copies(url: str) -> Iterator[Callable[[int], None]]:
    payload = json.dumps({"amount": 5})
    with psycopg.connect(url) as connection:

        def copy(count: int) -> None:
            for _ in range(count // BATCH_EVENTS):
                account = uuid4()
                with connection.cursor().copy(
                    "COPY bare_events (aggregate_id, sequence_number, event_type_id, payload) FROM STDIN"
                ) as rows:
                    for number in range(1, BATCH_EVENTS + 1):
                        rows.write_row((account, number, 1, payload))
                connection.commit()

        yield copy


@contextmanager
def _selects(url: str, account: UUID) -> Iterator[Callable[[int], None]]:
    with psycopg.connect(url, autocommit=True) as connection:

        def select(count: int) -> None:
            for _ in range(count):
                assert len(connection.execute(_SELECT, (account,)).fetchall()) == BATCH_EVENTS

        yield select


def _appender(app: Sequent) -> Callable[[int], None]:
    events = bank_events()
    accounts = [uuid4() for _ in range(ACCOUNTS)]
    for account in accounts:
        app.store.append(account, [events.AccountOpened(owner="Ann")], 0)
    versions = dict.fromkeys(accounts, 1)

    def append(count: int) -> None:
        for number in range(count):
            account = accounts[number % ACCOUNTS]
            app.store.append(account, [events.MoneyDeposited(amount=5)], versions[account])
            versions[account] += 1

    return append


def _batches(app: Sequent) -> Callable[[int], None]:
    events = bank_events()

    def append(count: int) -> None:
        for _ in range(count // BATCH_EVENTS):
            app.store.append(uuid4(), [events.MoneyDeposited(amount=5) for _ in range(BATCH_EVENTS)], 0)

    return append


def _crowd(members: list[Callable[[int], None]]) -> Callable[[int], None]:
    def run(count: int) -> None:
        failures: list[BaseException] = []

        def one(member: Callable[[int], None]) -> None:
            try:
                member(max(count // len(members), 1))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=one, args=(member,)) for member in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    return run


@contextmanager
def _beside_open_transaction(app: Sequent) -> Iterator[Callable[[int], None]]:
    append = _appender(app)
    events = bank_events()

    def beside(count: int) -> None:
        with app.engine.connect() as connection, connection.begin() as transaction:
            app.store.append(uuid4(), [events.AccountOpened(owner="Slow")], 0, connection=connection)
            append(count)
            transaction.rollback()

    yield beside
