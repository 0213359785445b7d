"""Workers of a command that will replay much start while it still plans: importing the application takes them as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sequent_py.replay import replayer
from sequent_py.replay.estimate import has_more_events
from sequent_py.replay.forking import may_fork
from sequent_py.replay.groups import SMALLEST_WINDOW_GROUP_EVENTS
from sequent_py.replay.ledger import Connection
from sequent_py.replay.pools import EarlyWorkers, LocalPool
from sequent_py.replay.replayer import inline_events, processes_of
from sequent_py.replay.task import EarlyStart
from sequent_py.view_schema.context import Context


@contextmanager
def early_workers(context: Context, connection: Connection, workers: int) -> Iterator[Context]:
    """Yield the context with a pool whose workers are starting, where the next pass is one for local workers; else as it is."""
    is_local = workers > 0 and context.replaying.pool is LocalPool
    sockets = (connection.fileno(),)
    processes = _processes(context, connection, workers, are_copied=may_fork(sockets)) if is_local else 0
    if processes == 0:
        yield context
        return
    start = EarlyStart(context.migrations_reference, context.sys_path)
    with EarlyWorkers(start, processes, sockets=sockets) as pool:
        yield replace(context, replaying=replace(context.replaying, pool=pool))


def _processes(context: Context, connection: Connection, workers: int, *, are_copied: bool) -> int:
    """How many worker processes the pass that comes next will have. A guess: events of types that nobody handles count, too."""
    unfinished = context.versions.unfinished(connection)
    last = context.ledger.latest_pass(connection, unfinished.id) if unfinished is not None else None
    if last is not None and context.ledger.has_unfinished(connection, last.migration_id):
        inline = inline_events(are_copied=are_copied, is_window=last.since is not None)
        return processes_of(last.estimated_events, workers, inline)
    since = last.until if last is not None else None
    inline = inline_events(are_copied=are_copied, is_window=since is not None)

    def has_more(count: int) -> bool:
        return has_more_events(connection, context.schema, since=since, count=count)

    if not has_more(inline):
        return 0
    if inline < replayer.INLINE_EVENTS and not has_more(replayer.INLINE_EVENTS):
        # One of the groups is replayed by this process.
        return min(workers, replayer.INLINE_EVENTS // SMALLEST_WINDOW_GROUP_EVENTS) - 1
    # Of a window that is longer than this one worker starts late; counting so far would take longer.
    is_long = last is None and has_more(replayer.INLINE_EVENTS * replayer.HELPED_TIMES)
    return workers if is_long else workers - 1
