"""Whoever watches a replay is told how far it is, and the ledger is not read from end to end for every group."""

from __future__ import annotations

import time
from typing import Any

import pytest
from shop import place_orders, shop

from sequent_py.progress import ReplayProgress
from sequent_py.replay.ledger import Ledger
from sequent_py.replay.replayer import PROGRESS_SECONDS


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[ReplayProgress] = []

    def step(self, name: str) -> None: ...

    def replay(self, progress: ReplayProgress) -> None:
        self.seen.append(progress)

    def note(self, text: str) -> None: ...


def test_the_ledger_is_looked_at_now_and_then_and_at_the_end(
    store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    progress = Ledger.progress

    def look(self: Ledger, *arguments: Any) -> Any:
        looks.append(1)
        return progress(self, *arguments)

    monkeypatch.setattr(Ledger, "progress", look)
    told = Told()
    with shop(store_database_url) as app:
        place_orders(app, range(60))
        began = time.monotonic()
        app.view_schema.online(group_target_events=1, progress=told)
        seconds = time.monotonic() - began
    assert told.seen[-1].groups_done == told.seen[-1].groups_total == 16
    # Before the first group, after the last, and in between at the distance that is said.
    assert len(looks) <= 3 + seconds / PROGRESS_SECONDS
