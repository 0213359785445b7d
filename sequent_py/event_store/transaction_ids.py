"""Transaction ids that this cluster cannot have given out, and their repair: those of a store that was restored from elsewhere.

Every event carries its writer's transaction id, by which snapshot windows are cut (:mod:`sequent_py.windows`). Nothing here is asked while events are appended.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from sequent_py.event_store.store_errors import translated

OLDEST_TRANSACTION_ID = "3"
"""The first ordinary transaction id of any cluster."""
LATER_THAN_WRITER = sql.SQL(
    "mod(xact_id::text::numeric - xmin::text::numeric + 4294967296, 4294967296) BETWEEN 1 AND 2147483647"
)
"""The condition for rows whose ``xact_id`` cannot be that of their writer.

A row's xmin is the transaction that wrote it, or a subtransaction of that one, which comes later: so an id that is later than xmin came from elsewhere.
Both are compared by their low 32 bits, within half the circle. A row that was updated has a later xmin, and passes."""


def foreign_transaction_ids(connection: psycopg.Connection, schema: str) -> int | None:
    """Return the highest stored transaction id if this cluster has not given it out yet; None when all is well.

    That happens when a store is restored into another cluster: windows would take its events for ones that are still to come. Cheap: the end of an
    index, sixteen times.

    Raises
    ------
    StoreNotInstalled
        There is no event store.
    """
    query = sql.SQL(
        "SELECT max(xact_id)::text, pg_snapshot_xmax(pg_current_snapshot())::text,"
        " pg_current_xact_id_if_assigned()::text FROM {}"
    ).format(sql.Identifier(schema, "events"))
    with translated(schema, connection):
        row = connection.execute(query).fetchone()
    assert row is not None
    highest, xmax, own = (int(value) if value is not None else 0 for value in row)
    # What the statement sees has ended and lies below its snapshot's xmax, but for rows of its own transaction.
    return highest if highest >= xmax and highest != own else None


def has_foreign_transaction_ids(connection: psycopg.Connection, schema: str) -> bool:
    """Whether any event carries an id that this cluster cannot have given its writer. Reads every event, unless the newest ids show it.

    Raises
    ------
    StoreNotInstalled
        There is no event store.
    """
    if foreign_transaction_ids(connection, schema) is not None:
        return True
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
        sql.Identifier(schema, "events"), LATER_THAN_WRITER
    )
    with translated(schema, connection):
        return connection.execute(query).fetchone() == (True,)


def repair_transaction_ids(connection: psycopg.Connection, schema: str) -> int:
    """Give events that came from another cluster the oldest transaction id, which every snapshot sees; return how many there were.

    Exact while writers go on: what the statement sees and this cluster wrote lies below its snapshot's xmax, and is not later than the row's
    xmin. Notes of edits came along, and get it too; so do the rows that appends queue for, where an id says "mine already" to a transaction of
    ours that happens to get it. Passes the gate.
    """
    update = sql.SQL(
        "UPDATE {} SET xact_id = {}::xid8 WHERE xact_id >= pg_snapshot_xmax(pg_current_snapshot()) OR {}"
    )
    oldest = sql.Literal(OLDEST_TRANSACTION_ID)
    with translated(schema, connection), connection.transaction():
        # The first statement notes itself as an edit, by a trigger, with an id of ours.
        changed = connection.execute(
            update.format(sql.Identifier(schema, "events"), oldest, LATER_THAN_WRITER)
        ).rowcount
        for table in ("event_edits", "append_order", "partitions"):
            connection.execute(update.format(sql.Identifier(schema, table), oldest, LATER_THAN_WRITER))
        return changed
