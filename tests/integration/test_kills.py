"""Kill anything: the same command goes on, nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from shop import (
    SQL_DIRECTORY,
    LineAdded,
    OrderPlaced,
    ShopEnding,
    ShopExiting,
    actual_rows,
    expected_rows,
    shop,
)
from waiting import wait_until

from sequent_py import Config, Sequent
from sequent_py.errors import ProjectionFailed, WorkerFailed
from sequent_py.progress import ReplayProgress
from sequent_py.replay import fence, replayer
from sequent_py.replay.ledger import Ledger

ORDERS = 3_000
LINES = 8
GROUP_EVENTS = 1_000


def with_history(database_url: str) -> None:
    with application(database_url) as app:
        app.store.import_history(history())


pytestmark = pytest.mark.store(made_by=with_history)


@pytest.fixture
def url(store_database_url: str) -> str:
    return store_database_url


def history() -> Iterator[tuple[UUID, Any, None]]:
    for number in range(ORDERS):
        order = UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128)
        yield order, OrderPlaced(customer=f"c{number}"), None
        for line in range(LINES):
            yield order, LineAdded(product=f"p{line}", cents=line), None


def application(url: str, sql_directory: Path | str = SQL_DIRECTORY) -> Sequent:
    return shop(
        url,
        as_login=False,
        sql_directory=Path(sql_directory),
        workers=2,
        group_target_events=GROUP_EVENTS,
    )


SCRIPT = """
import socket, sys
kept = None if {copied} else socket.socket()
sys.path[:0] = {path!r}
from shop import shop
from sequent_py.replay import replayer
replayer.HELPED_TIMES = {helped}
with shop({url!r}, as_login=False, sql_directory={sql!r}, group_target_events={group_events}) as app:
    app.view_schema.{command}(workers={workers})
"""


def start(
    url: str,
    command: str,
    workers: int = 2,
    sql_directory: Path = SQL_DIRECTORY,
    *,
    helped: int = 0,
    copied: bool = True,
) -> subprocess.Popen[bytes]:
    """Run a command in a process of its own, as an operator would.

    ``helped``: whether it is one of the workers, too, as in a larger store it is not; ``copied``: whether it may copy itself for the others, or has a connection
    open that they must not share.
    """
    script = textwrap.dedent(SCRIPT).format(
        path=[str(directory) for directory in Path(__file__).parents[:2]],
        url=url,
        command=command,
        workers=workers,
        helped=helped,
        copied=copied,
        sql=str(sql_directory),
        group_events=GROUP_EVENTS,
    )
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)


def worker_pids(coordinator: int, *, copied: bool = True) -> list[int]:
    """The worker processes of a coordinator, by the parent that the kernel knows: its copies, or those that it has started anew."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        is_copy = b"sequent_py.replay.worker" not in command
        if int(status[1]) == coordinator and status[0] != "Z" and is_copy == copied:
            found.append(int(entry.name))
    return found


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def groups_done(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM sequent_schema.replay_groups WHERE done_at IS NOT NULL"
    ).fetchone()
    assert row is not None
    return int(row[0])


def is_replaying(connection: psycopg.Connection[Any]) -> bool:
    """Whether there are groups: workers start earlier."""
    return connection.execute("SELECT FROM sequent_schema.replay_groups LIMIT 1").fetchone() is not None


def finish(url: str, connection: psycopg.Connection[Any]) -> None:
    with application(url) as app:
        app.view_schema.online()
        app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def end(process: subprocess.Popen[bytes]) -> None:
    process.wait(60)
    assert process.stderr is not None
    process.stderr.close()


@pytest.mark.parametrize("copied", [True, False], ids=["copies", "started anew"])
@pytest.mark.parametrize(
    "after_groups", [0, 5, *(pytest.param(groups, marks=pytest.mark.slow) for groups in (1, 12))]
)
def test_a_killed_coordinator_leaves_finished_groups_and_nothing_else(
    url: str, connection: psycopg.Connection[Any], after_groups: int, copied: bool
) -> None:
    process = start(url, "online", copied=copied)
    wait_until(lambda: is_replaying(connection) and groups_done(connection) >= after_groups)
    workers = wait_until(lambda: worker_pids(process.pid, copied=copied))
    process.kill()
    end(process)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    done = groups_done(connection)
    with application(url) as app:
        status = app.view_schema.status()
        assert (status.state, status.holder) == ("online_running", None)
        report = app.view_schema.online()
        assert report.is_resumed
        kept = connection.execute(
            "SELECT count(*) FROM sequent_schema.replay_groups g JOIN sequent_schema.view_migrations m ON m.id = g.migration_id"
            " WHERE g.epoch < m.epoch"
        ).fetchone()
        assert kept == (done,), "finished groups were not replayed again"
    finish(url, connection)


