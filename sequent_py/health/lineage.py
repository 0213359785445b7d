"""Lineage: whether this cluster gave out the transaction ids and snapshots that the store holds, and whether anybody else still writes them.

Windows compare the ``xact_id`` of events with snapshots, so both must come from one cluster's counter. Three things break that: a store
restored from a dump, which brings ids that may lie in the future; a logical replication into ``events``, which brings the publisher's ids
all the time and passes no gate; and a migration or retired tables that came along with a dump, whose snapshots are the other cluster's, and look
like ours once this cluster's counter has passed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from sequent_py.event_store.home import IS_MARKED_HERE, Home
from sequent_py.event_store.transaction_ids import LATER_THAN_WRITER, foreign_transaction_ids
from sequent_py.health.findings import Finding, ok, problem

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


def check_snapshots(connection: Connection, schema: str) -> Iterator[Finding]:
    """Find view migrations with snapshots that this cluster did not take: they were begun, or their tables retired, in another one.

    Exact after a restore of a store that a phase had marked, see :mod:`sequent_py.event_store.home`. Otherwise a snapshot is known by a beginning that lies behind the
    transaction that wrote its row: a transaction sees itself as running, so no snapshot that it could store begins later.
    """
    rows = connection.execute(
        sql.SQL(_FOREIGN_SNAPSHOTS).format(
            home=sql.Identifier(schema, "home"),
            is_marked_here=IS_MARKED_HERE,
            passes=sql.Identifier(schema, "replay_passes"),
            specials=sql.Identifier(schema, "special_aggregates"),
            quarantine=sql.Identifier(schema, "quarantined_aggregates"),
            migrations=sql.Identifier(schema, "view_migrations"),
            tables=sql.Identifier(schema, "view_tables"),
            is_later_than_mark=_later("pg_snapshot_xmax(s.snapshot)", "h.written_by"),
            is_later_than_row=_later("pg_snapshot_xmin(s.snapshot)", "s.written_by"),
        )
    ).fetchall()
    for migration_id, state, is_finished in rows:
        yield problem(
            "snapshots",
            f"View migration {migration_id} ({state}) has snapshots that lie in this server's future, or did when the store was restored: they came"
            " from another cluster, and what was appended since cannot be told from what was replayed.",
            "Its retired tables cannot be brought up to date any more; forget what they hold: sequent doctor --repair"
            if is_finished
            else "Run: sequent migrate abort",
        )


def check_view_schema(connection: Connection, schema: str, view_schema: str) -> Iterator[Finding]:
    """Find out whether the recorded tables are in the view schema that is set."""
    wrong = Home(schema).wrong_view_schema(connection, view_schema)
    if wrong is not None:
        yield problem("view schema", wrong.message, wrong.remedy)


def _later(transaction_id: LiteralString, writer: LiteralString) -> sql.Composable:
    """Compare by the low 32 bits, within half the circle, as :data:`~sequent_py.event_store.transaction_ids.LATER_THAN_WRITER`."""
    return sql.SQL(
        f"mod({transaction_id}::text::numeric - {writer}::text::numeric + 4294967296, 4294967296) BETWEEN 1 AND 2147483647"
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

_FOREIGN_SNAPSHOTS = """
WITH mark AS (SELECT marked_by, xmin AS written_by, {is_marked_here} AS is_here FROM {home}),
used AS (
    SELECT id, finished_at IS NULL AS is_unfinished, return_pass FROM {migrations}
),
stored (migration_id, snapshot, written_by) AS (
    SELECT m.id, s.snapshot, p.xmin FROM {passes} p JOIN used m ON m.id = p.migration_id
        CROSS JOIN LATERAL (VALUES (p.snapshot_since), (p.snapshot_until)) AS s (snapshot)
    WHERE m.is_unfinished OR p.number >= m.return_pass
    UNION ALL
    SELECT m.id, a.snapshot_since, a.xmin FROM {specials} a JOIN used m ON m.id = a.migration_id WHERE m.is_unfinished OR a.pass >= m.return_pass
    UNION ALL
    SELECT m.id, q.snapshot_since, q.xmin FROM {quarantine} q JOIN used m ON m.id = q.migration_id WHERE m.is_unfinished OR m.return_pass IS NOT NULL
    UNION ALL
    SELECT id, promoted_snapshot, xmin FROM {migrations}
    UNION ALL
    SELECT coalesce(retired_by, migration_id), served_since, xmin FROM {tables}
)
SELECT m.id, m.state, m.finished_at IS NOT NULL FROM {migrations} m
WHERE EXISTS (
    SELECT FROM stored s LEFT JOIN mark h ON true
    WHERE s.migration_id = m.id AND s.snapshot IS NOT NULL AND (
        pg_snapshot_xmax(s.snapshot) > pg_snapshot_xmax(pg_current_snapshot())
        OR CASE WHEN NOT h.is_here THEN {is_later_than_mark} ELSE {is_later_than_row} END
    )
)
ORDER BY m.id
"""
