"""Take every step of a scenario in every order, breadth first, and check each state that is reached.

A violation comes with the shortest way to it. Stuck states are found afterwards: those from which no way leads to a good end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from protocol_model import (
    ENDED,
    PASSED,
    Scenario,
    State,
    Table,
    actions,
    initial,
    is_closed,
    shadow,
    versions_of,
)


@dataclass(frozen=True)
class Violation:
    """What is wrong, and the steps that lead there."""

    rule: str
    trace: tuple[str, ...]
    state: State

    def __str__(self) -> str:
        steps = "\n".join(f"{number:3} {step}" for number, step in enumerate(self.trace, start=1))
        return f"{self.rule}\n{steps}\n{self.state}"


@dataclass(frozen=True)
class Exploration:
    """How much was looked at."""

    states: int
    steps: int
    good_ends: int
    violation: Violation | None


def explore(scenario: Scenario) -> Exploration:
    """Look at every state; stop at the first violation."""
    first = initial(scenario)
    number_of: dict[State, int] = {first: 0}
    came_from: list[tuple[int, str]] = [(-1, "")]
    predecessors: list[list[int]] = [[]]
    good: list[int] = []
    queue = deque([first])
    steps = 0

    def trace(number: int) -> tuple[str, ...]:
        names = []
        while number:
            number, name = came_from[number]
            names.append(name)
        return tuple(reversed(names))

    def result(violation: Violation | None) -> Exploration:
        return Exploration(len(number_of), steps, len(good), violation)

    while queue:
        state = queue.popleft()
        number = number_of[state]
        for name, following in actions(scenario, state):
            steps += 1
            known = number_of.get(following)
            if known is None:
                known = number_of[following] = len(came_from)
                came_from.append((number, name))
                predecessors.append([])
                queue.append(following)
                for rule in broken_rules(scenario, following):
                    return result(Violation(rule, trace(known), following))
            predecessors[known].append(number)
            for rule in broken_by_step(scenario, state, following):
                return result(Violation(rule, (*trace(number), name), following))
        if is_good_end(scenario, state):
            good.append(number)

    reached = set(good)
    waiting = deque(good)
    while waiting:
        for before in predecessors[waiting.popleft()]:
            if before not in reached:
                reached.add(before)
                waiting.append(before)
    if len(reached) < len(number_of):
        stuck, number = next((state, number) for state, number in number_of.items() if number not in reached)
        return result(Violation("stuck: no way leads to a good end", trace(number), stuck))
    return result(None)


def is_good_end(scenario: Scenario, state: State) -> bool:
    """Nobody is at work, and every cut-over that was wanted has been done."""
    return (
        state.coordinator is None
        and state.cut_overs == 0
        and state.phase in ("live", "rolled_back")
        and all(writer.step in ENDED for writer in state.writers)
    )


def broken_rules(scenario: Scenario, state: State) -> Iterator[str]:
    """What must hold in every state, in which a reader may look at any time."""
    versions = versions_of(scenario)
    everything = folds(state, -1)
    if state.live:
        if state.serving < 0:
            yield "a reader finds no table"
            return
        if versions[state.serving] != state.live:
            yield "the tables that serve are not of the live version"
        if any(code != versions[state.serving] for rows in state.tables[state.serving] for _, code in rows):
            yield "code of another version has written into the tables that serve"
        if sequences(state.tables[state.serving]) != everything:
            yield "the tables that serve differ from the fold of all committed events"
    if keeps_other_table(scenario, state) and sequences(state.tables[shadow(state)]) != replayed(state):
        yield "a shadow or retired table differs from the fold of the events in its snapshot"
    if state.coordinator is None and is_closed(scenario, state):
        yield "the gate is closed and nobody will open it"


def keeps_other_table(scenario: Scenario, state: State) -> bool:
    """Whether there is a shadow or a retired table whose content the ledger tells.

    Not while a broken worker or coordinator is between the two halves of what should be one transaction: what counts is what a crash leaves.
    """
    if state.phase in ("none", "aborted") or versions_of(scenario)[shadow(state)] == 0:
        return False
    is_between = state.coordinator is not None and state.coordinator.step == "create groups"
    return not is_between and not any(worker.step == "written" for worker in state.workers)


def replayed(state: State) -> tuple[tuple[int, ...], ...]:
    """What the ledger says is in the table that does not serve."""
    if state.last is None:
        return folds(state, 0)
    since, until = folds(state, state.last.since), folds(state, state.last.until)
    return tuple(
        since[aggregate] if aggregate in state.last.undone else until[aggregate]
        for aggregate in range(len(state.events))
    )


def broken_by_step(scenario: Scenario, before: State, after: State) -> Iterator[str]:
    """What no step may do."""
    if before.live and after.live and before.serving >= 0 and after.serving >= 0:
        seen = sequences(before.tables[before.serving])
        sees = sequences(after.tables[after.serving])
        if any(new[: len(old)] != old for old, new in zip(seen, sees, strict=True)):
            yield "a reader sees an aggregate go back"
    if after.tables != before.tables:
        for worker in before.workers:
            if (
                worker.step == "replaying"
                and worker not in after.workers
                and is_overtaken(before, worker.run)
            ):
                yield "a worker of an earlier run wrote after a later run had taken over"
    for kind, old, new in zip(scenario.writers, before.writers, after.writers, strict=True):
        is_refused = new.step == "refused" != old.step
        was_closed = is_closed(scenario, before) or (old.step in ("looking", "rereading") and old.is_closed)
        if is_refused and not was_closed and before.live in (0, *kind.versions):
            yield "a writer was refused though the gate was open and its code is live"
        if old.step in PASSED and before.live != after.live:
            yield "the live version changed under a writer"


def is_overtaken(state: State, run: tuple[int, int]) -> bool:
    """Whether a later coordinator has raised the epoch, or begun another migration."""
    return run < (state.migration, state.epoch)


def folds(state: State, snapshot: int) -> tuple[tuple[int, ...], ...]:
    """Fold naively: the committed events that a snapshot sees, by aggregate in sequence."""
    return tuple(
        tuple(sequence for sequence, xid in enumerate(xids, start=1) if snapshot >> xid & 1)
        for xids in state.events
    )


def sequences(table: Table) -> tuple[tuple[int, ...], ...]:
    """The events that a table holds, by aggregate in the order in which they were projected."""
    return tuple(tuple(sequence for sequence, _ in rows) for rows in table)
