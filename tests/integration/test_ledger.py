"""The ledger gives each group to one worker, once, and to none of an earlier run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from waiting import wait_until

from sequent_py.errors import ConcurrentMigration
from sequent_py.event_store.gate import Gate
from sequent_py.replay import fence
from sequent_py.replay.groups import Group
from sequent_py.replay.ledger import Ledger, Pass

SCHEMA = "sequent_schema"


@pytest.fixture
def connections(store_database_url: str) -> Iterator[list[psycopg.Connection[Any]]]:
    opened = [psycopg.connect(store_database_url, autocommit=True) for _ in range(3)]
    yield opened
    for connection in opened:
        connection.close()


@pytest.fixture
def migration_id(connections: list[psycopg.Connection[Any]]) -> int:
    row = (
        connections[0]
        .execute(
            "INSERT INTO sequent_schema.view_migrations (from_version, target_version, state, plan, files_fingerprint)"
            " VALUES (0, 1, 'online_running', '{}', '') RETURNING id"
        )
        .fetchone()
    )
    assert row is not None
    return int(row[0])


@pytest.fixture
def ledger(connections: list[psycopg.Connection[Any]], migration_id: int) -> Ledger:
    ledger = Ledger(SCHEMA)
    groups = [Group(0, None, UUID(int=9), 10), Group(0, UUID(int=9), None, 30), Group(None, None, None, 20)]
    ledger.create_pass(connections[0], Pass(migration_id, 0, None, "100:100:", 60, True), groups, epoch=1)
    return ledger


def test_the_largest_unclaimed_group_comes_first_and_none_twice(
    ledger: Ledger, connections: list[psycopg.Connection[Any]], migration_id: int
) -> None:
    one, two, three = connections
    with one.transaction(), two.transaction(), three.transaction():
        claimed = [ledger.claim(connection, migration_id, epoch=1) for connection in connections]
        assert [item.group.estimated_events for item in claimed if item] == [30, 20, 10]
        assert ledger.claim(one, migration_id, epoch=1) is not None, "its own row lock does not hide a row"


def test_a_group_whose_worker_died_is_claimed_again(
    ledger: Ledger, connections: list[psycopg.Connection[Any]], migration_id: int
) -> None:
    one, two, _ = connections
    one.execute("BEGIN")
    first = ledger.claim(one, migration_id, epoch=1)
    one.close()
    deadline = threading.Event()
    for _ in range(200):
        again = ledger.claim(two, migration_id, epoch=1)
        if again == first:
            break
        deadline.wait(0.02)
    assert again == first


def test_done_groups_are_counted_and_not_claimed(
    ledger: Ledger, connections: list[psycopg.Connection[Any]], migration_id: int
) -> None:
    one, *_ = connections
    while (claimed := ledger.claim(one, migration_id, epoch=1)) is not None:
        assert ledger.has_unfinished(one, migration_id)
        ledger.finish(one, claimed, events=5, row_changes={"t": 2, "u": -1}, seconds=0.1, worker="w")
    assert ledger.row_counts(one, migration_id) == {"t": 6, "u": -3}
    assert not ledger.has_unfinished(one, migration_id)
    progress = ledger.progress(one, migration_id, 0)
    assert (progress.events_done, progress.groups_done, progress.groups_total) == (15, 3, 3)


def test_an_older_epoch_finds_nothing(
    ledger: Ledger, connections: list[psycopg.Connection[Any]], migration_id: int
) -> None:
    one, *_ = connections
    assert ledger.take_over(one, migration_id, epoch=2) == 3
    assert ledger.claim(one, migration_id, epoch=1) is None
    assert ledger.claim(one, migration_id, epoch=2) is not None


def test_a_pass_remembers_its_window(
    ledger: Ledger, connections: list[psycopg.Connection[Any]], migration_id: int
) -> None:
    one, *_ = connections
    ledger.create_pass(one, Pass(migration_id, 1, "100:100:", "110:120:115", 0, True), [], epoch=1)
    assert ledger.latest_pass(one, migration_id) == Pass(migration_id, 1, "100:100:", "110:120:115", 0, True)
    ledger.forget(one, migration_id)
    assert ledger.latest_pass(one, migration_id) is None


def test_one_coordinator_at_a_time_and_its_death_is_enough(
    store_database_url: str, connections: list[psycopg.Connection[Any]]
) -> None:
    _, two, three = connections
    holder = psycopg.connect(store_database_url, autocommit=True, application_name="the coordinator")
    fence.become_coordinator(holder, SCHEMA)
    with pytest.raises(ConcurrentMigration, match="the coordinator"):
        fence.become_coordinator(two, SCHEMA)
    assert "the coordinator" in (fence.coordinator(three, SCHEMA) or "")
    holder.close()
    wait_until(lambda: fence.coordinator(three, SCHEMA) is None)
    fence.become_coordinator(two, SCHEMA)


def test_who_is_faster_than_the_end_of_a_killed_coordinator_s_session_waits_for_it(
    store_database_url: str, connections: list[psycopg.Connection[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, two, three = connections
    holder = psycopg.connect(store_database_url, autocommit=True)
    fence.become_coordinator(holder, SCHEMA)
    # The session ends only after the lock has been asked for in vain.
    monkeypatch.setattr(
        fence, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: holder.close())
    )
    fence.become_coordinator(two, SCHEMA)
    assert holder.closed
    assert fence.coordinator(three, SCHEMA) is not None


def test_a_coordinator_takes_back_the_closing_of_one_that_died(
    store_database_url: str, connections: list[psycopg.Connection[Any]]
) -> None:
    gate, (one, *_) = Gate(SCHEMA), connections
    with psycopg.connect(store_database_url, autocommit=True) as holder:
        fence.become_coordinator(holder, SCHEMA)
        gate.close_for_migration(holder, 7)
        assert gate.read(one).is_closed
        fence.resign(holder, SCHEMA)
    fence.become_coordinator(one, SCHEMA)
    state = gate.read(one)
    assert (state.is_closed, state.closed_by_migration) == (False, None)


def test_two_that_correct_row_counts_at_once_take_turns(
    ledger: Ledger, connections: list[psycopg.Connection[Any]], migration_id: int
) -> None:
    one, two, three = connections
    with one.transaction():
        ledger.correct_rows(one, migration_id, {"t": -1}, worker="one")
        second = threading.Thread(
            target=ledger.correct_rows, args=(two, migration_id, {"t": -2}), kwargs={"worker": "two"}
        )
        second.start()
        wait_until(
            lambda: (
                three.execute(
                    "SELECT FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))",
                    [one.info.backend_pid],
                ).rowcount
            )
        )
    second.join()
    assert ledger.row_counts(three, migration_id)["t"] == -3


def test_evicting_ends_the_workers_sessions_and_rolls_their_groups_back(
    ledger: Ledger, connections: list[psycopg.Connection[Any]], migration_id: int
) -> None:
    coordinator, worker, _ = connections
    fence.become_worker(worker, SCHEMA)
    worker.execute("BEGIN")
    claimed = ledger.claim(worker, migration_id, epoch=1)
    assert claimed is not None
    assert fence.worker_count(coordinator, SCHEMA) == 1
    assert fence.evict_workers(coordinator, SCHEMA) == 1
    with pytest.raises(psycopg.OperationalError):
        ledger.finish(worker, claimed, events=1, row_changes={}, seconds=0, worker="w")
    assert ledger.claim(coordinator, migration_id, epoch=1) == claimed
