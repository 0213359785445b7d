"""Replaying a migration's groups, one after the other, until none is left: in a worker process, or in the coordinator's own.

An event that cannot be projected, or whose rows their table refuses, stops the replay, or, where the migration was begun with a quarantine, sets
its aggregate aside: what the group wrote is taken back to a savepoint, the aggregate is noted while the group's claim is still held, and the
transaction commits nothing but that. So no other worker can be at that group between the failure and the note.

A worker has two connections: events stream from the *reader* while the *writer* holds the group's claim, looks rows up where it must, and
writes. A group is one transaction on the writer: claim, rows, done. A worker killed anywhere leaves nothing behind.
"""

from __future__ import annotations

import gc
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure
from psycopg.pq import TransactionStatus

from sequent_py import database
from sequent_py.collector import collector_paused
from sequent_py.errors import ConfigurationError, InvalidPayload, ProjectionError, WorkerFailed
from sequent_py.event_classes import EventTypes
from sequent_py.persistors.deferred import DeferredConstraints, read_deferred
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, record_shape
from sequent_py.replay import fence
from sequent_py.replay.control import Control
from sequent_py.replay.governor import Governor, Listener
from sequent_py.replay.group_fold import Folding, GroupFold
from sequent_py.replay.ledger import ClaimedGroup, Connection, Ledger
from sequent_py.replay.quarantine import OFFER, Quarantine
from sequent_py.replay.refold import SpecialAggregate
from sequent_py.replay.same_code import require_same_code
from sequent_py.replay.standby import READ_FROM_PRIMARY, Standby, open_standby
from sequent_py.replay.task import ReplayTask
from sequent_py.replay.violations import COLLECTED_EVENTS, Failure, failures_of
from sequent_py.roles.assume import assume
from sequent_py.roles.rules import RoleKind
from sequent_py.view_schema.migrations import Migrations, definition

READER_WORK_MEM = "64MB"
"""Holds the sort of a group of up to 100 000 events of some hundred bytes each."""

MOST_LOCK_RETRIES = 3
"""So often is a group tried again that lost a deadlock, or waited in vain for another's rows."""

MOST_CANCELLED_READS = 5
"""So often is a group begun anew whose reading a standby has cancelled."""


@dataclass(frozen=True)
class GroupDone:
    """A group that this worker has committed."""

    events: int
    seconds: float
    events_handled: int
    """By handlers, which leave something to the cyclic collector; the others never left the server."""


