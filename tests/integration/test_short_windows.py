"""Windows that are short, but not so short that one process should catch up alone: workers that are copies of it are there at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest
from shop import SQL_DIRECTORY, LineAdded, OrderPlaced, actual_rows, expected_rows, order_id, shop

from sequent_py.replay.groups import SMALLEST_WINDOW_GROUP_EVENTS
from sequent_py.replay.replayer import COPIED_WINDOW_EVENTS, INLINE_EVENTS

LINES = 10

SCRIPT = """
import socket, sys
kept = None if {copied} else socket.socket()
sys.path[:0] = {path!r}
from shop import shop
with shop({url!r}, as_login=False, sql_directory={sql!r}) as app:
    app.view_schema.online(workers={workers})
"""


def online(url: str, *, copied: bool, workers: int) -> None:
    """Run the command in a process of its own, which may copy itself or has a connection that it must not share."""
    script = textwrap.dedent(SCRIPT).format(
        path=[str(directory) for directory in Path(__file__).parents[:2]],
        url=url,
        sql=str(SQL_DIRECTORY),
        copied=copied,
        workers=workers,
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def append(url: str, orders: range) -> None:
    with shop(url, as_login=False) as app:
        app.store.import_history(
            (order_id(number), event, None)
            for number in orders
            for event in (
                OrderPlaced(customer=f"c{number}"),
                *(LineAdded(product=f"p{line}", cents=line) for line in range(LINES - 1)),
            )
        )


@pytest.mark.parametrize(
    ("events", "workers", "copied", "groups"),
    [
        (COPIED_WINDOW_EVENTS, 2, True, 1),
        (COPIED_WINDOW_EVENTS + LINES, 2, True, 2),
        (4 * SMALLEST_WINDOW_GROUP_EVENTS, 8, True, 4),
        (4 * SMALLEST_WINDOW_GROUP_EVENTS, 2, True, 2),
        (4 * SMALLEST_WINDOW_GROUP_EVENTS, 1, True, 1),
        (4 * SMALLEST_WINDOW_GROUP_EVENTS, 2, False, 1),
        (INLINE_EVENTS + LINES, 2, True, 2),
    ],
)
def test_a_short_window_is_shared_with_copies_and_with_nobody_else(
    store_database_url: str, events: int, workers: int, copied: bool, groups: int
) -> None:
    append(store_database_url, range(100))
    online(store_database_url, copied=copied, workers=workers)
    append(store_database_url, range(100, 100 + events // LINES))
    online(store_database_url, copied=copied, workers=workers)
    with psycopg.connect(store_database_url) as connection:
        window: list[tuple[Any, ...]] = connection.execute(
            "SELECT g.events, g.worker FROM sequent_schema.replay_groups g JOIN sequent_schema.replay_passes p"
            " ON (p.migration_id, p.number) = (g.migration_id, g.pass) WHERE p.snapshot_since IS NOT NULL"
        ).fetchall()
    assert sum(count for count, _ in window) == events
    assert len(window) == groups
    # A slow machine may let one of two do both; more than there are groups or workers never.
    assert len({worker for _, worker in window}) <= min(groups, workers)
    with shop(store_database_url, as_login=False) as app:
        app.view_schema.offline()
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        assert actual_rows(connection) == expected_rows(connection)
