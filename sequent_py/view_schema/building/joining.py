"""``worker``: joining the replay that is running, from this or any other host. And ``pause`` and ``resume``, which hold for workers on every host.

What is being replayed is read from the bookkeeping, in one snapshot with the epoch of its run: a worker that joins while another run begins has an epoch of
which there is nothing to claim. Any pass that is committed can be joined: those of ``online``, ``offline`` and ``golive`` by the code of the
unfinished migration, those of ``rollback`` by the code that is to serve again. The last window of a cut-over is one transaction of the coordinator's, and cannot.

A pause waits for nothing: groups that have been begun are finished.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg

from sequent_py.errors import ConfigurationError, SequentError
from sequent_py.progress import Progress
from sequent_py.replay import fence
from sequent_py.replay.governor import note_hold
from sequent_py.replay.ledger import Connection
from sequent_py.replay.limits import Pause
from sequent_py.replay.replayer import join_replay
from sequent_py.replay.task import ReplayTask
from sequent_py.roles.lacking import Deed, lacking
from sequent_py.view_schema import guards
from sequent_py.view_schema.bookkeeping.moment import at_one_moment
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.planning import current_rollback
from sequent_py.view_schema.plans import resolve

START_ONE = "Start one: sequent migrate online"


@dataclass(frozen=True)
class PauseReport:
    """What ``pause`` or ``resume`` did."""

    pause: Pause | None
    """The pause that holds now, or that has been taken back; None when there was none to take back."""
    is_paused: bool
    holder: str | None
    """Who runs a migration right now."""
    workers: int


def run_worker(context: Context, *, progress: Progress) -> int:
    """Replay groups of the running replay until none is left; return how many.

    Raises
    ------
    ConfigurationError
        No replay is running that this code could join.
    ForeignTransactionIds
        Snapshots of this store are another cluster's.
    """
    with context.reading("migrate worker") as connection:
        context.require_installed(connection)
        guards.require_own_snapshots(connection, context.schema)
        task = at_one_moment(connection, context.schema, lambda: _joinable(context, connection))
    progress.step("replaying")
    return join_replay(
        replace(task, is_elsewhere=True),
        context.migrations,
        context.event_types,
        on_hold=lambda hold: note_hold(progress, hold),
    )


def _joinable(context: Context, connection: Connection) -> ReplayTask:
    if fence.coordinator(connection, context.schema) is None:
        raise ConfigurationError("No replay is running that a worker could join.", remedy=START_ONE)
    migration = context.versions.unfinished(connection)
    if migration is not None:
        resolve(migration.plan, context.definition)
        return context.task(migration, migration.plan, epoch=migration.epoch)
    return _rollback_task(context, connection)


def _rollback_task(context: Context, connection: Connection) -> ReplayTask:
    try:
        plan = current_rollback(context, connection)
    except SequentError as error:
        raise ConfigurationError(
            f"No replay is running that a worker with this code could join: {error.message}", remedy=START_ONE
        ) from error
    standing = context.control.read(connection)
    if plan is None or not standing.is_of(plan.migration.id, plan.migration.epoch):
        raise ConfigurationError(
            f"No replay is running that a worker with the code of version {context.definition.version} could join.",
            remedy="A rollback is joined with the code that is to serve again. " + START_ONE,
        )
    task = context.task(plan.migration, plan.replay, epoch=plan.migration.epoch)
    # As the coordinator's own, see ReturnPasses.
    return replace(task, quarantine_limit=None, may_quarantine=False)


def run_pause(context: Context, reason: str | None) -> PauseReport:
    """Let no worker begin another group, and no cut-over begin, until ``resume``.

    Raises
    ------
    StoreNotInstalled, InsufficientPrivileges
        Nothing was changed.
    """
    with _changing(context, "pause") as connection:
        row = connection.execute("SELECT session_user").fetchone()
        by = f"{row[0] if row else '?'} ({socket.gethostname()}:{os.getpid()})"
        pause = context.control.pause(connection, by, reason)
        return _report(context, connection, pause, is_paused=True)


def run_resume(context: Context) -> PauseReport:
    """Take a pause back, whoever made it; workers that wait go on within a second.

    Raises
    ------
    StoreNotInstalled, InsufficientPrivileges
        Nothing was changed.
    """
    with _changing(context, "resume") as connection:
        return _report(context, connection, context.control.resume(connection), is_paused=False)


@contextmanager
def _changing(context: Context, command: str) -> Iterator[Connection]:
    with context.connect(f"migrate {command}") as connection:
        context.require_installed(connection)
        try:
            yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise lacking(connection, context.schema, Deed.PAUSE, error) from error


def _report(context: Context, connection: Connection, pause: Pause | None, *, is_paused: bool) -> PauseReport:
    return PauseReport(
        pause,
        is_paused,
        fence.coordinator(connection, context.schema),
        fence.worker_count(connection, context.schema),
    )
