"""Workers that start before there is a task. No server: they never come to connect."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sequent_py.replay.pools import EarlyWorkers, LocalPool, WorkerExit
from sequent_py.replay.task import EarlyStart, ReplayTask

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1"


@pytest.fixture
def code(tmp_path: Path) -> EarlyStart:
    """An application that notes who imports it."""
    (tmp_path / "noting_app.py").write_text(
        "import os, pathlib\n"
        "from sequent_py import Migrations\n"
        "pathlib.Path(__file__).with_name(f'imported_by_{os.getpid()}').touch()\n"
        "class NotingMigrations(Migrations):\n"
        "    version = 1\n"
        "    versions = {1: []}\n"
    )
    return EarlyStart("noting_app:NotingMigrations", (str(tmp_path),))


def task(code: EarlyStart, migrations_class: str | None = None) -> ReplayTask:
    return ReplayTask(
        database_url=NOWHERE,
        event_store_schema="sequent_schema",
        view_schema="view_schema",
        migrations_class=migrations_class or code.import_early,
        sys_path=code.sys_path,
        migration_id=1,
        epoch=1,
        projectors=(),
        physical_tables={},
        max_rows_in_memory=1,
    )


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def importers(code: EarlyStart) -> list[int]:
    return [int(path.name.rpartition("_")[2]) for path in Path(code.sys_path[0]).glob("imported_by_*")]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ended(pool: LocalPool) -> WorkerExit:
    found: list[WorkerExit] = []
    until(lambda: found.extend(pool.collect()) or found)
    return found[0]


def test_they_import_the_application_before_there_is_a_task(code: EarlyStart) -> None:
    with EarlyWorkers(code, 2):
        until(lambda: len(importers(code)) == 2)


def test_those_that_nobody_took_leave_when_the_command_ends(code: EarlyStart) -> None:
    with EarlyWorkers(code, 2):
        until(lambda: len(importers(code)) == 2)
        pids = importers(code)
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))


def test_a_pool_takes_them_before_it_starts_others(code: EarlyStart) -> None:
    with EarlyWorkers(code, 1) as early, early(task(code)) as pool:
        until(lambda: importers(code))
        pool.start(1)
        early_pid = importers(code)[0]
        # Neither reaches a server.
        pool.start(1)
        assert ended(pool).pid == early_pid
        pool.start(1)
        assert ended(pool).pid != early_pid


def test_one_that_was_killed_meanwhile_is_not_taken(code: EarlyStart) -> None:
    with EarlyWorkers(code, 1) as early, early(task(code)) as pool:
        until(lambda: importers(code))
        os.kill(killed := importers(code)[0], signal.SIGKILL)
        until(lambda: not is_running(killed) or _is_zombie(killed))
        pool.start(1)
        found = ended(pool)
        assert found.pid != killed
        assert found.error is not None


def test_an_import_that_fails_early_is_reported_by_the_task(code: EarlyStart) -> None:
    broken = EarlyStart("not_there:Migrations", code.sys_path)
    with EarlyWorkers(broken, 1) as early, early(task(code, "not_there:Migrations")) as pool:
        pool.start(1)
        found = ended(pool)
        assert found.error is not None
        assert found.error["type"] == "ConfigurationError"
        assert "not_there" in found.error["message"]


def _is_zombie(pid: int) -> bool:
    if sys.platform != "linux":
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