@pytest.mark.parametrize("copied", [True, False], ids=["copies", "started anew"])
def test_a_killed_worker_is_replaced(url: str, connection: psycopg.Connection[Any], copied: bool) -> None:
    process = start(url, "online", copied=copied)
    wait_until(lambda: groups_done(connection) >= 2)
    os.kill(wait_until(lambda: worker_pids(process.pid, copied=copied))[0], signal.SIGKILL)
    assert process.wait(60) == 0
    end(process)
    finish(url, connection)


@pytest.mark.parametrize(
    ("workers", "helped"), [(2, 0), (2, replayer.HELPED_TIMES), (1, replayer.HELPED_TIMES)]
)
def test_a_terminated_worker_backend_is_replaced(
    url: str, connection: psycopg.Connection[Any], workers: int, helped: int
) -> None:
    process = start(url, "online", workers, helped=helped)
    wait_until(lambda: groups_done(connection) >= 2)
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sequent worker'"
        " AND datname = current_database() LIMIT 1"
    )
    assert process.wait(60) == 0
    end(process)
    finish(url, connection)


def test_a_terminated_coordinator_backend_fails_cleanly(
    url: str, connection: psycopg.Connection[Any]
) -> None:
    process = start(url, "online")
    wait_until(lambda: groups_done(connection) >= 2)
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sequent migrate online%'"
        " AND datname = current_database()"
    )
    assert process.wait(60) != 0
    end(process)
    finish(url, connection)


@pytest.mark.parametrize("copied", [True, False], ids=["copies", "started anew"])
def test_a_worker_that_outlives_its_coordinator_never_writes_into_a_later_run(
    url: str, connection: psycopg.Connection[Any], copied: bool
) -> None:
    process = start(url, "online", copied=copied)
    wait_until(lambda: groups_done(connection) >= 2)
    frozen = wait_until(lambda: worker_pids(process.pid, copied=copied))
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    end(process)
    try:
        with application(url) as app:
            app.view_schema.abort()
            app.view_schema.online()
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in frozen))
            app.view_schema.offline()
    finally:
        for pid in frozen:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
    assert actual_rows(connection) == expected_rows(connection)


@pytest.fixture
def slow_indexes(tmp_path: Path, store_database_url: str) -> Path:
    """Table files whose index builds take minutes, on two tables at once."""
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION public.slow(uuid) RETURNS uuid IMMUTABLE LANGUAGE plpgsql"
            " AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN $1; END $$"
        )
    shutil.copytree(SQL_DIRECTORY, tmp_path, dirs_exist_ok=True)
    for table in ("order_records", "line_records"):
        with (tmp_path / f"{table}.indexes.sql").open("a") as file:
            file.write(f"CREATE INDEX {table}_slow%SUFFIX% ON {table}%SUFFIX% (public.slow(aggregate_id));")
    return tmp_path


def index_builds(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sequent indexing%'"
        " AND datname = current_database() AND state = 'active' AND query LIKE '%EXECUTE%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_index_builds_of_a_killed_coordinator_are_ended_by_the_next_command(
    url: str, connection: psycopg.Connection[Any], slow_indexes: Path
) -> None:
    process = start(url, "online", sql_directory=slow_indexes)
    wait_until(lambda: index_builds(connection) == 2)
    process.kill()
    end(process)
    with application(url, slow_indexes) as app:
        app.view_schema.abort()
    assert index_builds(connection) == 0
    finish(url, connection)


def test_an_interrupted_coordinator_does_not_wait_for_index_builds(
    url: str, connection: psycopg.Connection[Any], slow_indexes: Path
) -> None:
    process = start(url, "online", sql_directory=slow_indexes)
    wait_until(lambda: index_builds(connection) == 2)
    process.send_signal(signal.SIGINT)
    end(process)
    wait_until(lambda: index_builds(connection) == 0, seconds=5)
    with application(url, slow_indexes) as app:
        assert app.view_schema.status().state == "online_running"
        app.view_schema.abort()


