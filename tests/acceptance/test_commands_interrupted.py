"""View migrations that are interrupted, killed, or run twice at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import psutil
import pytest
from library_project import Library, eventually

TITLES = [f"Volume {number:02}" for number in range(40)]
EVENTS = 4 * len(TITLES)
SLOW = {"LIBRARY_DELAY": "0.1"}
"""Forty books take two workers two seconds: long enough to be killed in the middle."""


@pytest.fixture
def shelves(project: Library) -> Library:
    """A library with forty books and nothing migrated."""
    project.sequent("init")
    project.append(*TITLES)
    return project


@contextmanager
def slow_online(library: Library) -> Iterator[Popen[str]]:
    """Start a slow online and wait until it has finished a group; leave no process behind."""
    process = library.start("migrate", "online", "--workers", "2", "--group-events", "8", **SLOW)
    try:

        def has_begun() -> bool:
            assert process.poll() is None, process.communicate()
            # A group commits its rows together with its being done.
            (shadow,) = library.query("SELECT to_regclass('view_schema.book_records_1') IS NOT NULL")
            return shadow[0] and bool(library.query("SELECT 1 FROM view_schema.book_records_1 LIMIT 1"))

        eventually(has_begun)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def assert_complete(library: Library) -> None:
    """Go on where the interrupted command stopped, and compare the result with the events."""
    resumed = library.json("migrate", "online", "--workers", "2")
    assert resumed["is_resumed"] is True
    assert 0 < resumed["events"] < EVENTS
    library.sequent("migrate", "offline")
    assert library.query("SELECT title, reader FROM view_schema.book_records ORDER BY title") == [
        (t, "Bob") for t in TITLES
    ]


def test_a_killed_coordinator_is_followed_by_a_run_that_finishes_only_the_rest(shelves: Library) -> None:
    with slow_online(shelves) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        status = shelves.json("migrate", "status")
        assert (status["state"], status["next_commands"][0]) == ("online_running", "sequent migrate online")
        assert_complete(shelves)
        eventually(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))


def test_a_killed_worker_costs_its_group_alone(shelves: Library) -> None:
    with slow_online(shelves) as process:
        backends = {
            pid
            for (pid,) in shelves.query("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        }
        children = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.pid not in backends
        ]
        # The youngest are workers; a resource tracker of multiprocessing is older.
        os.kill(max(children, key=lambda child: child.create_time()).pid, signal.SIGKILL)
        process.wait(timeout=60)
    if process.returncode == 0:
        # The others have taken its group over.
        shelves.sequent("migrate", "offline")
        assert len(shelves.query("SELECT 1 FROM view_schema.book_records")) == len(TITLES)
    else:
        assert process.returncode == 1
        assert_complete(shelves)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_online_says_what_is_kept_and_how_to_go_on(
    shelves: Library, number: signal.Signals, code: int
) -> None:
    with slow_online(shelves) as process:
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == code
        assert "Traceback" not in stderr
        assert "Interrupted." in stderr
        assert "Go on with: sequent migrate online" in stderr
    assert_complete(shelves)


def test_ctrl_c_in_the_terminal_reaches_the_workers_too_and_prints_one_message(shelves: Library) -> None:
    with slow_online(shelves) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in stderr
        assert stderr.count("Interrupted.") == 1
    assert_complete(shelves)


def test_two_at_once_the_second_is_refused_and_changes_nothing(shelves: Library) -> None:
    with slow_online(shelves) as process:
        for command in ("online", "offline", "abort"):
            error = shelves.json("migrate", command, expect=1)["error"]
            assert error["type"] == "ConcurrentMigration"
        assert shelves.json("migrate", "status")["holder"] is not None
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    shelves.sequent("migrate", "offline")
    assert len(shelves.query("SELECT 1 FROM view_schema.book_records")) == len(TITLES)


def test_a_worker_joins_from_another_process(shelves: Library) -> None:
    with slow_online(shelves) as process:
        joined = shelves.json("migrate", "worker")
        assert joined["groups"] > 0
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    shelves.sequent("migrate", "offline")
    assert len(shelves.query("SELECT 1 FROM view_schema.book_records")) == len(TITLES)


def test_a_worker_without_a_replay_says_so(shelves: Library) -> None:
    assert "sequent migrate online" in shelves.sequent("migrate", "worker", expect=1).stderr


def test_a_killed_migration_can_be_aborted(shelves: Library) -> None:
    with slow_online(shelves) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: shelves.json("migrate", "status")["holder"] is None)
        assert shelves.json("migrate", "abort")["dropped_tables"] == ["book_records_1"]
    assert shelves.tables() == set()
