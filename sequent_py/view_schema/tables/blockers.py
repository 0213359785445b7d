"""Who is in the way of a cut-over: the transactions that hold what it must lock. Reads ``pg_locks`` only; takes no lock, waits for nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.event_store.gate import Gate, Writer, shown_query
from sequent_py.view_schema.tables import prepared
from sequent_py.view_schema.tables.outside_tables import BLOCKING_MODES, OutsideTable

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction that holds the gate's key, or a lock on a relation that is to be locked."""

    what: str
    """``the gate``, the relation's name (an outside table's with its schema), or ``rows of`` a table of the bookkeeping."""
    writer: Writer
    """The transaction; also where it only reads."""
    is_at_gate: bool = False
    """Whether it waits for the gate's key, so that it cannot write before we let it."""


MOST_LISTED = 5
"""Whoever ends these will see the others, if they are still there."""

BOOKKEEPING = (
    "view_tables",
    "view_migrations",
    "quarantined_aggregates",
    "special_aggregates",
    "replay_passes",
    "replay_groups",
    "gate",
)
"""What a cut-over writes, beside the tables themselves."""

_HOLDERS = """
SELECT CASE WHEN c.parent IS NULL THEN c.name ELSE c.parent END, l.virtualtransaction, l.pid, p.gid,
       coalesce(a.usename, p.owner, '?'), coalesce(a.application_name, ''),
       coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8,
       coalesce(a.state, a.backend_type, '?'), a.query,
       EXISTS (SELECT FROM pg_catalog.pg_locks g WHERE g.virtualtransaction = l.virtualtransaction AND g.locktype = 'advisory'
               AND NOT g.granted AND g.objsubid = 1 AND (g.classid::bigint << 32 | g.objid::bigint) = {gate_key}())
FROM ({relations}) c
JOIN pg_catalog.pg_locks l ON l.relation = c.oid AND l.locktype = 'relation' AND l.granted
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_locks x
    ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.pid IS DISTINCT FROM pg_backend_pid() AND (c.modes IS NULL OR l.mode = ANY (c.modes))
ORDER BY 7 DESC, 3, 1
"""

# Of the events, what conflicts with SHARE ROW EXCLUSIVE on the table itself; on its partitions only what writes: vacuum and ANALYZE
# lock those by themselves, and must not keep a cut-over waiting for as long as they take.
_EVENTS_AND_TABLES = """
    SELECT c.oid, c.relname AS name, NULL AS parent, NULL::text[] AS modes
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(view_schema)s AND c.relname = ANY (%(tables)s)
    UNION ALL
    SELECT {events}::regclass, 'events', NULL,
           '{{RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}}'
    UNION ALL
    SELECT i.inhrelid, NULL, 'events', '{{RowExclusiveLock,ExclusiveLock,AccessExclusiveLock}}'
    FROM pg_catalog.pg_inherits i WHERE i.inhparent = {events}::regclass
"""

# Locks on rows are in the rows, not in pg_locks. But whoever has locked one holds this lock on its table until the transaction ends;
# the stronger modes keep a writer of any row waiting.
_ROWS = """
    SELECT c.oid, 'rows of ' || c.relname AS name, NULL AS parent,
           '{{RowShareLock,RowExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}}'::text[] AS modes
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = ANY (%(bookkeeping)s)
"""


# With partitions, which are locked along. Where keys are only put on, readers are in nobody's way.
_OUTSIDE = """
    SELECT t.oid, o.name, NULL AS parent, CASE WHEN o.is_left THEN NULL ELSE %(modes)s::text[] END AS modes
    FROM unnest(%(oids)s::oid[], %(names)s::text[], %(is_left)s::bool[]) o(oid, name, is_left),
    LATERAL (SELECT o.oid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(o.oid) p) t(oid)
"""


def blockers(
    connection: Connection,
    *,
    event_store_schema: str,
    view_schema: str,
    tables: Collection[str],
    outside: Sequence[OutsideTable] = (),
) -> list[Blocker]:
    """Return every other transaction that holds the gate's key, one of ``tables``, ``events`` for writing, or what is needed of ``outside``;
    gate first, then by age."""
    return [
        *(Blocker("the gate", writer) for writer in Gate(event_store_schema).writers(connection)),
        *relation_holders(
            connection, event_store_schema=event_store_schema, view_schema=view_schema, tables=tables
        ),
        *(outside_holders(connection, event_store_schema=event_store_schema, outside=outside)),
    ]


def relation_holders(
    connection: Connection, *, event_store_schema: str, view_schema: str, tables: Collection[str]
) -> list[Blocker]:
    """Return every other transaction that holds one of ``tables`` in any mode, or ``events`` for writing."""
    events = for_parameters(sql.Literal(sql.Identifier(event_store_schema, "events").as_string(connection)))
    relations = sql.SQL(_EVENTS_AND_TABLES).format(events=events)
    parameters = {"view_schema": view_schema, "tables": list(tables)}
    return _holders(connection, event_store_schema, relations, parameters)


def outside_holders(
    connection: Connection, *, event_store_schema: str, outside: Sequence[OutsideTable]
) -> list[Blocker]:
    """Return every other transaction that holds a lock on one of these tables which a swap cannot do beside."""
    if not outside:
        return []
    parameters = {
        "modes": list(BLOCKING_MODES),
        "oids": [item.oid for item in outside],
        "names": [item.described for item in outside],
        "is_left": [item.is_left for item in outside],
    }
    return _holders(connection, event_store_schema, sql.SQL(_OUTSIDE).format(), parameters)


def row_holders(connection: Connection, *, event_store_schema: str) -> list[Blocker]:
    """Return every other transaction that may have locked rows of the bookkeeping that a cut-over writes.

    Which rows, only the rows themselves know. So they are named where a lock was not to be had, and never waited for.
    """
    relations = sql.SQL(_ROWS).format()
    parameters = {"schema": event_store_schema, "bookkeeping": list(BOOKKEEPING)}
    return _holders(connection, event_store_schema, relations, parameters)


def _holders(
    connection: Connection, event_store_schema: str, relations: sql.Composed, parameters: Mapping[str, Any]
) -> list[Blocker]:
    gate_key = for_parameters(sql.Identifier(event_store_schema, "gate_key"))
    query = sql.SQL(_HOLDERS).format(gate_key=gate_key, relations=relations)
    rows = prepared.execute(connection, query, parameters).fetchall()
    found: dict[tuple[str, str], Blocker] = {}
    for row in rows:
        what, transaction, pid, gid, user, application, open_seconds, state, query_text, is_at_gate = row
        holder = Writer(
            transaction, pid, gid, user, application, open_seconds, state, shown_query(query_text)
        )
        # Several locks of one transaction on one relation, or on several partitions, are one thing to wait for.
        found.setdefault((what, transaction), Blocker(what, holder, is_at_gate))
    return list(found.values())


def listed(found: Iterable[Blocker]) -> str:
    """Name the transactions in one line, each with all that it holds; the oldest first."""
    held: dict[str, list[str]] = {}
    holders: dict[str, Writer] = {}
    for item in found:
        held.setdefault(item.writer.transaction, []).append(item.what)
        holders[item.writer.transaction] = item.writer
    ordered = sorted(holders.values(), key=lambda holder: -holder.open_seconds)
    named = [
        f"{', '.join(dict.fromkeys(held[holder.transaction]))} held by {holder}"
        for holder in ordered[:MOST_LISTED]
    ]
    if len(ordered) > MOST_LISTED:
        named.append(f"and {len(ordered) - MOST_LISTED} more")
    return "; ".join(named) or "whoever held them is gone"
