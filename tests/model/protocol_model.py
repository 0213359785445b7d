"""Catch-up and cut-over as a small explicit-state model: what PostgreSQL holds, who is at work, and every step that anybody may take next.

:func:`actions` yields each step that is possible in a :class:`State`, with the state it leads to; ``model_checker`` takes all of them in every
order. What makes the protocol right is a *guard*: a name in :data:`GUARDS`, looked up where the step is taken. A scenario without one
of them must be found out. ``docs/model.md`` says which code each step stands for.

What is left out, and why that is safe: locks on tables (a model without them allows more orders than PostgreSQL does), groups finer than
an aggregate (they are disjoint), the time that anything takes (every step may be arbitrarily late).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

GUARDS = {
    "gate is read under its lock": "a writer takes gate_key() before it reads the gate",
    "version is checked": "a writer whose code lacks the live version is refused",
    "closing drains": "offline waits for the writers that were there when the closing committed",
    "draining follows the closing": "offline looks for writers after the closing has committed",
    "closing dies with its coordinator": "a closed gate counts only while migration_key() is held",
    "a closing is read again": "a writer that has looked for the coordinator of a closing reads the gate anew",
    "windows are differences of snapshots": "a window ends at a snapshot, not at an xmin horizon",
    "windows begin at a snapshot": "a window begins at the snapshot of the one before, not above its highest transaction id",
    "last window follows the closing": "offline takes the last snapshot after the drain",
    "last window follows the lock": "golive takes the last snapshot under the exclusive lock",
    "lock lasts until the swap": "golive keeps gate_key() until the swap has committed",
    "rows and done commit together": "a group's rows and its mark are one transaction",
    "pass and groups commit together": "a pass and its groups are one transaction",
    "claims are locked": "two workers never replay one group",
    "unfinished passes are finished": "nobody makes a new pass before the groups of the last are done",
    "nothing unfinished is promoted": "the swap waits until every group is done",
    "workers are fenced": "a coordinator ends the workers of those before it",
    "epochs are checked": "a worker finds groups of its own run only",
    "swap and version commit together": "tables, live version and state change in one transaction",
    "renames commit together": "the old table leaves and the new one comes in one transaction",
    "abort is one transaction": "shadow tables and ledger go together",
    "rollback begins at the cut-over": "the retired table's first window begins at the snapshot that the swap recorded",
    "rollback catches up": "the retired table gets the events since the swap",
}
"""Every guard, and what it says."""

Table = tuple[tuple[tuple[int, int], ...], ...]
"""By aggregate: (sequence number, version of the code that projected it), in the order of projection."""

PASSED = frozenset({"passed", "inserted", "projected"})
"""Steps of a writer that has passed the gate."""
HOLDING = frozenset({"locked", "looking", "rereading"}) | PASSED
"""Steps of a writer that holds gate_key() shared."""
ENDED = frozenset({"committed", "rolled back", "refused", "ended"})


@dataclass(frozen=True)
class WriterKind:
    """A transaction that appends one event, once."""

    aggregate: int = 0
    versions: tuple[int, ...] = (1,)
    """Of the code: one that carries the old and the new declaration serves across the cut-over."""
    is_early: bool = False
    """It takes its transaction id at the beginning, and appends late."""
    is_bystander: bool = False
    """It takes a transaction id, and writes no events."""


@dataclass(frozen=True)
class Scenario:
    """Who takes part, and how much may happen."""

    writers: tuple[WriterKind, ...]
    commands: tuple[str, ...]
    old_version: int = 1
    aggregates: int = 1
    workers: int = 1
    faults: int = 1
    """Kills, failures and aborts in all."""
    catch_ups: int = 0
    """How often online is run again when it is done."""
    cut_overs: int = 1
    guards: frozenset[str] = frozenset(GUARDS)

    def without(self, guard: str) -> Scenario:
        assert guard in self.guards, guard
        return replace(self, guards=self.guards - {guard})


class Writer(NamedTuple):
    step: str = "begin"
    xid: int = -1
    live: int = -1
    """The live version that it read; -1 before."""
    is_closed: bool = False
    sequence: int = 0
    table: int = -1
    """The table it projected into."""


class Worker(NamedTuple):
    run: tuple[int, int]
    """Migration and epoch of the coordinator that started it."""
    step: str = "starting"
    """starting (its lock is not held yet), idle, replaying, written (a broken one: rows committed, not yet done)."""
    aggregate: int = -1
    rows: tuple[tuple[int, int], ...] = ()
    is_frozen: bool = False


class Coordinator(NamedTuple):
    command: str
    step: str
    run: tuple[int, int] = (0, 0)
    until: int = 0
    waiting_for: tuple[int, ...] = ()
    has_lock: bool = False
    """Of gate_key(), exclusively."""


class Pass(NamedTuple):
    since: int
    until: int
    undone: tuple[int, ...]
    """The aggregates whose group is not done."""
    run: tuple[int, int]


class State(NamedTuple):
    # Committed
    live: int
    closed: bool
    phase: str
    serving: int
    """The table with the plain name: 0 the old one, 1 the new one, -1 none."""
    tables: tuple[Table, Table]
    events: tuple[tuple[int, ...], ...]
    """By aggregate: the transaction ids of its committed events, in sequence."""
    migration: int
    epoch: int
    last: Pass | None
    # Sessions
    ended: int
    """Transaction ids that have ended, as bits: the snapshot of this moment."""
    next_xid: int
    writers: tuple[Writer, ...]
    coordinator: Coordinator | None
    workers: tuple[Worker, ...]
    # Bounds
    faults: int
    catch_ups: int
    cut_overs: int


Step = tuple[str, State]


def initial(scenario: Scenario) -> State:
    """One event of each aggregate has been projected by the old version; at version 0 there are no tables yet."""
    version = scenario.old_version
    events = tuple((0,) for _ in range(scenario.aggregates))
    old: Table = tuple(((1, version),) if version else () for _ in range(scenario.aggregates))
    empty: Table = tuple(() for _ in range(scenario.aggregates))
    return State(
        live=version,
        closed=False,
        phase="none",
        serving=0 if version else -1,
        tables=(old, empty),
        events=events,
        migration=0,
        epoch=0,
        last=None,
        ended=1,
        next_xid=1,
        writers=tuple(Writer() for _ in scenario.writers),
        coordinator=None,
        workers=(),
        faults=scenario.faults,
        catch_ups=scenario.catch_ups,
        cut_overs=scenario.cut_overs,
    )


def actions(scenario: Scenario, state: State) -> Iterator[Step]:
    """Yield every step that anybody can take."""
    for number in range(len(state.writers)):
        yield from _writer(scenario, state, number)
    for number in range(len(state.workers)):
        yield from _worker(scenario, state, number)
    yield from _coordinator(scenario, state)
    if state.faults:
        yield from _faults(state)


def is_closed(scenario: Scenario, state: State) -> bool:
    """Whether writers are refused."""
    if "closing dies with its coordinator" in scenario.guards:
        return state.closed and state.coordinator is not None
    return state.closed


# -- Writers: append_events and the projection


def _writer(scenario: Scenario, state: State, number: int) -> Iterator[Step]:
    writer, kind = state.writers[number], scenario.writers[number]
    name = f"writer {number}"
    is_locked_out = state.coordinator is not None and state.coordinator.has_lock
    reads_under_lock = "gate is read under its lock" in scenario.guards
    if writer.step == "begin" and (kind.is_early or kind.is_bystander) and writer.xid < 0:
        yield f"{name} takes a transaction id", _with_xid(state, number, writer)
    elif kind.is_bystander and writer.step == "begin":
        yield f"{name} ends", _end(state, number, "ended")
    elif writer.step == "begin" and reads_under_lock:
        if not is_locked_out:
            yield f"{name} locks the gate", _set_writer(state, number, writer._replace(step="locked"))
    elif writer.step == "begin" and writer.live < 0:
        yield f"{name} reads the gate", _set_writer(state, number, _read_gate(scenario, state, writer))
    elif writer.step == "begin":
        if not is_locked_out:
            yield f"{name} locks the gate", _checked(scenario, state, number, writer)
    elif writer.step == "locked":
        yield f"{name} reads the gate", _read_under_lock(scenario, state, number)
    elif writer.step == "looking":
        yield f"{name} looks for the coordinator", _looked(scenario, state, number)
    elif writer.step == "rereading":
        seen = writer._replace(live=state.live, is_closed=writer.is_closed and state.closed)
        yield f"{name} reads the gate again", _checked(scenario, state, number, seen)
    elif writer.step == "passed":
        # The advisory lock on the aggregate: appends to one aggregate queue.
        if not any(
            other.sequence and other.step not in ENDED and scenario.writers[at].aggregate == kind.aggregate
            for at, other in enumerate(state.writers)
        ):
            sequence = len(state.events[kind.aggregate]) + 1
            inserted = writer._replace(step="inserted", sequence=sequence)
            yield f"{name} inserts event {kind.aggregate}.{sequence}", _with_xid(state, number, inserted)
    elif writer.step == "inserted":
        projected = writer._replace(step="projected", table=state.serving if writer.live else -1)
        yield f"{name} projects", _set_writer(state, number, projected)
    elif writer.step == "projected":
        yield f"{name} commits", _committed(scenario, state, number)
        yield f"{name} rolls back", _end(state, number, "rolled back")


def _read_gate(scenario: Scenario, state: State, writer: Writer) -> Writer:
    return writer._replace(live=state.live, is_closed=is_closed(scenario, state))


def _read_under_lock(scenario: Scenario, state: State, number: int) -> State:
    """Read the row; whether a closing counts is another statement, and anything may happen between the two."""
    writer = state.writers[number]._replace(live=state.live, is_closed=state.closed)
    if state.closed and "closing dies with its coordinator" in scenario.guards:
        return _set_writer(state, number, writer._replace(step="looking"))
    return _checked(scenario, state, number, writer)


def _looked(scenario: Scenario, state: State, number: int) -> State:
    writer = state.writers[number]._replace(is_closed=state.coordinator is not None)
    if "a closing is read again" not in scenario.guards:
        return _checked(scenario, state, number, writer)
    # What the first reading found no longer matters.
    return _set_writer(state, number, writer._replace(step="rereading", live=-1))


def _checked(scenario: Scenario, state: State, number: int, writer: Writer) -> State:
    versions = scenario.writers[number].versions
    is_foreign = writer.live > 0 and writer.live not in versions
    if writer.is_closed or (is_foreign and "version is checked" in scenario.guards):
        return _end(_set_writer(state, number, writer), number, "refused")
    # Unchecked, code projects by what it has.
    live = writer.live if not is_foreign else versions[0]
    return _set_writer(state, number, writer._replace(step="passed", live=live))


def _committed(scenario: Scenario, state: State, number: int) -> State:
    writer, kind = state.writers[number], scenario.writers[number]
    state = state._replace(events=_appended(state.events, kind.aggregate, writer.xid))
    if writer.table >= 0:
        state = _projected(state, writer.table, kind.aggregate, ((writer.sequence, writer.live),))
    return _end(state, number, "committed")


def _end(state: State, number: int, step: str) -> State:
    writer = state.writers[number]
    ended = state.ended | (1 << writer.xid) if writer.xid >= 0 else state.ended
    # What it did no longer matters; states that differ by it are one.
    return _set_writer(state, number, Writer(step=step))._replace(ended=ended)


def _with_xid(state: State, number: int, writer: Writer) -> State:
    if writer.xid >= 0:
        return _set_writer(state, number, writer)
    state = _set_writer(state, number, writer._replace(xid=state.next_xid))
    return state._replace(next_xid=state.next_xid + 1)


def _set_writer(state: State, number: int, writer: Writer) -> State:
    writers = state.writers
    return state._replace(writers=(*writers[:number], writer, *writers[number + 1 :]))


def _appended(events: tuple[tuple[int, ...], ...], aggregate: int, xid: int) -> tuple[tuple[int, ...], ...]:
    return (*events[:aggregate], (*events[aggregate], xid), *events[aggregate + 1 :])


def _projected(state: State, table: int, aggregate: int, rows: tuple[tuple[int, int], ...]) -> State:
    content = state.tables[table]
    content = (*content[:aggregate], content[aggregate] + rows, *content[aggregate + 1 :])
    return _set_table(state, table, content)


def _set_table(state: State, table: int, content: Table) -> State:
    return state._replace(tables=(content, state.tables[1]) if table == 0 else (state.tables[0], content))


# -- Workers: GroupReplayer


def _worker(scenario: Scenario, state: State, number: int) -> Iterator[Step]:
    worker, last = state.workers[number], state.last
    name = f"worker of run {worker.run[0]}.{worker.run[1]}"
    if worker.is_frozen:
        return
    if worker.step == "starting":
        yield f"{name} takes worker_key()", _set_worker(state, number, worker._replace(step="idle"))
    elif worker.step == "idle":
        claimable = last is not None and (
            "epochs are checked" not in scenario.guards or last.run == worker.run
        )
        if last is not None and claimable:
            for aggregate in last.undone:
                is_taken = any(
                    other.step == "replaying" and other.aggregate == aggregate for other in state.workers
                )
                if not (is_taken and "claims are locked" in scenario.guards):
                    rows = _window(scenario, state, last, aggregate)
                    claimed = worker._replace(step="replaying", aggregate=aggregate, rows=rows)
                    yield f"{name} replays group {aggregate}", _set_worker(state, number, claimed)
        is_done = last is None or not last.undone or last.run != worker.run
        if is_done:
            yield f"{name} leaves", _without_worker(state, number)
    elif worker.step == "replaying":
        rows_written = _projected(state, shadow(state), worker.aggregate, worker.rows)
        if "rows and done commit together" in scenario.guards:
            yield f"{name} commits group {worker.aggregate}", _done(rows_written, number)
        else:
            written = _set_worker(rows_written, number, worker._replace(step="written", rows=()))
            yield f"{name} commits rows of group {worker.aggregate}", written
    elif worker.step == "written":
        yield f"{name} marks group {worker.aggregate} done", _done(state, number)


def shadow(state: State) -> int:
    """The table that replay writes into: the one that does not serve."""
    return 0 if state.serving == 1 else 1


def versions_of(scenario: Scenario) -> tuple[int, int]:
    """The version of the old and of the new table."""
    return scenario.old_version, scenario.old_version + 1


def _window(scenario: Scenario, state: State, last: Pass, aggregate: int) -> tuple[tuple[int, int], ...]:
    version = versions_of(scenario)[shadow(state)]
    return tuple(
        (sequence, version)
        for sequence, xid in enumerate(state.events[aggregate], start=1)
        if last.until >> xid & 1 and not last.since >> xid & 1
    )


def _done(state: State, number: int) -> State:
    worker, last = state.workers[number], state.last
    assert last is not None
    undone = tuple(aggregate for aggregate in last.undone if aggregate != worker.aggregate)
    idle = worker._replace(step="idle", aggregate=-1, rows=())
    return _set_worker(state, number, idle)._replace(last=last._replace(undone=undone))


def _set_worker(state: State, number: int, worker: Worker) -> State:
    # Workers have no names: two of them in each other's place are one state.
    return state._replace(
        workers=tuple(sorted((*state.workers[:number], worker, *state.workers[number + 1 :])))
    )


def _without_worker(state: State, number: int) -> State:
    return state._replace(workers=state.workers[:number] + state.workers[number + 1 :])


# -- The coordinator: online, offline, golive, rollback (and forth), abort

CUT_OVERS = frozenset({"offline", "golive", "rollback", "forth"})
RUNNING = {"offline": "offline_running", "golive": "golive_running"}
POSSIBLE = {
    "none": ("online",),
    "online_running": ("online", "abort"),
    "online_done": ("online", "offline", "golive", "abort"),
    "offline_running": ("online", "offline", "golive", "abort"),
    "golive_running": ("online", "offline", "golive", "abort"),
    "live": ("rollback",),
    "rolled_back": ("forth",),
    "aborted": ("online",),
}
PROMOTED = {"offline": "live", "golive": "live", "rollback": "rolled_back", "forth": "live"}


def _coordinator(scenario: Scenario, state: State) -> Iterator[Step]:
    at = state.coordinator
    if at is None:
        yield from _beginnings(scenario, state)
        return
    name = at.command
    if at.step == "fence":
        remaining = tuple(
            worker
            for worker in state.workers
            if worker.step == "starting" or "workers are fenced" not in scenario.guards
        )
        yield f"{name} fences workers", _go(state._replace(workers=remaining), step="take over")
    elif at.step == "take over":
        # UPDATE waits for the row locks of claims.
        if not any(worker.step == "replaying" for worker in state.workers):
            yield f"{name} takes over", _taken_over(state, at)
    elif at.step == "drop":
        yield from _drop(scenario, state)
    else:
        yield from _replaying(scenario, state, at)


def _beginnings(scenario: Scenario, state: State) -> Iterator[Step]:
    """Somebody gets migration_key() and runs a command."""
    for command in POSSIBLE[state.phase]:
        if command not in scenario.commands:
            continue
        state_then = state
        if command == "online" and state.phase not in ("none", "aborted", "online_running"):
            if not state.catch_ups:
                continue
            state_then = state._replace(catch_ups=state.catch_ups - 1)
        elif command in CUT_OVERS and not state.cut_overs:
            continue
        elif command == "abort":
            if not state.faults:
                continue
            state_then = state._replace(faults=state.faults - 1)
        if state.phase in ("none", "aborted"):
            empty: Table = tuple(() for _ in state.events)
            state_then = _set_table(state_then, 1, empty)
            state_then = state_then._replace(
                phase="online_running", migration=state.migration + 1, epoch=0, last=None
            )
        elif state.phase in RUNNING.values():
            # Settled by whoever comes next; the gate is open already.
            state_then = state_then._replace(phase="online_done", closed=False)
        yield f"{command} begins", state_then._replace(coordinator=Coordinator(command, "fence"))


def _taken_over(state: State, at: Coordinator) -> State:
    run = (state.migration, state.epoch + 1)
    last = state.last
    if last is not None and last.undone:
        last = last._replace(run=run)
    step = "drop" if at.command == "abort" else "finish"
    state = state._replace(epoch=state.epoch + 1, last=last)
    return _go(state, step=step, run=run)


def _replaying(scenario: Scenario, state: State, at: Coordinator) -> Iterator[Step]:
    guards, name, last = scenario.guards, at.command, state.last
    unfinished = last is not None and bool(last.undone)
    if at.step in ("finish", "finish last"):
        is_own = sum(worker.run == at.run for worker in state.workers)
        if unfinished and is_own < scenario.workers:
            yield (
                f"{name} starts a worker",
                state._replace(workers=tuple(sorted((*state.workers, Worker(at.run))))),
            )
        skips = (
            "unfinished passes are finished" if at.step == "finish" else "nothing unfinished is promoted"
        ) not in guards
        if not unfinished or skips:
            yield f"{name} sees every group done", _finished(scenario, state, at)
    elif at.step == "done":
        done = state._replace(phase="online_done", coordinator=None)
        yield "online is done", done
    elif at.step == "close":
        closed = state._replace(closed=True, phase=RUNNING[name])
        yield f"{name} closes the gate", _go(closed, step=_after(scenario, at, "close"))
    elif at.step == "look":
        holders = tuple(number for number, writer in enumerate(state.writers) if writer.step in HOLDING)
        yield f"{name} looks for writers", _go(state, step="drain", waiting_for=holders)
    elif at.step == "drain":
        if not any(state.writers[number].step in HOLDING for number in at.waiting_for):
            yield f"{name} has drained", _go(state, step=_after(scenario, at, "drain"), waiting_for=())
        elif state.faults:
            failed = state._replace(
                closed=False, phase="online_done", faults=state.faults - 1, coordinator=None
            )
            yield f"{name} gives up draining", failed
    elif at.step == "lock":
        if not any(writer.step in HOLDING for writer in state.writers):
            locked = state._replace(phase=RUNNING.get(name, state.phase))
            yield f"{name} locks the gate", _go(locked, step=_after(scenario, at, "lock"), has_lock=True)
    elif at.step == "snapshot":
        yield (
            f"{name} takes a snapshot",
            _go(state, step=_after(scenario, at, "snapshot"), until=_until(scenario, state)),
        )
    elif at.step == "create":
        yield f"{name} makes a pass", _created(scenario, state, at)
    elif at.step == "create groups":
        assert last is not None
        groups = last._replace(undone=tuple(range(scenario.aggregates)))
        yield (
            f"{name} makes the groups",
            _go(state._replace(last=groups), step=_after(scenario, at, "create")),
        )
    elif at.step == "unlock":
        yield f"{name} lets the gate go", _go(state, step="swap", has_lock=False)
    else:
        yield from _swap(scenario, state, at)


def _finished(scenario: Scenario, state: State, at: Coordinator) -> State:
    if at.step == "finish last":
        is_kept = at.command == "offline" or "lock lasts until the swap" in scenario.guards
        return _go(state, step="swap" if is_kept else "unlock")
    if at.command == "online":
        # A resumed online is content with finishing its first pass; a later run makes one more.
        is_over = state.last is not None and (state.phase == "online_running" or at.until > 0)
        return _go(state, step="done" if is_over else "snapshot")
    if at.command == "offline":
        return _go(state, step=_first_of_offline(scenario))
    if at.command in ("rollback", "forth") and "rollback catches up" not in scenario.guards:
        return _go(state, step="lock")
    return _go(state, step="lock" if "last window follows the lock" in scenario.guards else "snapshot")


def _first_of_offline(scenario: Scenario) -> str:
    if "last window follows the closing" not in scenario.guards:
        return "snapshot"
    return "close" if "draining follows the closing" in scenario.guards else "look"


def _after(scenario: Scenario, at: Coordinator, step: str) -> str:
    """The order of the steps of a cut-over; each guard that is missing puts one in a wrong place."""
    guards = scenario.guards
    if at.command == "online":
        return {"snapshot": "create", "create": "finish"}[step]
    if at.command == "offline":
        if step == "close":
            drains = "closing drains" in guards and "draining follows the closing" in guards
            if drains:
                return "look"
        if step == "drain" and "draining follows the closing" not in guards:
            return "close"
        if step in ("close", "drain"):
            return "snapshot" if "last window follows the closing" in guards else "create"
        if step == "snapshot":
            return "create" if "last window follows the closing" in guards else "close"
        return "finish last"
    if step == "lock":
        if at.command in ("rollback", "forth") and "rollback catches up" not in guards:
            return "swap"
        return "snapshot" if "last window follows the lock" in guards else "create"
    if step == "snapshot":
        return "create" if "last window follows the lock" in guards else "lock"
    return "finish last"


def _until(scenario: Scenario, state: State) -> int:
    """Take a snapshot: the transactions that have ended."""
    if "windows are differences of snapshots" in scenario.guards:
        return state.ended
    # A horizon: everything below the oldest transaction that runs.
    xmin = next(xid for xid in range(state.next_xid + 1) if not state.ended >> xid & 1)
    return (1 << xmin) - 1


def _created(scenario: Scenario, state: State, at: Coordinator) -> State:
    since = state.last.until if state.last is not None else 0
    if "windows begin at a snapshot" not in scenario.guards:
        since = (1 << since.bit_length()) - 1
    if at.command in ("rollback", "forth") and "rollback begins at the cut-over" not in scenario.guards:
        since = 0
    together = "pass and groups commit together" in scenario.guards
    new = Pass(since, at.until, tuple(range(scenario.aggregates)) if together else (), at.run)
    state = state._replace(last=new)
    return _go(state, step=_after(scenario, at, "create") if together else "create groups")


def _swap(scenario: Scenario, state: State, at: Coordinator) -> Iterator[Step]:
    """The transaction of the swap; broken ones commit in two."""
    new = shadow(state)
    live = versions_of(scenario)[new]
    renamed = state._replace(serving=new)
    if at.step == "swap" and "renames commit together" not in scenario.guards and state.serving >= 0:
        yield f"{at.command} retires the old tables", _go(state._replace(serving=-1), step=f"promote {new}")
    elif at.step.startswith("promote"):
        new = int(at.step[-1])
        promoted = state._replace(serving=new)
        yield f"{at.command} promotes the new tables", _over(promoted, versions_of(scenario)[new], at)
    elif at.step == "swap" and "swap and version commit together" not in scenario.guards:
        yield f"{at.command} swaps the tables", _go(renamed, step="record")
    elif at.step == "record":
        yield f"{at.command} records the version", _over(state, versions_of(scenario)[state.serving], at)
    else:
        yield f"{at.command} swaps", _over(renamed, live, at)


def _over(state: State, live: int, at: Coordinator) -> State:
    # The snapshot of the swap's own transaction: behind the gate, it says what the tables that leave hold.
    run = state.last.run if state.last is not None else at.run
    return state._replace(
        last=Pass(state.ended, state.ended, (), run),
        live=live,
        closed=False,
        phase=PROMOTED[at.command],
        cut_overs=state.cut_overs - 1,
        coordinator=None,
    )


def _drop(scenario: Scenario, state: State) -> Iterator[Step]:
    empty: Table = tuple(() for _ in state.events)
    dropped = _set_table(state, 1, empty)
    forgotten = state._replace(last=None, phase="aborted", closed=False, coordinator=None)
    if "abort is one transaction" in scenario.guards:
        yield "abort drops and forgets", forgotten._replace(tables=dropped.tables)
    elif state.tables[1] != empty:
        yield "abort drops", dropped
    else:
        yield "abort forgets", forgotten


def _go(state: State, **changes: object) -> State:
    assert state.coordinator is not None
    return state._replace(coordinator=state.coordinator._replace(**changes))  # type: ignore[arg-type]


# -- Faults


def _faults(state: State) -> Iterator[Step]:
    one_less = state._replace(faults=state.faults - 1)
    if state.coordinator is not None:
        dead = one_less._replace(coordinator=None)
        yield "the coordinator is killed", dead
        if state.workers:
            # Their life line may not reach them: stopped, or on a host that is cut off, with locks and all.
            frozen = tuple(sorted(worker._replace(is_frozen=True) for worker in state.workers))
            yield "the coordinator is killed, its workers hang", dead._replace(workers=frozen)
    for number in range(len(state.workers)):
        yield "a worker is killed", _without_worker(one_less, number)
    crashed = one_less._replace(coordinator=None, workers=())
    for number, writer in enumerate(state.writers):
        if writer.step in HOLDING or (writer.xid >= 0 and writer.step == "begin"):
            crashed = _end(crashed, number, "rolled back")
    yield "the server crashes", crashed
