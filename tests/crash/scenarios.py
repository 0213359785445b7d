"""What is crashed: the commands, where each begins, what may become of it, and how a point is tried.

A scenario begins in a copy of a *template*, a database that has got to some state. :func:`try_point` crashes its command at one point while a
writer and a reader go on, and then sees to it that everything that was promised holds.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from bystanders import Bystanders
from commands import Command
from parcels import (
    ParcelLost,
    ParcelMoved,
    ParcelPosted,
    actual_rows,
    codes_of,
    expected_rows,
    parcel,
    parcels,
)
from waiting import wait_until

from sequent_py import Event, Sequent
from sequent_py.testing.server import crash_server, create_database, drop_database, with_database
from sequent_py.view_schema.rebuild import ViewSchema

HISTORY = 60
GROUP_EVENTS = 40
"""Small enough that a pass over some hundred events has many groups."""

KILLS = ("coordinator", "backend", "worker", "server")
"""SIGKILL of the command, the end of one of its backends, SIGKILL of a worker (where there are any), a crash of the server."""


@dataclass(frozen=True)
class Scenario:
    """A command that is crashed."""

    name: str
    template: str
    arguments: tuple[str, ...]
    version: int
    """Of the code that runs it."""
    steps: Mapping[str, int]
    """At how many points of each named step."""
    serves: tuple[int, int]
    """The live version before the command and after it."""
    states: tuple[str | None, ...]
    """What a crash may leave, as ``status`` reports it when nobody is at work any more."""
    finish: tuple[tuple[str, int], ...] = ()
    """Commands that come after the command has been repeated, with the versions of their code."""
    uses_workers: bool = False
    """Its passes are replayed by processes of their own."""
    copies_itself: bool = False
    """Its workers are copies of it."""
    may_refuse: bool = False
    """It closes the gate."""

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "SEQUENT_WORKERS": "2" if self.uses_workers else "0",
            "SEQUENT_GROUP_TARGET_EVENTS": str(GROUP_EVENTS),
        }


PATIENT = ("--max-lag", "10")
"""How long writers wait is measured elsewhere; here a slow machine must not be refused."""

FIRST_BUILD = {
    "starting": 4,
    "planning": 2,
    "checking the table files": 4,
    "checking the events": 2,
    "creating the shadow tables": 6,
    "replaying": 12,
    # The orderings are checked meanwhile.
    "building indexes": 7,
    "analysing": 5,
}
CATCH_UP = {"starting": 2, "planning": 2, "checking the events": 1, "catching up": 12}

SCENARIOS = (
    Scenario(
        "online, first build",
        "live",
        ("migrate", "online"),
        2,
        FIRST_BUILD,
        (1, 1),
        ("live", "online_running", "online_done"),
        (("offline", 2),),
    ),
    Scenario(
        "online, first build, workers",
        "live",
        ("migrate", "online"),
        2,
        {"replaying": 6},
        (1, 1),
        ("live", "online_running", "online_done"),
        (("offline", 2),),
        uses_workers=True,
    ),
    Scenario(
        "online, first build, copied workers",
        "live",
        ("migrate", "online"),
        2,
        {"planning": 2, "creating the shadow tables": 2, "replaying": 6},
        (1, 1),
        ("live", "online_running", "online_done"),
        (("offline", 2),),
        uses_workers=True,
        copies_itself=True,
    ),
    Scenario(
        "online, catch-up",
        "built",
        ("migrate", "online"),
        2,
        CATCH_UP,
        (1, 1),
        ("online_done",),
        (("offline", 2),),
    ),
    Scenario(
        "offline",
        "built",
        ("migrate", "offline"),
        2,
        {
            "starting": 2,
            "checking": 3,
            "catching up": 5,
            "verifying": 3,
            "verifying > catching up": 2,
            "draining writers": 3,
            "replaying the last window": 8,
            "checking the last window": 4,
            "swapping": 16,
        },
        (1, 2),
        ("online_done", "live"),
        may_refuse=True,
    ),
    Scenario(
        "abort",
        "built",
        ("migrate", "abort"),
        2,
        {"starting": 14},
        (1, 1),
        ("online_done", "aborted"),
        (("online", 2), ("offline", 2)),
    ),
    Scenario(
        "golive",
        "built",
        ("migrate", "golive", *PATIENT),
        2,
        {
            "starting": 2,
            "checking": 3,
            "catching up": 5,
            "verifying": 3,
            "verifying > catching up": 2,
            "cutting over": 3,
            "cutting over > catching up": 20,
        },
        (1, 2),
        ("online_done", "live"),
    ),
    Scenario(
        "golive, workers",
        "built",
        ("migrate", "golive", *PATIENT, "--max-delta", "5"),
        2,
        {"catching up": 4},
        (1, 2),
        ("online_done", "live"),
        uses_workers=True,
    ),
    Scenario(
        "rollback",
        "promoted",
        ("migrate", "rollback", *PATIENT),
        1,
        {
            "starting": 2,
            "checking": 2,
            "catching up": 8,
            "verifying": 3,
            "analysing": 1,
            "cutting over": 2,
            "cutting over > catching up": 16,
        },
        (2, 1),
        ("live", "rolled_back"),
    ),
    Scenario(
        "rollback, workers",
        "promoted",
        ("migrate", "rollback", *PATIENT),
        1,
        {"catching up": 4},
        (2, 1),
        ("live", "rolled_back"),
        uses_workers=True,
    ),
    Scenario(
        "rollback, forth",
        "returned",
        ("migrate", "rollback", *PATIENT),
        2,
        {
            "starting": 2,
            "checking": 2,
            "catching up": 8,
            "verifying": 3,
            "analysing": 1,
            "cutting over": 2,
            "cutting over > catching up": 12,
        },
        (1, 2),
        ("rolled_back", "live"),
    ),
    Scenario(
        "prune",
        "promoted",
        ("migrate", "prune", "--keep", "0"),
        2,
        {"starting": 2, "dropping": 8},
        (2, 2),
        ("live",),
    ),
)
SCENARIOS = tuple(scenario for scenario in SCENARIOS if hasattr(ViewSchema, scenario.arguments[1]))
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@dataclass(frozen=True)
class Point:
    """Where, and how, a scenario's command is crashed."""

    scenario: str
    step: str
    number: int
    """Of the points in the step, from 0."""
    kill: str

    def __str__(self) -> str:
        return f"{self.scenario} / {self.step} / {self.number} / {self.kill}".replace(" ", "_")


