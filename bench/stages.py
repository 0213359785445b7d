"""A stage: a workload of one size in a database of its own, and the contenders that take turns in it.

All stages are prepared before the first round, and every round goes through all of them: what else the machine does meanwhile falls on every size and every contender.
At the end each stage's tables are promoted and proved: ``verify --all``, and equality with plain SQL over the log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec

import psycopg

from bench.contenders import Contender, ruby_sequent, schema_differences
from bench.contenders.ours import Ours, application, has_declared
from bench.contenders.plain_sql import Copy, Insert
from bench.measure import Cost, Meter
from bench.server import say
from bench.workloads import Workload
from sequent_py import Sequent
from sequent_py.testing.server import fresh_database


class TablesDiffer(Exception):
    """A contender's tables are not what the events say: its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    workers: tuple[int, ...] = (1, 2, 4)
    rounds: int = 3
    package_events: tuple[int, ...] = (50_000, 1_000_000)
    """The stores that the packages' bulk paths replay: where start-up counts, and where it does not."""
    per_event_events: int = 5_000
    """What the packages replay event by event; these run in one thread and one transaction each, so that the rate does not depend on it."""


@dataclass(slots=True)
class Stage:
    """A loaded store."""

    name: str
    url: str
    workload: Workload
    events: int
    app: Sequent
    contenders: list[Contender]
    is_for_packages: bool = False
    """Whether it is there for the packages alone: what it tells of ours is told by others."""
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    differences: dict[str, int | None] = field(default_factory=dict)
    proof: str = ""


def has_packages() -> bool:
    """Whether the packages of the extra ``bench`` are there."""
    return all(find_spec(name) is not None for name in ("eventsourcing", "eventsource", "asyncpg"))


def prepare(
    stack: ExitStack,
    server_url: str,
    workload: Workload,
    events: int,
    sizes: Sizes,
    *,
    with_packages: bool = False,
    is_for_packages: bool = False,
) -> Stage:
    """Load a store of that size, and set its contenders up; the stack drops it."""
    name = f"{workload.name}, {events:,} events{', beside packages' if is_for_packages else ''}"
    database = f"bench_{os.getpid()}_{workload.name}_{events}{'_packages' if is_for_packages else ''}"
    url = stack.enter_context(fresh_database(server_url, database))
    app = stack.enter_context(application(url, workload))
    app.install()
    app.store.import_history(workload.history(events))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE sequent_schema.events")
        connection.execute("CHECKPOINT")
    contenders = _contenders(url, workload, events, sizes, with_packages=with_packages)
    for contender in contenders:
        contender.prepare()
    say(f"{name}: loaded")
    return Stage(name, url, workload, events, app, contenders, is_for_packages)


def _contenders(
    url: str, workload: Workload, events: int, sizes: Sizes, *, with_packages: bool
) -> list[Contender]:
    found: list[Contender] = [Ours(url, workload, events, count) for count in sizes.workers]
    if has_declared(workload):
        found += [Ours(url, workload, events, count, is_declared=True) for count in sizes.workers]
    found += [Insert(url, workload, events), Copy(url, workload, events)]
    if with_packages and ruby_sequent.is_there():
        found.append(ruby_sequent.RubySequent(url, workload, events))
    if with_packages:
        from bench.contenders import eventsource_package, eventsourcing_package

        few = min(events, sizes.per_event_events)
        for package in (eventsourcing_package, eventsource_package):
            found += [package.Bulk(url, workload, events), package.PerEvent(url, workload, few)]
    return found


def run_round(stage: Stage, meter: Meter, *, is_last: bool) -> None:
    """Let every contender rebuild the tables once; compare them with plain SQL in the last round.

    Raises
    ------
    TablesDiffer
        They are not equal.
    """
    for contender in stage.contenders:
        contender.reset()
        with meter.measuring() as result:
            result.cpu_seconds_before = contender.cpu_seconds_before
            result.rows_seconds = contender.run()
        stage.costs.setdefault(contender.name, []).append(result.cost)
        if is_last:
            differences = stage.differences[contender.name] = contender.differences()
            if differences:
                raise TablesDiffer(
                    f"{stage.name}: {contender.name} has {differences} rows that differ from plain SQL."
                )
        contender.discard()


def prove(stage: Stage, workers: int, tell: Callable[[str], None] = say) -> None:
    """Promote our tables, and compare them with the log twice: ``verify --all``, and plain SQL.

    Raises
    ------
    TablesDiffer
        They are not equal.
    """
    stage.app.view_schema.online(workers=workers)
    stage.app.view_schema.offline(workers=workers)
    report = stage.app.view_schema.verify(is_all=True, workers=workers, is_once=True)
    rate = report.events / report.seconds
    with psycopg.connect(stage.url, autocommit=True) as connection:
        differences = schema_differences(connection, stage.workload, "view_schema")
    if differences or not (report.is_correct and report.is_complete):
        raise TablesDiffer(f"{stage.name}: {differences} rows differ from plain SQL; verify --all: {report}")
    stage.proof = f"verify --all of {report.events:,} events ({report.seconds:.0f} s, {rate:,.0f} events/s) and plain SQL: no row differs"
    tell(f"{stage.name}: {stage.proof}")


def run_rounds(stages: Sequence[Stage], meter: Meter, rounds: int) -> None:
    """Go round through all stages."""
    for number in range(rounds):
        for stage in stages:
            run_round(stage, meter, is_last=number == rounds - 1)
            say(f"round {number + 1} of {rounds}: {stage.name}")
