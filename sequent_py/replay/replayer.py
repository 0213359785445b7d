"""Running a pass to its end: workers are started, watched and replaced; the ledger says when it is done.

A pass is resumable at any point: running it again replays the unfinished groups only. The coordinator's own connection is used for
nothing but reading the ledger meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from sequent_py import errors
from sequent_py.errors import SequentError, WorkerFailed
from sequent_py.event_classes import EventTypes
from sequent_py.progress import Progress, ReplayProgress
from sequent_py.replay import fence
from sequent_py.replay.governor import LOOK_SECONDS, Governor, Listener, note_hold
from sequent_py.replay.group_replayer import GroupDone, GroupReplayer, connect_worker, require_code_of_run
from sequent_py.replay.ledger import Connection, Ledger, Pass
from sequent_py.replay.limits import Hold
from sequent_py.replay.pools import LocalPool, PoolFactory, WorkerExit, waiting_copies
from sequent_py.replay.task import ReplayTask
from sequent_py.view_schema.migrations import Migrations

INLINE_EVENTS = 20_000
"""Passes up to this size run in the calling process: starting a worker takes as long as replaying about this many events."""

COPIED_WINDOW_EVENTS = 4_000
"""Windows only up to this one where workers are waiting that are copies of the calling process: those begin at once, and each event of a window costs several times as much."""

HELPED_TIMES = 10
"""Up to so many times the former size the calling process replays, too, and one worker fewer is started: it would be done before that one is up. Larger passes it only watches."""

POLL_SECONDS = 0.02
WATCH_SECONDS = 0.1
"""How often the ledger is asked whether all is done, while workers are at work; what they say themselves is heard at once."""
PROGRESS_SECONDS = 0.25
"""How often the progress is looked at. That reads all groups of the pass, tens of thousands in a large store…"""
PROGRESS_SHARE = 0.02
"""…so it may take this share of the time at most."""
JOINED_WORKER_PATIENCE_SECONDS = 15.0
"""How long a worker that joined from elsewhere may hold the last groups; then its backend is ended and we replay them."""
REPLACEMENTS_PER_WORKER = 2
"""Workers that were killed are replaced, but not for ever: whatever kills them (memory, say) may come back."""


Meanwhile = Callable[[Callable[[], object]], object]


def inline_events(*, are_copied: bool, is_window: bool) -> int:
    """Up to how many events of a pass the calling process replays alone; ``are_copied``: the workers would be copies of it."""
    return min(INLINE_EVENTS, COPIED_WINDOW_EVENTS) if are_copied and is_window else INLINE_EVENTS


def processes_of(events: int, workers: int, inline: int) -> int:
    """How many processes of their own a pass of so many events has for its workers on this machine: the calling process may be one of them.

    ``inline``: what :func:`inline_events` says of it.
    """
    if workers == 0 or events <= inline:
        return 0
    return workers - (events <= INLINE_EVENTS * HELPED_TIMES)


class Replayer:
    """Runs the passes of one migration with this process's code."""

    def __init__(
        self,
        task: ReplayTask,
        migrations: type[Migrations],
        event_types: EventTypes,
        pool: PoolFactory = LocalPool,
    ) -> None:
        self._task = task
        self._pool = pool
        self._migrations = migrations
        self._event_types = event_types
        self._ledger = Ledger(task.event_store_schema)
        self.was_held = False
        """Whether a pause or a limit has held the last run up: how long it took then says nothing about how fast the replay is."""

    def run(
        self,
        connection: Connection,
        which: Pass,
        *,
        workers: int,
        progress: Progress,
        check: Callable[[], object] = lambda: None,
        meanwhile: Meanwhile = lambda _report: None,
    ) -> ReplayProgress:
        """Replay every unfinished group of the migration and return how the pass ended.

        ``check`` is called between groups, and several times a second while others replay them; what it raises ends the workers and the run. ``meanwhile`` is called
        once before this process helps the workers, which have then begun: work of its own that would otherwise be left for the end. Not where it only watches: the workers are as many as
        they are to be, and would wait for it. It is to call what it is given now and then, which tells the progress.

        Raises
        ------
        ProjectionFailed, InvalidPayload, UnknownEventType
            The code cannot project an event; finished groups are kept.
        WorkerFailed
            Workers keep dying.
        """
        self.was_held = False
        watch = _Watch(self._ledger, connection, which, progress, check)
        if self._ledger.has_unfinished(connection, which.migration_id):
            inline = inline_events(
                are_copied=waiting_copies(self._pool) > 0, is_window=which.since is not None
            )
            if workers == 0 or which.estimated_events <= inline:
                self._run_inline(connection, progress, lambda: watch.look(1), check)
            else:
                self._run_pool(
                    connection,
                    min(workers, watch.groups_total),
                    progress,
                    watch,
                    check,
                    meanwhile,
                    may_help=processes_of(which.estimated_events, workers, inline) < workers,
                )
        return watch.report(0)

    def _run_inline(
        self,
        connection: Connection,
        progress: Progress,
        report: Callable[[], object],
        check: Callable[[], object],
    ) -> None:
        waiting_since: float | None = None
        while True:
            if self._join(progress, report, check):
                waiting_since = None
            if not self._ledger.has_unfinished(connection, self._task.migration_id):
                return
            # Nothing left to claim is not the same as done: a worker that joined from elsewhere holds the rest.
            now = time.monotonic()
            waiting_since = waiting_since or now
            if now - waiting_since > JOINED_WORKER_PATIENCE_SECONDS:
                evicted = fence.evict_workers(connection, self._task.event_store_schema)
                progress.note(
                    f"Ended {evicted} joined worker{'s'[: evicted != 1]} that did not finish a group."
                )
                waiting_since = None
            check()
            time.sleep(POLL_SECONDS)

    def _help(self, progress: Progress, report: Callable[[], object], check: Callable[[], object]) -> bool:
        """Replay beside the workers until no group is left to claim; whether a backend was lost instead, so that one more worker is needed."""
        try:
            self._join(progress, report, check)
        except psycopg.OperationalError as error:
            if type(error).__name__ not in _LOST_BACKEND:
                raise
            progress.note(
                f"This process lost the connection that it replayed with ({str(error).strip()}); a worker takes over its group."
            )
            return True
        return False

    def _join(self, progress: Progress, report: Callable[[], object], check: Callable[[], object]) -> int:
        """Replay groups in this process until none is left to claim; return how many."""
        return join_replay(
            self._task,
            self._migrations,
            self._event_types,
            lambda _done: report(),
            on_hold=lambda hold: self._note_hold(progress, hold),
            check=check,
        )

    def _run_pool(
        self,
        connection: Connection,
        workers: int,
        progress: Progress,
        watch: _Watch,
        check: Callable[[], object],
        meanwhile: Meanwhile,
        *,
        may_help: bool,
    ) -> None:
        """Let workers replay, and help them or watch only."""
        report = watch.look
        replacements = REPLACEMENTS_PER_WORKER * workers
        task = self._task
        governor = Governor(
            task.event_store_schema,
            task.migration_id,
            task.epoch,
            listener=lambda hold: self._note_hold(progress, hold),
        )
        looked_at = -LOOK_SECONDS
        with self._pool(task) as pool:
            helps = may_help and pool.is_local
            pool.start(workers - helps)
            if helps:
                meanwhile(lambda: report(pool.running))
                if self._help(progress, lambda: report(pool.running + 1), check):
                    replacements -= 1
                    pool.start(1)
            while self._ledger.has_unfinished(connection, task.migration_id):
                if task.is_governed and time.monotonic() - looked_at >= LOOK_SECONDS:
                    # Workers ask for themselves; here it is looked at for those who watch.
                    looked_at = time.monotonic()
                    governor.look(connection)
                for ended in pool.collect():
                    if ended.is_success:
                        continue
                    if not _is_killed(ended) or replacements == 0:
                        raise _error_of(ended)
                    replacements -= 1
                    progress.note(
                        f"Worker {ended.name} was lost ({_how(ended)}); another takes over its group."
                    )
                    pool.start(1)
                if pool.running == 0:
                    # All have left because every group was taken; a worker that joined from elsewhere holds the last ones, or died with one. Or
                    # their environment leads to another database, where there was nothing to do for them.
                    if left := self._ledger.unfinished_groups(connection, task.migration_id):
                        progress.note(
                            f"The workers have found nothing more to do, and {left} group{'s are' if left != 1 else ' is'} not done; this process goes on alone."
                        )
                    self._run_inline(connection, progress, lambda: report(1), check)
                report(pool.running)
                pool.wait(WATCH_SECONDS)

    def _note_hold(self, progress: Progress, hold: Hold | None) -> None:
        self.was_held = True
        note_hold(progress, hold)


