"""Serial appends: in force while a version needs them, and before the first snapshot that counts on them.

Owns the column ``view_migrations.needs_serial_appends`` and decides what ``gate.serial_appends`` says. While that is set, every transaction
that writes events takes one row before it draws positions and keeps it until it ends.

Why :func:`establish` makes windows exact. Call a transaction that passed the gate before the setting committed *unordered*, any later one
*ordered*; ordered ones never overlap between their first position and their end. The first wait outlasts every unordered one. A snapshot
taken right then could still be wrong: an ordered transaction that is in flight may have drawn position 7 while an unordered one drew 8 and has
committed. So there is a second wait, for every transaction that was in flight when the first was over. Whoever appends after that moment
draws positions above all that unordered transactions have; and among ordered ones the order of positions is the order of commits. So a snapshot
taken after the second wait sees an exact prefix of the positions, as does every later one. Events from before the setting need nothing more:
they are committed, hence visible, or rolled back, hence gone.

Nobody records that the waits have been done: each command does them again before its first snapshot. That costs as long as the writers in
flight take, is right whoever died where, and needs no flag that could outlive its truth.

Locks: the gate's row for a moment, as :class:`~sequent_py.event_store.gate.Gate` does. A process that dies leaves appends serial at worst: slower, never wrong; the
next promotion or abort sees to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import LiteralString

from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.errors import StoreNotInstalled
from sequent_py.event_store.gate import POLL_SECONDS, Gate, Writer, drain_timeout
from sequent_py.progress import Progress
from sequent_py.projectors import ProjectorDefinition
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.context import Context

WAITS = 2
"""See above: one would let a snapshot see position 8 and not 7."""
QUIET_SECONDS = 1.0
"""Waiting is worth a line after this long."""


def needs_serial_appends(projectors: Iterable[ProjectorDefinition]) -> bool:
    """Whether one of the projectors depends on the order of all events."""
    return any(projector.ordering == "global" for projector in projectors)


def record_need(context: Context, connection: Connection, migration_id: int) -> None:
    """Note on a migration's row whether its version needs serial appends, in the transaction that begins it."""
    connection.execute(
        _sql(context.schema, "UPDATE {migrations} SET needs_serial_appends = %s WHERE id = %s"),
        (needs_serial_appends(context.definition.projectors), migration_id),
    )


def establish(context: Context, connection: Connection, progress: Progress) -> None:
    """Make appends serial and return once every later snapshot sees a prefix of the positions.

    The connection is in autocommit and in no transaction: writers must see the setting.

    Raises
    ------
    DrainTimeout
        Writers in flight did not end in time; names each. Appends stay serial.
    """
    context.gate.set_serial_appends(connection, True)
    for _ in range(WAITS):
        _outlast_writers(context.gate, connection, context.config.drain_timeout_seconds, progress)


def release(context: Context, connection: Connection) -> None:
    """Let appends be serial only if the live version or an unfinished one needs it; for the transaction that changes which those are."""
    settle(connection, context.schema)


def settle(connection: Connection, schema: str) -> None:
    """Do as :func:`release`, with nothing but a store.

    Raises
    ------
    StoreNotInstalled
        The gate has lost its row.
    """
    row = connection.execute(_sql(schema, _IS_NEEDED), ()).fetchone()
    if row is None:
        raise StoreNotInstalled(schema, "has lost the row of its gate")
    is_needed, is_serial = row
    if is_needed is not is_serial:
        # Writers may be waiting for this transaction: mostly there is nothing to change.
        Gate(schema).set_serial_appends(connection, bool(is_needed))


def _outlast_writers(gate: Gate, connection: Connection, timeout_seconds: float, progress: Progress) -> None:
    """Wait until every transaction that holds the gate's key now has ended; new ones may come."""
    started = time.monotonic()
    is_told = False
    writers: list[Writer] = gate.writers(connection)
    waiting_for = {writer.transaction for writer in writers}
    while waiting_for:
        waited = time.monotonic() - started
        if waited >= timeout_seconds:
            raise drain_timeout(
                [writer for writer in writers if writer.transaction in waiting_for], timeout_seconds
            )
        if waited >= QUIET_SECONDS and not is_told:
            progress.note(
                f"Waiting for {len(waiting_for)} transactions that append, to have all later ones in line."
            )
            is_told = True
        time.sleep(POLL_SECONDS)
        writers = gate.writers(connection)
        waiting_for &= {writer.transaction for writer in writers}


def _sql(schema: str, statement: LiteralString) -> sql.Composed:
    return sql.SQL(statement).format(
        migrations=for_parameters(sql.Identifier(schema, "view_migrations")),
        gate=for_parameters(sql.Identifier(schema, "gate")),
    )


# The live version is described by the newest migration that led to it, also after a rollback of a later one.
_IS_NEEDED = """
SELECT
    EXISTS (SELECT FROM {migrations} m WHERE m.needs_serial_appends AND m.finished_at IS NULL)
    OR coalesce((
        SELECT m.needs_serial_appends FROM {migrations} m
        WHERE m.target_version = g.live_version AND m.finished_at IS NOT NULL AND m.state <> 'aborted'
        ORDER BY m.id DESC LIMIT 1
    ), false),
    g.serial_appends
FROM {gate} g
"""
