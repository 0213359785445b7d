"""How many events a pass will read is counted where that is cheap; from large partitions a few pages are read."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from sequent_py.replay.estimate import current_snapshot, estimate_history
from sequent_py.replay.groups import events_of

Connection = psycopg.Connection[Any]
EVENTS, WANTED, TARGET = 40_000, 30_000, 400
PAGES = 24
"""Of some thirty that a partition has: of fewer, the estimate of a table without statistics would be off by a tenth now and then."""


@pytest.fixture
def event_type_ids(connection: Connection) -> list[int]:
    """Store events of two types, three quarters of the type that is asked for; return its id."""
    ids = [
        row[0]
        for row in connection.execute(
            "INSERT INTO sequent_schema.event_types (name) VALUES ('Wanted'), ('Other') RETURNING id"
        )
    ]
    connection.execute(
        "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload)"
        " SELECT md5((n / 4)::text)::uuid, n %% 4 + 1, CASE WHEN n %% 4 = 0 THEN %s ELSE %s END, '{}'"
        " FROM generate_series(0, %s) AS n",
        (ids[1], ids[0], EVENTS - 1),
    )
    return ids[:1]


def test_where_no_groups_are_cut_partitions_are_counted(
    connection: Connection, event_type_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequent_py.replay.estimate.HASTY_EXACT_BYTES", 0)
    samples, is_exact = estimate_history(
        connection, "sequent_schema", until=current_snapshot(connection), event_type_ids=event_type_ids
    )
    assert is_exact
    assert events_of(samples) == WANTED


def test_small_partitions_are_counted_before_a_replay_too_and_cut_by_their_events(
    connection: Connection, event_type_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequent_py.replay.estimate.SAMPLE_ROWS", 100)
    samples, is_exact = estimate_history(
        connection,
        "sequent_schema",
        until=current_snapshot(connection),
        event_type_ids=event_type_ids,
        group_target=lambda _events: TARGET,
    )
    assert is_exact
    assert events_of(samples) == WANTED
    for partition, sample in samples.items():
        assert 50 < len(sample.aggregate_ids) < 200
        assert partition_of(connection, sample.aggregate_ids) == {f"events_{partition:02d}"}


@pytest.mark.parametrize("is_analysed", [False, True])
def test_of_large_partitions_some_pages_are_read(
    connection: Connection, event_type_ids: list[int], is_analysed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequent_py.replay.estimate.HASTY_EXACT_BYTES", 0)
    monkeypatch.setattr("sequent_py.replay.estimate.SAMPLED_PAGES", PAGES)
    monkeypatch.setattr("sequent_py.replay.estimate.SAMPLE_ROWS", 100)
    if is_analysed:
        connection.execute("ANALYZE sequent_schema.events")
    asked: list[int] = []

    def group_target(events: int) -> int:
        asked.append(events)
        return TARGET

    samples, is_exact = estimate_history(
        connection,
        "sequent_schema",
        until=current_snapshot(connection),
        event_type_ids=event_type_ids,
        group_target=group_target,
    )

    assert not is_exact
    assert events_of(samples) == pytest.approx(WANTED, rel=0.1)
    assert asked == [events_of(samples)]
    for partition, sample in samples.items():
        assert partition_of(connection, sample.aggregate_ids) == {f"events_{partition:02d}"}


def partition_of(connection: Connection, aggregate_ids: Any) -> set[str]:
    """Return the tables that have the wanted events of these aggregates."""
    ids: list[UUID] = list(aggregate_ids)
    return {
        row[0]
        for row in connection.execute(
            "SELECT DISTINCT c.relname FROM sequent_schema.events e JOIN pg_class c ON c.oid = e.tableoid"
            " JOIN sequent_schema.event_types t ON t.id = e.event_type_id WHERE t.name = 'Wanted' AND aggregate_id = ANY (%s)",
            (ids,),
        )
    }