class _Watch:
    """Looks how far a pass has come, and tells the progress; counts from what an earlier run had done."""

    def __init__(
        self,
        ledger: Ledger,
        connection: Connection,
        which: Pass,
        progress: Progress,
        check: Callable[[], object],
    ) -> None:
        self._ledger, self._connection, self._which, self._progress = ledger, connection, which, progress
        self._check = check
        self._started = time.monotonic()
        self._before = ledger.progress(connection, which.migration_id, which.number)
        self._next_look = self._started
        self.groups_total = self._before.groups_total

    def look(self, running: int) -> None:
        """Report if it is time to, and check whether to go on."""
        self._check()
        if time.monotonic() >= self._next_look:
            self.report(running)

    def report(self, running: int) -> ReplayProgress:
        """Look, tell and return what was seen."""
        began = time.monotonic()
        now = self._ledger.progress(self._connection, self._which.migration_id, self._which.number)
        ended = time.monotonic()
        self._next_look = ended + max(PROGRESS_SECONDS, (ended - began) / PROGRESS_SHARE)
        seen = ReplayProgress(
            events_done=now.events_done - self._before.events_done,
            events_total=max(self._which.estimated_events - self._before.events_done, 0),
            groups_done=now.groups_done,
            groups_total=now.groups_total,
            workers=running,
            seconds=ended - self._started,
            is_exact=self._which.is_exact,
        )
        self._progress.replay(seen)
        return seen