class GroupReplayer:
    """Replays claimed groups of one migration with this process's code."""

    def __init__(self, task: ReplayTask, migrations: type[Migrations], event_types: EventTypes) -> None:
        self._task = task
        self._ledger = Ledger(task.event_store_schema)
        self._quarantine = Quarantine(task.event_store_schema)
        by_name = {item.name: item.projector for item in definition(migrations).projectors}
        missing = [name for name in task.projectors if name not in by_name]
        if missing:
            raise ConfigurationError(
                f"{task.migrations_class} has no projector {', '.join(missing)}, which the migration replays.",
                remedy="Run the worker with the code that started the migration.",
            )
        self.projectors: list[type[Projector]] = [by_name[name] for name in task.projectors]
        self._event_types = event_types
        self.tables: dict[type[Record], TableShape] = {}
        self._folding = self._fold_into(DeferredConstraints())
        self._governor: Governor | None = None
        self._standby: Standby | None = None
        self._may_quarantine = task.may_quarantine and all(
            item.ordering == "aggregate" for item in self.projectors
        )
        self._takes_turns = True
        """Whether groups are folded one aggregate after another where they may be: until one fails."""
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def run(
        self,
        reader: Connection,
        writer: Connection,
        on_done: Callable[[GroupDone], object] | None = None,
        *,
        on_hold: Listener = lambda _hold: None,
        check: Callable[[], object] = lambda: None,
    ) -> int:
        """Claim and replay groups until none is left; return how many this worker did.

        Between groups it waits for the governor, which tells ``on_hold`` why, and calls ``check`` while it waits; in a transaction of the caller's it
        does not.

        Raises
        ------
        ProjectionFailed, InvalidPayload
            A handler raised, a table refuses the rows or a payload does not validate, and the migration has no quarantine or a full one;
            noted on the group, which stays claimable.
        """
        self.prepare(writer)
        self._govern(reader, writer, on_hold, check)
        groups = 0
        # It would walk a group's rows again and again, a fifth of a window's time.
        with collector_paused() as is_paused:
            while (done := self._replay_next(reader, writer)) is not None:
                groups += 1
                if is_paused and done.events_handled > COLLECTED_EVENTS:
                    gc.collect()
                if on_done is not None:
                    on_done(done)
        return groups

    def _govern(
        self, reader: Connection, writer: Connection, on_hold: Listener, check: Callable[[], object]
    ) -> None:
        def sleep(seconds: float) -> None:
            check()
            time.sleep(seconds)

        task = self._task
        self._governor = self._standby = None
        if writer.info.transaction_status != TransactionStatus.IDLE:
            # A window that is one transaction: writers may wait for it, and no standby can see it.
            return
        if task.is_governed:
            self._governor = Governor(
                task.event_store_schema, task.migration_id, task.epoch, listener=on_hold, sleep=sleep
            )
        if task.standby_url is not None:
            self._standby = open_standby(reader, writer, task.event_store_schema)

    def prepare(self, connection: Connection) -> None:
        """Read what the database knows, after the migration has begun and before the first group."""
        if self.tables:
            return
        with connection.transaction():
            for projector in self.projectors:
                for record in projector_definition(projector).records:
                    if record not in self.tables:
                        shape = record_shape(record)
                        physical = self._task.physical_tables[shape.table_name]
                        self.tables[record] = read_table_shape(
                            connection, shape, self._task.view_schema, physical
                        )
            self._folding = self._fold_into(read_deferred(connection, self.tables.values()))

    def _fold_into(self, deferred: DeferredConstraints) -> Folding:
        return Folding(
            self._task.event_store_schema,
            self.projectors,
            self.tables,
            self._event_types,
            deferred,
            self._task.max_rows_in_memory,
        )

    def _replay_next(self, reader: Connection, writer: Connection) -> GroupDone | None:
        is_nested = writer.info.transaction_status != TransactionStatus.IDLE
        tries = cancelled = 0
        if self._governor is not None and not self._governor.admit(writer):
            return None
        while True:
            try:
                done = self._try_next(reader, writer)
            except SerializationFailure as error:
                if self._standby is None:
                    raise
                cancelled += 1
                if cancelled > MOST_CANCELLED_READS:
                    raise WorkerFailed(
                        f"The standby cancelled the reading of a group {cancelled} times: {error}.",
                        remedy=f"Set hot_standby_feedback = on there, or a longer max_standby_streaming_delay. {READ_FROM_PRIMARY}",
                    ) from error
                continue
            except (DeadlockDetected, LockNotAvailable):
                # Two groups whose rows exclude one another wait for each other's end. Once one has ended, the other meets its rows.
                tries += 1
                if is_nested or tries > MOST_LOCK_RETRIES:
                    raise
                continue
            if isinstance(done, ClaimedGroup):
                assert self._standby is not None
                self._standby.wait_for(done)
                continue
            if done != "set aside":
                if done is not None and self._governor is not None:
                    self._governor.finished(writer, done.events)
                return done
            tries = 0

    def _try_next(
        self, reader: Connection, writer: Connection
    ) -> GroupDone | Literal["set aside"] | ClaimedGroup | None:
        """Replay a group, or set aggregates of it aside, after which it can be claimed again; None when none is left.

        A group that the standby has not got yet is given back and returned.
        """
        started = time.perf_counter()
        with writer.transaction():
            # Losing the newest groups with a crashed server is harmless: rows and "done" are lost together.
            writer.execute("SET LOCAL synchronous_commit = off")
            claimed = self._ledger.claim(writer, self._task.migration_id, epoch=self._task.epoch)
            if claimed is None:
                return None
            if self._standby is not None and not self._standby.covers(claimed):
                return claimed
            specials = self._ledger.special_aggregates(writer, claimed)
            group = GroupFold(self._folding, claimed, specials, reader, writer)
            failure: Failure | None = None
            try:
                events, row_changes = self._run_in_turn(group) or self._run(group)
            except (ProjectionError, InvalidPayload, psycopg.Error) as error:
                failure = self._set_aside_all(group, specials, error)
            else:
                if self._standby is not None:
                    self._standby.require_standby()
                seconds = time.perf_counter() - started
                self._ledger.finish(
                    writer,
                    claimed,
                    events=events,
                    row_changes=row_changes,
                    seconds=seconds,
                    worker=self._name,
                )
                return GroupDone(events, seconds, group.events_handled)
        if failure is not None:
            raise failure
        return "set aside"

    def _run_in_turn(self, group: GroupFold) -> tuple[int, dict[str, int]] | None:
        """Fold one aggregate after another where that may be; None where it may not be, or failed.

        It is then to be folded in position order, as all groups from then on: which event is to blame does not depend on how the group was read, and what one aggregate
        gives up for another to take (a primary key, say) is no failure.
        """
        if not (self._takes_turns and group.may_take_turns):
            return None
        group.takes_turns = True
        try:
            return self._run(group)
        except psycopg.OperationalError:
            raise
        except (ProjectionError, InvalidPayload, psycopg.Error) as error:
            # Their rows would stay in memory while the group is folded again.
            traceback.clear_frames(error.__traceback__)
            self._takes_turns = group.takes_turns = False
        group.begin_anew()
        return None

    def _run(self, group: GroupFold) -> tuple[int, dict[str, int]]:
        with group.writer.transaction():
            return group.run()

    def _set_aside_all(
        self, group: GroupFold, specials: Sequence[SpecialAggregate], error: Exception
    ) -> Failure | None:
        """Find what failed, note it, and set its aggregates aside where the migration allows it; return the first that it does not.

        Raises
        ------
        Exception
            ``error``, where no event is to blame.
        """
        limit, writer = self._task.quarantine_limit, group.writer
        listed = self._quarantine.listed(writer, self._task.migration_id)
        most = 1 if limit is None else max(limit - len(listed), 0) + 1
        for failure in failures_of(group, error, most=most):
            if not self._set_aside(writer, group.claimed, specials, failure):
                return failure
        return None

    def _set_aside(
        self,
        writer: Connection,
        claimed: ClaimedGroup,
        specials: Sequence[SpecialAggregate],
        error: Failure,
    ) -> bool:
        """Note the failure, and set its aggregate aside where the migration allows it; whether it was."""
        limit = self._task.quarantine_limit
        listed = {item.aggregate_id: item for item in self._quarantine.listed(writer, claimed.migration_id)}
        before = listed.get(error.aggregate_id)
        if limit is None or (before is None and len(listed) >= limit):
            if limit is None and self._may_quarantine:
                error.remedy += f" {OFFER}"
            if limit is not None:
                error.remedy = f"{len(listed)} aggregates are set aside already, and --quarantine-limit is {limit}. {error.remedy}"
            self._ledger.record_error(writer, claimed, str(error))
            return False
        if error.aggregate_id is None or (before is not None and before.pass_number == claimed.pass_number):
            # Nobody knows whom to leave out, or it was left out, and failed all the same: going on would never end.
            self._ledger.record_error(writer, claimed, str(error))
            return False
        special = next((item for item in specials if item.aggregate_id == error.aggregate_id), None)
        # Its rows stay as this pass found them, unless they are of events that were edited: those go, and then nothing is there.
        since = special.since if special is not None else claimed.since
        self._quarantine.set_aside(writer, claimed.migration_id, claimed.pass_number, error, since=since)
        return True