def all_points() -> list[Point]:
    """Every point of the full matrix."""
    return [
        Point(scenario.name, step, number, kill)
        for scenario in SCENARIOS
        for kill in (KILLS if scenario.uses_workers else [kill for kill in KILLS if kill != "worker"])
        for step, count in scenario.steps.items()
        for number in range(count)
    ]


@dataclass
class Result:
    """What became of a crash."""

    at: str = ""
    """The statement before which it happened; empty when the command never got there."""
    exit_code: int = 0
    state: str | None = None
    live: int = 0


class Matrix:
    """A server of its own, the templates on it, and how far each command's steps go there."""

    def __init__(self, server_url: str, directory: Path) -> None:
        self.server_url = server_url
        self._directory = directory
        self._templates: dict[str, str] = {}
        self._traces: dict[str, dict[str, list[str]]] = {}

    # -- templates

    def template(self, name: str) -> str:
        """Return the name of a database to be copied."""
        if name not in self._templates:
            make = _TEMPLATES[name]
            origin = make.origin and self.template(make.origin)
            database = f"crash_{name}_{uuid.uuid4().hex[:8]}"
            create_database(self.server_url, database, template=origin)
            make.fill(with_database(self.server_url, database))
            self._templates[name] = database
        return self._templates[name]

    @contextmanager
    def copy(self, name: str) -> Iterator[str]:
        """Yield the URL of a copy of a template."""
        database = f"crash_{uuid.uuid4().hex[:12]}"
        create_database(self.server_url, database, template=self.template(name))
        # A sequence that is copied believes that the values which it has ready are in the WAL, as they are for the original. Until a
        # checkpoint has made it log anew, PostgreSQL would give them out again after a crash.
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        try:
            yield with_database(self.server_url, database)
        finally:
            drop_database(self.server_url, database)

    # -- points

    def trace(self, scenario: Scenario) -> dict[str, list[str]]:
        """Return what the command sends, by step, when nothing happens to it."""
        if scenario.name not in self._traces:
            directory = self._directory / uuid.uuid4().hex
            with self.copy(scenario.template) as url:
                command = self.command(scenario, url, directory, {"role": "coordinator", "action": "record"})
                assert command.run() == 0, command.output
            found: dict[str, list[str]] = {}
            for line in (directory / "trace").read_text(encoding="utf-8").splitlines():
                step, _, text = json.loads(line)
                found.setdefault(step, []).append(text)
            self._traces[scenario.name] = found
        return self._traces[scenario.name]

    def command(
        self, scenario: Scenario, url: str, directory: Path, crash_point: Mapping[str, Any] | None = None
    ) -> Command:
        """Make the scenario's command."""
        if crash_point is not None:
            directory.mkdir(parents=True, exist_ok=True)
            crash_point = {**crash_point, "directory": str(directory)}
            if scenario.uses_workers:
                crash_point["inline_events"] = 0
        return Command(
            scenario.arguments,
            directory,
            url,
            scenario.version,
            crash_point,
            dict(scenario.settings),
            scenario.copies_itself,
        )

    def crash_point(self, scenario: Scenario, point: Point) -> dict[str, Any]:
        """Choose the statement: a step's points are spread over what it sends, the first and the last among them."""
        seed = f"{point}"
        if point.kill == "worker" and point.number % 2:
            # In the worker itself, at one of the first statements that it sends: connecting, claiming, copying, committing.
            return {
                "role": "worker",
                "step": "worker",
                "index": 8 + 3 * point.number,
                "action": "kill",
                "seed": seed,
            }
        statements = self.trace(scenario).get(point.step)
        assert statements, f"{scenario.name} no longer has a step «{point.step}»"
        candidates = [index for index, text in enumerate(statements) if is_telling(text)]
        candidates = candidates or list(range(len(statements)))
        index = candidates[
            round(point.number * (len(candidates) - 1) / max(scenario.steps[point.step] - 1, 1))
        ]
        action = {"coordinator": "kill", "backend": "terminate", "worker": "kill_worker", "server": "pause"}[
            point.kill
        ]
        if action == "kill" and "exit" in statements[index]:
            action = "kill_inside"  # a COMMIT, of which nobody knows whether it was in time
        return {"role": "coordinator", "step": point.step, "index": index, "action": action, "seed": seed}

    def try_point(self, point: Point) -> Result:
        """Crash there, and check what was promised."""
        scenario = BY_NAME[point.scenario]
        plan = self.crash_point(scenario, point)
        result = Result()
        directory = self._directory / uuid.uuid4().hex
        with self.copy(scenario.template) as url:
            self._crash_and_repeat(scenario, point, plan, url, directory, result)
            live = scenario.serves[1]
            check_equal(url, live)
            for command, live in scenario.finish:
                run_here(url, live, command)
            check_equal(url, live)
            # Whatever the crash left behind must not be in the way of what comes next.
            following = max(*scenario.serves, live) + 1
            for command in ("online", "offline"):
                run_here(url, following, command)
            check_equal(url, following)
            check_no_leftovers(url)
        shutil.rmtree(directory, ignore_errors=True)
        return result

    def _crash_and_repeat(
        self,
        scenario: Scenario,
        point: Point,
        plan: Mapping[str, Any],
        url: str,
        directory: Path,
        result: Result,
    ) -> None:
        before, after = scenario.serves
        newest = max(*scenario.serves, scenario.version)
        with Bystanders(
            url,
            sorted({before, after, newest}),
            may_be_refused=scenario.may_refuse,
            may_be_cut_off=point.kill == "server",
        ) as bystanders:
            bystanders.reader.codes = {codes_of(before), codes_of(after)}
            command = self.command(scenario, url, directory, plan).start()
            reached = directory / "reached"
            if point.kill == "server":
                wait_until(lambda: reached.exists() or command.has_ended)
                if not command.has_ended:
                    crash_server(self.server_url)
                    (directory / "go").touch()
            result.exit_code = command.wait()
            result.at = reached.read_text() if reached.exists() else ""
            if (workers := directory / "workers").exists():
                kind = "copy" if scenario.copies_itself else "new"
                assert set(json.loads(workers.read_text())) == {kind}
            with parcels(url, newest) as app:
                wait_until(lambda: app.view_schema.status().holder is None, 20)
                status = app.view_schema.status()
                result.state, result.live = status.state, status.live_version
                assert status.state in scenario.states, status
                assert status.live_version in scenario.serves, status
                assert status.gate is not None
                assert not status.gate.is_closed
            # Readers read, writers write: the one version or the other serves.
            bystanders.see_progress()
            again = self.command(scenario, url, directory / "again")
            code = again.run()
            is_aborted = scenario.name == "abort" and result.state == "aborted"
            assert code == (1 if is_aborted else 0), again.output
            bystanders.see_progress()


