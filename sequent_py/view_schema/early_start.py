"""Workers of a command that will replay much start while it still plans: importing the application takes them as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sequent_py.replay import replayer
from sequent_py.replay.estimate import has_more_events
from sequent_py.replay.ledger import Connection
from sequent_py.replay.pools import EarlyWorkers, LocalPool
from sequent_py.replay.task import EarlyStart
from sequent_py.view_schema.context import Context


@contextmanager
def early_workers(context: Context, connection: Connection, workers: int) -> Iterator[Context]:
    """Yield the context with a pool whose workers are starting, where the next pass is one for local workers; else as it is."""
    if workers == 0 or context.replaying.pool is not LocalPool or not _is_large(context, connection):
        yield context
        return
    start = EarlyStart(context.migrations_reference, context.sys_path)
    with EarlyWorkers(start, workers) as pool:
        yield replace(context, replaying=replace(context.replaying, pool=pool))


def _is_large(context: Context, connection: Connection) -> bool:
    """Whether the pass that comes next will not run inside this process. A guess: events of types that nobody handles count, too."""
    unfinished = context.versions.unfinished(connection)
    last = context.ledger.latest_pass(connection, unfinished.id) if unfinished is not None else None
    if last is not None and context.ledger.has_unfinished(connection, last.migration_id):
        return last.estimated_events > replayer.INLINE_EVENTS
    since = last.until if last is not None else None
    return has_more_events(connection, context.schema, since=since, count=replayer.INLINE_EVENTS)