def join_replay(
    task: ReplayTask,
    migrations: type[Migrations],
    event_types: EventTypes,
    on_done: Callable[[GroupDone], object] | None = None,
    *,
    on_hold: Listener = lambda _hold: None,
    check: Callable[[], object] = lambda: None,
) -> int:
    """Replay groups inside this process until none is left; return how many.

    Raises
    ------
    ConfigurationError
        The task is from elsewhere, and this code is not the run's.
    ProjectionFailed, InvalidPayload
        The code cannot project an event; finished groups are kept.
    """
    replayer = GroupReplayer(task, migrations, event_types)
    reader, writer = connect_worker(task.database_url, task.event_store_schema, task.standby_url)
    with reader, writer:
        require_code_of_run(writer, task, migrations)
        return replayer.run(reader, writer, on_done, on_hold=on_hold, check=check)


def _is_killed(ended: WorkerExit) -> bool:
    """Whether the worker, or its backend, was killed; anything that it reports itself would only happen again."""
    if ended.error is None:
        # Signal 9, or a handler that ended the process: it could not say why.
        return ended.status <= 0
    return ended.error["type"] in _LOST_BACKEND


_LOST_BACKEND = frozenset({"AdminShutdown", "OperationalError", "IdleInTransactionSessionTimeout"})


def _how(ended: WorkerExit) -> str:
    if ended.status < 0:
        return f"signal {-ended.status}"
    return ended.error["message"] if ended.error is not None else f"exit status {ended.status} without a word"


def _error_of(ended: WorkerExit) -> SequentError:
    """Rebuild the worker's error under its own class."""
    keep = "Finished groups are kept."
    if ended.error is None:
        last_words = ended.stderr.rpartition("\n")[2]
        return WorkerFailed(
            f"Worker {ended.name} died ({last_words if ended.status > 0 and last_words else _how(ended)}).",
            remedy=f"{keep} Run the same command again.",
        )
    cls = getattr(errors, ended.error["type"], None)
    if isinstance(cls, type) and issubclass(cls, SequentError):
        error: SequentError = cls.__new__(cls)
        SequentError.__init__(error, ended.error["message"], remedy=ended.error["remedy"] or keep)
        return error
    return WorkerFailed(
        f"Worker {ended.name} failed: {ended.error['type']}: {ended.error['message']}", remedy=keep
    )