def test_a_killed_offline_reopens_the_gate_by_dying(url: str, connection: psycopg.Connection[Any]) -> None:
    with application(url) as app:
        app.view_schema.online()
        with psycopg.connect(url) as slow:
            # A writer in flight holds the drain up, so that the gate is closed for as long as we need.
            app.store.append(UUID(int=1), [OrderPlaced(customer="slow")], connection=slow)
            process = start(url, "offline")
            wait_until(lambda: app.view_schema.status().gate.is_closed)  # type: ignore[union-attr]
            assert app.view_schema.status().state == "offline_running"
            process.kill()
            end(process)
            wait_until(lambda: not app.view_schema.status().gate.is_closed)  # type: ignore[union-attr]
            assert app.view_schema.status().state == "online_done"
            app.store.append(UUID(int=2), [OrderPlaced(customer="goes on")])
            slow.commit()
        app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


@pytest.mark.slow  # the crash matrix kills it at every step by name
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_offline_killed_at_any_moment_leaves_the_old_state_or_the_new_one(
    url: str, connection: psycopg.Connection[Any], delay: float
) -> None:
    with application(url) as app:
        app.view_schema.online()
        process = start(url, "offline")
        wait_until(lambda: app.view_schema.status().holder or process.poll() is not None)
        time.sleep(delay)
        process.kill()
        end(process)
        wait_until(lambda: app.view_schema.status().holder is None)
        status = app.view_schema.status()
        assert status.state in ("online_done", "live")
        app.store.append(UUID(int=2), [OrderPlaced(customer="goes on")])
        app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


@pytest.mark.parametrize("workers", [0, 2])
def test_online_waits_for_a_group_that_a_joined_worker_holds(
    url: str, connection: psycopg.Connection[Any], workers: int
) -> None:
    process = start(url, "online", workers=workers)
    ledger = Ledger("sequent_schema")
    with psycopg.connect(url, autocommit=True) as joined:
        wait_until(lambda: groups_done(connection) >= 1)
        fence.become_worker(joined, "sequent_schema")
        with joined.transaction(force_rollback=True):
            row = connection.execute("SELECT id, epoch FROM sequent_schema.view_migrations").fetchone()
            assert row is not None
            assert ledger.claim(joined, row[0], epoch=row[1]) is not None
            total = connection.execute("SELECT count(*) FROM sequent_schema.replay_groups").fetchone()
            assert total is not None
            wait_until(lambda: groups_done(connection) == total[0] - 1)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
    assert process.wait(60) == 0
    end(process)
    finish(url, connection)


def test_a_worker_that_finds_nothing_left_ends_well(url: str, connection: psycopg.Connection[Any]) -> None:
    notes: list[str] = []

    class Listener:
        def step(self, name: str) -> None:
            pass

        def replay(self, progress: ReplayProgress) -> None:
            pass

        def note(self, text: str) -> None:
            notes.append(text)

    with application(url) as app:
        app.view_schema.online(progress=Listener())
    assert notes == [], "a worker that ends in any other way is noted as lost"


def test_a_handler_that_ends_the_process_is_a_failure(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayer, "HELPED_TIMES", 0)
    config = Config(
        database_url=url, sql_directory=SQL_DIRECTORY, workers=1, group_target_events=GROUP_EVENTS
    )
    with Sequent(config, migrations=ShopEnding) as app:
        with pytest.raises(WorkerFailed, match="without a word"):
            app.view_schema.online()
        app.view_schema.abort()
    with (
        Sequent(config, migrations=ShopExiting) as other,
        pytest.raises(ProjectionFailed, match="SystemExit"),
    ):
        other.view_schema.online(workers=0)


def test_two_coordinators_at_once_make_one_migration(url: str, connection: psycopg.Connection[Any]) -> None:
    processes = [start(url, "online") for _ in range(2)]
    codes = sorted(process.wait(60) for process in processes)
    errors = b"".join(process.stderr.read() for process in processes if process.stderr)
    for process in processes:
        end(process)
    assert codes in ([0, 1], [0, 0]), errors
    if codes == [0, 1]:
        assert b"ConcurrentMigration" in errors
    row = connection.execute("SELECT count(*) FROM sequent_schema.view_migrations").fetchone()
    assert row == (1,)
    finish(url, connection)


def test_the_bytes_do_not_depend_on_workers_or_group_size(
    url: str, connection: psycopg.Connection[Any]
) -> None:
    seen = set()
    for workers, size in ((0, 100_000), (1, 3_000), (3, 500)):
        with application(url) as app:
            app.view_schema.online(workers=workers, group_target_events=size)
            seen.add(json.dumps(actual_rows(connection, "_1"), default=str))
            app.view_schema.abort()
    assert len(seen) == 1
