"""This library: ``sequent migrate online`` as a whole, with its worker processes; by handlers, or by declared projections where there are any."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import psycopg
from psycopg import sql

from bench.contenders import Contender, rows_that_differ
from bench.contenders.online_process import waiting_online
from bench.contenders.waiting_process import WaitingProcess
from bench.workloads import Workload
from sequent_py import Config, Sequent
from sequent_py.progress import ReplayProgress

_REPLAY_SECONDS = """
    SELECT extract(epoch FROM max(done_at) - min(done_at - make_interval(secs => seconds)))
    FROM sequent_schema.replay_groups
    WHERE (migration_id, pass) = (
        SELECT migration_id, pass FROM sequent_schema.replay_groups WHERE events > 0 ORDER BY migration_id DESC, pass DESC LIMIT 1
    )
"""


def replay_seconds(url: str) -> float:
    """Return how long the newest pass with events took, from its first group's claim to the last one's commit."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(_REPLAY_SECONDS).fetchone()
    assert row is not None
    return float(row[0])


class LastProgress:
    """A progress that keeps the last thing it was told of the replay."""

    def __init__(self) -> None:
        self.replayed: ReplayProgress | None = None

    def step(self, name: str) -> None:
        pass

    def replay(self, progress: ReplayProgress) -> None:
        self.replayed = progress

    def note(self, text: str) -> None:
        pass


def application(url: str, workload: Workload, *, is_declared: bool = False) -> Sequent:
    """Return the workload's application on that database."""
    return Sequent(
        Config(
            database_url=url,
            migrations_class=_migrations(workload, is_declared),
            sql_directory=workload.sql_directory,
        )
    )


def online_process(
    url: str, workload: Workload, workers: int, *, is_declared: bool = False
) -> WaitingProcess:
    """Return a process that is ready to run ``online`` for that application."""
    return waiting_online(url, _migrations(workload, is_declared), workload.sql_directory, workers)


def _migrations(workload: Workload, is_declared: bool) -> str:
    migrations = workload.declared if is_declared else workload.migrations
    assert migrations is not None
    return migrations


def has_declared(workload: Workload) -> bool:
    """Whether the workload's tables can be declared: the library can, and the workload does."""
    return (
        workload.declared is not None
        and find_spec("sequent_py.declared") is not None
        and find_spec(workload.declared.partition(":")[0]) is not None
    )


class Ours(Contender):
    """One command, as an operator runs it."""

    def __init__(
        self, url: str, workload: Workload, events: int, workers: int, *, is_declared: bool = False
    ) -> None:
        self.name = f"ours{', declared' if is_declared else ''}, {workers} worker{'s' if workers > 1 else ''}"
        self.events = events
        self._url, self._workload, self._workers = url, workload, workers
        self._is_declared = is_declared
        self._app = application(url, workload, is_declared=is_declared)

    def reset(self) -> None:
        self._process = online_process(
            self._url, self._workload, self._workers, is_declared=self._is_declared
        )
        self.cpu_seconds_before = self._process.cpu_seconds_before

    def run(self) -> float | None:
        self._process.run()
        return replay_seconds(self._url)

    def differences(self) -> int | None:
        version = _version_of(self._workload)
        with psycopg.connect(self._url, autocommit=True) as connection:
            return sum(
                rows_that_differ(
                    connection,
                    table,
                    sql.Identifier("view_schema", f"{table.name}_{version}"),
                    self.events,
                )
                for table in self._workload.tables
            )

    def discard(self) -> None:
        self._app.view_schema.abort()


def _version_of(workload: Workload) -> int:
    module, _, name = workload.migrations.partition(":")
    return int(getattr(importlib.import_module(module), name).version)
