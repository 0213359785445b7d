"""Aggregates that were accepted as left behind: their events are recorded, and not projected into some live tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

from sequent_py.health.findings import Finding, notice
from sequent_py.replay.quarantine import Quarantine

Connection = psycopg.Connection[Any]

SHOWN = 5


def check_left_behind(connection: Connection, schema: str) -> Iterator[Finding]:
    """Find the aggregates that live tables were promoted without; accepted is not forgotten."""
    behind = Quarantine(schema).unprojected(connection)
    if not behind:
        return
    ids = [str(aggregate_id) for aggregate_id in sorted(behind)]
    shown = ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
    tables = ", ".join(sorted({table for tables in behind.values() for table in tables}))
    is_one = len(ids) == 1
    yield notice(
        "left behind",
        f"{len(ids)} aggregate{'' if is_one else 's'} {'was' if is_one else 'were'} left behind in {tables}, as was accepted: {shown}."
        f" {'Its' if is_one else 'Their'} events are not projected there.",
        f"With handlers that can project {'it' if is_one else 'them'}, run: sequent aggregates refold {' '.join(ids[:SHOWN])}"
        + (" …" if len(ids) > SHOWN else ""),
    )
