"""Lost rows that can be put back: the gate's, and that of ``append_order``. Both are made again from what else is recorded.

The live version follows from the history of migrations: it is the target of the newest that is live. Whether maintenance mode was on is recorded nowhere
else, so the gate comes back closed: nobody could append without its row, and somebody should look before anybody can again. It counts cut-overs from the
seconds since 1970, which no store has had as many of: processes that know what an earlier count served must not take it for the same.

In one transaction, by the store's owner. Two at once put each row back once. A cut-over that is at work fails for want of the row, or has it; it never commits
without.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.errors import InvalidTransition, LostRow, StoreNotInstalled
from sequent_py.event_store.gate import Gate
from sequent_py.health.store_rows import has_append_order
from sequent_py.view_schema.bookkeeping.relations import Relations, TableRole
from sequent_py.view_schema.bookkeeping.versions import Versions
from sequent_py.view_schema.building import serial_order
from sequent_py.view_schema.guards import require_owner
from sequent_py.view_schema.states import MigrationState

Connection = psycopg.Connection[Any]

REASON = "the gate had lost its row"


def restore_lost_rows(connection: Connection, schema: str) -> tuple[str, ...]:
    """Put back what is missing and say what that was, and what comes next; nothing where nothing is missing. ``connection`` is in autocommit.

    Raises
    ------
    LostRow
        The history of migrations does not say which version is live.
    InvalidTransition
        The line of appends was broken while a migration needed it: that has to be given up first. Nothing was changed.
    InsufficientPrivileges
        The login does not own the store.
    """
    try:
        has_gate, has_line = _has_gate(connection, schema), has_append_order(connection, schema)
    except psycopg.errors.InsufficientPrivilege:
        # A login that may not look has nothing to mend.
        return ()
    if has_gate and has_line:
        return ()
    require_owner(connection, schema)
    done: list[str] = []
    with connection.transaction():
        if not has_gate:
            version = _live_version(connection, schema)
            connection.execute(_sql(schema, _GATE), (version, REASON))
            serial_order.settle(connection, schema)
            done.append(
                f"The gate's row: version {version} is live, and maintenance mode is on, for nobody knows whether it was. If it need not be:"
                " sequent maintenance off"
            )
        if not has_line:
            _refuse_broken_line(connection, schema)
            connection.execute(_sql(schema, _APPEND_ORDER), ())
            done.append(
                "The row of append_order: appends form a line again."
                + (
                    " What was appended without it may be projected in another order than that of its positions: sequent migrate verify --all"
                    if Gate(schema).has_serial_appends(connection)
                    else ""
                )
            )
    return tuple(done)


def _has_gate(connection: Connection, schema: str) -> bool:
    try:
        Gate(schema).cut_overs(connection)
    except StoreNotInstalled:
        return False
    return True


def _live_version(connection: Connection, schema: str) -> int:
    # A version that was rolled back is not live, and what was built on it was rolled back before it.
    live = [it for it in Versions(schema).history(connection) if it.state is MigrationState.LIVE]
    if not live and Relations(schema).tables(connection, TableRole.LIVE):
        raise LostRow(f"{schema}.view_migrations", "the version that the live tables are of")
    return live[0].target_version if live else 0


def _refuse_broken_line(connection: Connection, schema: str) -> None:
    """Passes that were cut while appends formed no line may lack events that they should have."""
    row = connection.execute(_sql(schema, _UNFINISHED), ()).fetchone()
    if row is not None:
        raise InvalidTransition(
            f"append_order has lost its row while the view migration to version {row[0]}, which has projectors of ordering global, was at"
            " work: its passes may have missed events.",
            remedy="Run: sequent migrate abort, then sequent init, and begin anew.",
        )


def _sql(schema: str, statement: LiteralString) -> sql.Composed:
    return sql.SQL(statement).format(
        gate=for_parameters(sql.Identifier(schema, "gate")),
        append_order=for_parameters(sql.Identifier(schema, "append_order")),
        migrations=for_parameters(sql.Identifier(schema, "view_migrations")),
    )


# Serial at first: slower, and never wrong, whatever becomes of the statement that looks whether it is needed.
_GATE = """
INSERT INTO {gate} (live_version, cut_overs, serial_appends, maintenance, maintenance_reason, maintenance_since)
VALUES (%s, extract(epoch FROM clock_timestamp())::bigint, true, true, %s, clock_timestamp())
ON CONFLICT DO NOTHING
"""
_APPEND_ORDER = "INSERT INTO {append_order} (xact_id) VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING"
_UNFINISHED = "SELECT target_version FROM {migrations} WHERE finished_at IS NULL AND needs_serial_appends"
