"""Reading ``event_edits``: which aggregates were edited in a snapshot window. Reads only; triggers write the table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.event_store.store_errors import translated
from sequent_py.replay.refold import Edits
from sequent_py.windows import window_condition


def edits_in_window(
    connection: psycopg.Connection[Any], schema: str, *, since: str | None, until: str | None
) -> Edits:
    """Return what was edited by transactions visible in ``until`` (None: now) and not in ``since`` (None: from the beginning)."""
    query = sql.SQL("SELECT aggregate_id, count(*) FROM {} WHERE {} GROUP BY aggregate_id").format(
        sql.Identifier(schema, "event_edits"), window_condition(since, until)
    )
    with translated(schema, connection):
        rows = connection.execute(query).fetchall()
    return Edits(
        frozenset(aggregate_id for aggregate_id, _ in rows if aggregate_id is not None),
        sum(statements for aggregate_id, statements in rows if aggregate_id is None),
    )


def edited_after(schema: str, until: str) -> sql.Composed:
    """Compose the SELECT of the aggregates that were edited after ``until``, for use behind NOT IN: the same statement then reads what they are not."""
    return sql.SQL(
        "SELECT edit.aggregate_id FROM {} AS edit WHERE edit.aggregate_id IS NOT NULL AND {}"
    ).format(
        sql.Identifier(schema, "event_edits"),
        window_condition(until, None, sql.Identifier("edit", "xact_id")),
    )


def count_events(
    connection: psycopg.Connection[Any],
    schema: str,
    aggregate_ids: Collection[UUID],
    *,
    until: str | None,
    event_type_ids: Sequence[int],
) -> dict[int, int]:
    """Count these aggregates' events visible in ``until`` (None: now), by partition."""
    if not aggregate_ids:
        return {}
    query = sql.SQL(
        "SELECT right(tableoid::regclass::text, 200), count(*) FROM {} WHERE aggregate_id = ANY (%s::uuid[])"
        " AND event_type_id = ANY (%s::int[]) AND {} GROUP BY tableoid"
    ).format(for_parameters(sql.Identifier(schema, "events")), window_condition(None, until))
    rows = connection.execute(query, (list(aggregate_ids), list(event_type_ids))).fetchall()
    return {int(str(name).rstrip('"')[-2:]): int(count) for name, count in rows}
