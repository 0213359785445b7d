"""View migrations that are interrupted, killed, or run twice at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory

import psutil
import pytest
from library_project import IMPORT, PACKAGE_PARENT, VERSION_1, Library, eventually
from stores import Clones

BOOKS = 40
LENDINGS = 300
EVENTS = BOOKS * (2 * LENDINGS + 2)
"""More than a replay does without starting worker processes."""


@pytest.fixture
def shelves(tmp_path: Path, clones: Clones) -> Iterator[Library]:
    """A library with forty books that were much read, and nothing migrated."""
    with clones.fresh(with_shelves) as url:
        library = Library(tmp_path, url)
        library.write(VERSION_1)
        yield library


def with_shelves(database_url: str) -> None:
    with TemporaryDirectory() as directory:
        library = Library(Path(directory), database_url)
        library.write(VERSION_1)
        library.sequent("init")
        library.python(IMPORT, str(BOOKS), str(LENDINGS))


@contextmanager
def held_online(library: Library, *, workers: int = 2) -> Iterator[Popen[str]]:
    """Start online, and hold its workers once they have finished some groups and not all; leave no process behind."""
    library.pace("slow")
    process = library.start("migrate", "online", "--workers", str(workers), "--group-events", "1200")
    try:

        def has_rows() -> bool:
            assert process.poll() is None, process.communicate()
            ((exists,),) = library.query("SELECT to_regclass('view_schema.book_records_1') IS NOT NULL")
            # A group's rows become visible together with its being done.
            return exists and bool(library.query("SELECT 1 FROM view_schema.book_records_1 LIMIT 1"))

        eventually(has_rows)
        library.pace("hold")
        yield process
    finally:
        library.pace(None)
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(library: Library, process: Popen[str]) -> None:
    """Let a held online go on, and see it succeed."""
    library.pace(None)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr


def assert_complete(library: Library) -> None:
    """Go on where the interrupted command stopped, and compare the result with the events."""
    library.pace(None)
    resumed = library.json("migrate", "online", "--workers", "2")
    assert resumed["is_resumed"] is True
    assert 0 < resumed["events"] < EVENTS
    library.sequent("migrate", "offline")
    assert_all_books(library)


def assert_all_books(library: Library) -> None:
    """Compare the live table with what the events say."""
    assert library.query("SELECT title, reader FROM view_schema.book_records ORDER BY title") == [
        (f"Volume {number:03}", "Bob") for number in range(BOOKS)
    ]


def test_a_killed_coordinator_is_followed_by_a_run_that_finishes_only_the_rest(shelves: Library) -> None:
    with held_online(shelves) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        status = shelves.json("migrate", "status")
        assert (status["state"], status["next_commands"][0]) == ("online_running", "sequent migrate online")
        assert_complete(shelves)
        eventually(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))


def test_a_killed_worker_costs_its_group_alone(shelves: Library) -> None:
    with held_online(shelves) as process:
        # The workers are the coordinator's only children.
        worker, *_ = psutil.Process(process.pid).children()
        os.kill(worker.pid, signal.SIGKILL)
        shelves.pace(None)
        process.communicate(timeout=60)
    if process.returncode == 0:
        # The others have taken its group over.
        shelves.sequent("migrate", "offline")
        assert_all_books(shelves)
    else:
        assert process.returncode == 1
        assert_complete(shelves)


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [
        (signal.SIGINT, 130, 0),
        (signal.SIGTERM, 143, 2),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 0, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_online_says_what_is_kept_and_how_to_go_on(
    shelves: Library, number: signal.Signals, code: int, workers: int
) -> None:
    with held_online(shelves, workers=workers) as process:
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == code
        assert "Traceback" not in stderr
        assert "Interrupted." in stderr
        assert "Go on with: sequent migrate online" in stderr
    assert_complete(shelves)


def test_ctrl_c_in_the_terminal_reaches_the_workers_too_and_prints_one_message(shelves: Library) -> None:
    with held_online(shelves) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in stderr
        assert stderr.count("Interrupted.") == 1
    assert_complete(shelves)


def test_ctrl_c_while_a_command_is_still_importing_ends_it_in_silence(tmp_path: Path) -> None:
    library = Library(tmp_path, None)
    held = tmp_path / "held"
    library.write(
        {"sqlalchemy/__init__.py": f"import time\nopen({str(held)!r}, 'w').close()\ntime.sleep(60)\n"}
    )
    process = library.start("--version", PYTHONPATH=os.pathsep.join([str(tmp_path), PACKAGE_PARENT]))
    eventually(held.exists)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_two_at_once_the_second_is_refused_and_changes_nothing(shelves: Library) -> None:
    with held_online(shelves) as process:
        for command in ("online", "offline", "abort"):
            error = shelves.json("migrate", command, expect=1)["error"]
            assert error["type"] == "ConcurrentMigration"
        assert shelves.json("migrate", "status")["holder"] is not None
        finish(shelves, process)
    shelves.sequent("migrate", "offline")
    assert_all_books(shelves)


def test_a_worker_joins_from_another_process(shelves: Library) -> None:
    with held_online(shelves) as process:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sequent worker'"
        before = shelves.query(query)[0][0]
        worker = shelves.start("migrate", "worker", "--json")
        eventually(lambda: shelves.query(query)[0][0] > before)
        finish(shelves, process)
        stdout, stderr = worker.communicate(timeout=60)
        assert worker.returncode == 0, stderr
        assert json.loads(stdout)["groups"] >= 0
    shelves.sequent("migrate", "offline")
    assert_all_books(shelves)


def test_a_worker_without_a_replay_says_so(shelves: Library) -> None:
    assert "sequent migrate online" in shelves.sequent("migrate", "worker", expect=1).stderr


def test_a_killed_migration_can_be_aborted(shelves: Library) -> None:
    with held_online(shelves) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: shelves.json("migrate", "status")["holder"] is None)
        assert shelves.json("migrate", "abort")["dropped_tables"] == ["book_records_1"]
    assert shelves.tables() == set()