def connect_worker(
    database_url: str, event_store_schema: str, standby_url: str | None = None
) -> tuple[Connection, Connection]:
    """Open a worker's reader, to the standby if there is one, and its writer; the writer holds the worker lock from now on."""
    with ExitStack() as stack:
        reader = stack.enter_context(
            closing(
                database.connect_for_migration(
                    standby_url or database_url, application_name="sequent worker (reader)"
                )
            )
        )
        # A group is sorted by position; the default of 4 MB would send every sort to disk.
        reader.execute("SELECT set_config('work_mem', %s, false)", (READER_WORK_MEM,))
        writer = stack.enter_context(
            closing(database.connect_for_migration(database_url, application_name="sequent worker"))
        )
        for connection, name in ((reader, "sequent worker (reader)"), (writer, "sequent worker")):
            # Whatever name the URL gives: the governor tells by it who is not the application. And the workers are as many as they are to be: the
            # server's own for parallel queries would only add their start, half as much again as reading a window's group, and are the application's.
            connection.execute(
                "SELECT set_config('application_name', %s, false), set_config('max_parallel_workers_per_gather', '0', false)",
                (name,),
            )
            assume(connection, event_store_schema, RoleKind.MIGRATOR)
        fence.become_worker(writer, event_store_schema)
        stack.pop_all()
    return reader, writer


def require_code_of_run(connection: Connection, task: ReplayTask, migrations: type[Migrations]) -> None:
    """Refuse to join a run from elsewhere with other code; where the run is over already there is nothing to join.

    Raises
    ------
    ConfigurationError
        Naming what differs.
    """
    if not task.is_elsewhere:
        return
    standing = Control(task.event_store_schema).read(connection)
    if standing.is_of(task.migration_id, task.epoch):
        require_same_code(standing.code, definition(migrations))