def is_telling(text: str) -> bool:
    """Whether a crash before the statement can differ from one before its neighbour: it writes, locks, or takes a snapshot."""
    words = text.upper()
    if words.startswith(("SELECT", "SHOW", "SET")):
        return any(word in words for word in ("ADVISORY", "SNAPSHOT", "FOR UPDATE", "TERMINATE"))
    return "PG_TEMP" not in words and not words.startswith("WITH")


def run_here(url: str, version: int, command: str) -> None:
    """Run a command in this process."""
    with parcels(url, version, group_target_events=GROUP_EVENTS) as app:
        getattr(app.view_schema, command)()


def check_equal(url: str, version: int) -> None:
    """The tables that serve are the naive fold of the log."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        actual, expected = actual_rows(connection), expected_rows(connection, version)
    for table, rows in expected.items():
        missing, surplus = set(rows) - set(actual[table]), set(actual[table]) - set(rows)
        assert not missing and not surplus, (  # noqa: PT018
            f"{table} of version {version} and the fold of the log differ: missing {sorted(missing)}, surplus {sorted(surplus)}"
        )
    assert actual == expected, "a row is there twice"


def check_no_leftovers(url: str) -> None:
    """Every relation of the view schema is recorded, every record has its relation, and nobody holds anything."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = {
            name
            for (name,) in connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'view_schema'"
            )
        }
        recorded = dict(
            connection.execute("SELECT physical_name, role FROM sequent_schema.view_tables").fetchall()
        )
        assert found == set(recorded), (found, recorded)
        assert "shadow" not in recorded.values(), recorded
        row = connection.execute(
            "SELECT (SELECT count(*) FROM sequent_schema.view_migrations WHERE finished_at IS NULL),"
            " (SELECT count(*) FROM sequent_schema.replay_groups WHERE done_at IS NULL),"
            " (SELECT count(*) FROM sequent_schema.gate WHERE maintenance OR closed_by_migration IS NOT NULL),"
            " (SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            "  WHERE d.datname = current_database() AND l.locktype = 'advisory'),"
            " (SELECT count(*) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN"
            "  ('information_schema', 'public', 'view_schema', 'sequent_schema'))"
        ).fetchone()
        assert row == (0, 0, 0, 0, 0), row


