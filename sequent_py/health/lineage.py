"""Lineage: whether this cluster gave out the transaction ids and snapshots that the store holds, and whether anybody else still writes them.

Windows compare the ``xact_id`` of events with snapshots, so both must come from one cluster's counter. Three things break that: a store
restored from a dump, which brings ids that may lie in the future; a logical replication into ``events``, which brings the publisher's ids
all the time and passes no gate; and a migration or retired tables that came along with a dump, whose snapshots are the other cluster's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.health.findings import Finding, ok, problem
from sequent_py.store import LATER_THAN_WRITER, foreign_transaction_ids

Connection = psycopg.Connection[Any]

NEWEST_IDS = 1_000
"""How many events with the highest ids are compared with the transactions that wrote their rows: the end of an index."""


def check_transaction_ids(connection: Connection, schema: str) -> Finding:
    """Find ids that this cluster has not given out yet, or that are later than the transaction that wrote the row."""
    newest = foreign_transaction_ids(connection, schema)
    if newest is not None:
        return problem(
            "transaction ids",
            f"Events carry transaction ids up to {newest}, which lie in this server's future: the store was restored from another cluster,"
            " and snapshot windows would be wrong.",
            "Run: sequent doctor --repair",
        )
    row = connection.execute(
        sql.SQL(_LATER_THAN_WRITER).format(
            events=sql.Identifier(schema, "events"), limit=sql.Literal(NEWEST_IDS), later=LATER_THAN_WRITER
        )
    ).fetchone()
    if row is not None and row[0]:
        count, aggregate_id, sequence_number = row
        return problem(
            "transaction ids",
            f"{count} of the newest events carry a transaction id later than the transaction that wrote them (aggregate {aggregate_id}, sequence"
            f" number {sequence_number}, for example): they came from another cluster.",
            "Stop what brings them, then run: sequent doctor --repair",
        )
    return ok("transaction ids", "All events were written by this server.")


def check_subscriptions(connection: Connection, schema: str) -> Iterator[Finding]:
    """Find subscriptions that write into ``events``: they bring another cluster's ids, and no gate stops them."""
    rows = connection.execute(_SUBSCRIPTIONS, (schema,)).fetchall()
    for name, is_enabled, tables in rows:
        if is_enabled:
            yield problem(
                "subscriptions",
                f"The subscription {name} writes into {tables}: its worker passes no gate and keeps the publisher's transaction ids, so windows"
                " would miss events.",
                sql.SQL("Before any phase: ALTER SUBSCRIPTION {} DISABLE; append through the store instead.")
                .format(sql.Identifier(name))
                .as_string(None),
            )


def check_snapshots(
    connection: Connection, schema: str, *, unfinished_only: bool = False
) -> Iterator[Finding]:
    """Find snapshots that lie in this cluster's future: the migration was begun, or its tables were retired, in another one."""
    rows = connection.execute(
        sql.SQL(_FUTURE_SNAPSHOTS).format(
            passes=sql.Identifier(schema, "replay_passes"),
            migrations=sql.Identifier(schema, "view_migrations"),
            tables=sql.Identifier(schema, "view_tables"),
        )
    ).fetchall()
    for migration_id, state, is_finished in rows:
        if is_finished and unfinished_only:
            continue
        yield problem(
            "snapshots",
            f"View migration {migration_id} ({state}) was replayed up to a snapshot that lies in this server's future: it came from another"
            " cluster, and what was appended since cannot be told from what was replayed.",
            "Its retired tables cannot be brought up to date any more: sequent migrate prune"
            if is_finished
            else "Run: sequent migrate abort",
        )


_LATER_THAN_WRITER = """
SELECT count(*), (array_agg(aggregate_id))[1], (array_agg(sequence_number))[1]
FROM (SELECT aggregate_id, sequence_number, xact_id, xmin FROM {events} ORDER BY xact_id DESC LIMIT {limit}) newest
WHERE {later}
"""

_SUBSCRIPTIONS = """
SELECT s.subname, s.subenabled, string_agg(c.relname, ', ' ORDER BY c.relname)
FROM pg_catalog.pg_subscription_rel r
JOIN pg_catalog.pg_subscription s ON s.oid = r.srsubid
JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND (c.relname = 'events' OR EXISTS (
    SELECT FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class p ON p.oid = h.inhparent WHERE h.inhrelid = c.oid AND p.relname = 'events'))
GROUP BY s.subname, s.subenabled ORDER BY s.subname
"""

_FUTURE_SNAPSHOTS = """
SELECT m.id, m.state, m.finished_at IS NOT NULL FROM {migrations} m
WHERE CASE WHEN m.finished_at IS NULL
    THEN EXISTS (SELECT FROM {passes} p WHERE p.migration_id = m.id AND pg_snapshot_xmax(p.snapshot_until) > pg_snapshot_xmax(pg_current_snapshot()))
    ELSE pg_snapshot_xmax(m.promoted_snapshot) > pg_snapshot_xmax(pg_current_snapshot())
        AND EXISTS (SELECT FROM {tables} t WHERE t.role = 'retired' AND m.id IN (t.migration_id, t.retired_by)) END
ORDER BY m.id
"""