# -- templates


@dataclass(frozen=True)
class _Template:
    origin: str | None
    fill: Callable[[str], None]


def history() -> Iterator[tuple[Any, Event, None]]:
    """Some parcels, a few of them lost."""
    for number in range(HISTORY):
        aggregate = parcel(number)
        yield aggregate, ParcelPosted(city=f"city {number}"), None
        for stop in range(number % 6):
            yield aggregate, ParcelMoved(cents=10 * number + stop), None
        if number % 9 == 8:
            yield aggregate, ParcelLost(), None


def append_some(app: Sequent, first: int) -> None:
    """What comes in between two phases."""
    for number in range(15):
        app.store.append(parcel(first + number), [ParcelPosted(city="new"), ParcelMoved(cents=number)])
        if number % 9 != 8:
            app.store.append(parcel(number), [ParcelMoved(cents=1)])


def _live(url: str) -> None:
    with parcels(url, 1) as app:
        app.install()
        app.store.import_history(history())
        app.view_schema.online()
        app.view_schema.offline()


def _built(url: str) -> None:
    with parcels(url, 2) as app:
        app.view_schema.online()
        append_some(app, 100)


def _promoted(url: str) -> None:
    with parcels(url, 2) as app:
        app.view_schema.golive(max_lag_seconds=10)
        append_some(app, 200)


def _returned(url: str) -> None:
    with parcels(url, 1) as app:
        app.view_schema.rollback(max_lag_seconds=10)
        append_some(app, 300)


_TEMPLATES = {
    "live": _Template(None, _live),
    "built": _Template("live", _built),
    "promoted": _Template("built", _promoted),
    "returned": _Template("promoted", _returned),
}
