"""The states of a view migration: one enum, one transition table, and everything that is derived from them.

A view migration is one row in ``view_migrations``. Its state says what has been reached, never who is at work: a command runs while it
holds the migration lock of its session, and a lock dies with its holder. So a running state whose lock nobody holds means that the
command was killed, and the same command goes on from there (:func:`settled`).

Derived from :data:`TRANSITIONS`: the guards (:func:`require`), the compare-and-set of ``versions.transition``, the CHECK constraints of
the table, the commands that are offered next, the diagram in ``docs/state-diagram.md`` and the property test. Pure: no database, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sequent_py.errors import InvalidTransition, MigrationNotStarted


class MigrationState(StrEnum):
    """What a view migration has reached."""

    ONLINE_RUNNING = "online_running"
    ONLINE_DONE = "online_done"
    OFFLINE_RUNNING = "offline_running"
    GOLIVE_RUNNING = "golive_running"
    LIVE = "live"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do, so that the next ``online`` begins a new migration."""
        return self in (MigrationState.LIVE, MigrationState.ABORTED, MigrationState.ROLLED_BACK)

    @property
    def is_cut_over(self) -> bool:
        """Whether the state only lasts while its command runs; without a holder it means ``online_done``."""
        return self in (MigrationState.OFFLINE_RUNNING, MigrationState.GOLIVE_RUNNING)


class Command(StrEnum):
    """What an operator asks for."""

    ONLINE = "online"
    OFFLINE = "offline"
    GOLIVE = "golive"
    ROLLBACK = "rollback"
    ABORT = "abort"


class Outcome(StrEnum):
    """What becomes of a command that runs."""

    BUILT = "built"
    """Every group is done; shadow tables are indexed and analysed."""
    PROMOTED = "promoted"
    """The swap has committed."""
    INTERRUPTED = "interrupted"
    """The command failed, or its process died."""


Trigger = Command | Outcome

AVAILABLE_COMMANDS: frozenset[Command] = frozenset(
    {Command.ONLINE, Command.OFFLINE, Command.GOLIVE, Command.ROLLBACK, Command.ABORT}
)
"""The commands that exist; no other is ever offered as the next one."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One edge: a migration in ``from_state`` (None: there is none yet) is taken to ``to_state`` by ``trigger``."""

    from_state: MigrationState | None
    trigger: Trigger
    to_state: MigrationState
    note: str

    @property
    def is_beginning(self) -> bool:
        """Whether a new migration, a new row, begins here; the old row stays as it is."""
        return self.trigger is Command.ONLINE and (self.from_state is None or self.from_state.is_finished)


_S, _C, _O = MigrationState, Command, Outcome

TRANSITIONS: tuple[Transition, ...] = (
    Transition(None, _C.ONLINE, _S.ONLINE_RUNNING, "begins the first migration"),
    Transition(_S.ONLINE_RUNNING, _C.ONLINE, _S.ONLINE_RUNNING, "the holder is gone: unfinished groups only"),
    Transition(_S.ONLINE_RUNNING, _O.BUILT, _S.ONLINE_DONE, "all groups done, indexed, analysed"),
    Transition(_S.ONLINE_RUNNING, _C.ABORT, _S.ABORTED, "shadow tables are dropped"),
    Transition(_S.ONLINE_DONE, _C.OFFLINE, _S.OFFLINE_RUNNING, "the gate closes"),
    Transition(_S.ONLINE_DONE, _C.GOLIVE, _S.GOLIVE_RUNNING, "writers go on"),
    Transition(_S.ONLINE_DONE, _C.ONLINE, _S.ONLINE_DONE, "another catch-up pass"),
    Transition(_S.ONLINE_DONE, _C.ABORT, _S.ABORTED, "shadow tables are dropped"),
    Transition(_S.OFFLINE_RUNNING, _O.PROMOTED, _S.LIVE, "the swap has committed"),
    Transition(
        _S.OFFLINE_RUNNING, _O.INTERRUPTED, _S.ONLINE_DONE, "gate reopened, shadow tables and passes kept"
    ),
    Transition(_S.GOLIVE_RUNNING, _O.PROMOTED, _S.LIVE, "the swap has committed"),
    Transition(
        _S.GOLIVE_RUNNING, _O.INTERRUPTED, _S.ONLINE_DONE, "gate reopened, shadow tables and passes kept"
    ),
    Transition(_S.LIVE, _C.ROLLBACK, _S.ROLLED_BACK, "needs the retired tables and the old version's code"),
    Transition(_S.LIVE, _C.ONLINE, _S.ONLINE_RUNNING, "begins a new migration"),
    Transition(_S.ABORTED, _C.ONLINE, _S.ONLINE_RUNNING, "begins a new migration"),
    Transition(
        _S.ROLLED_BACK, _C.ROLLBACK, _S.LIVE, "forth: with the code of the version that was rolled back"
    ),
    Transition(_S.ROLLED_BACK, _C.ONLINE, _S.ONLINE_RUNNING, "begins a new migration"),
)
"""Every way a view migration can go. The order within a state is the order in which commands are offered."""

ONLINE_DONE_REQUIRED = (_S.ONLINE_DONE, _S.OFFLINE_RUNNING, _S.GOLIVE_RUNNING, _S.LIVE, _S.ROLLED_BACK)
"""States that can't be had without ``online_done_at``; ``online_running`` can't have it; ``aborted`` may."""


def transition_of(state: MigrationState | None, trigger: Trigger) -> Transition | None:
    """Return the edge that ``trigger`` takes from ``state``; None where there is none."""
    for transition in TRANSITIONS:
        if transition.from_state is state and transition.trigger is trigger:
            return transition
    return None


def is_reachable(from_state: MigrationState, to_state: MigrationState) -> bool:
    """Whether one edge leads a migration, the same row, from ``from_state`` to ``to_state``."""
    return any(
        edge.from_state is from_state and edge.to_state is to_state and not edge.is_beginning
        for edge in TRANSITIONS
    )


def settled(state: MigrationState | None, *, is_held: bool) -> MigrationState | None:
    """Return the state as it counts: a cut-over that nobody holds was interrupted and is back where it began."""
    if state is not None and state.is_cut_over and not is_held:
        interrupted = transition_of(state, Outcome.INTERRUPTED)
        return interrupted.to_state if interrupted else state
    return state


def require(state: MigrationState | None, command: Command) -> Transition:
    """Return the edge that ``command`` takes, for a caller that holds the migration lock; ``state`` is the settled one.

    Raises
    ------
    MigrationNotStarted
        A cut-over is asked for and no migration is unfinished.
    InvalidTransition
        The command has no place in this state.
    """
    transition = transition_of(state, command)
    if transition is not None:
        return transition
    remedy = _remedy(state)
    if state is None or state.is_finished:
        latest = "" if state is None else f" (the latest is {state})"
        if command in (Command.OFFLINE, Command.GOLIVE):
            raise MigrationNotStarted(
                f"{command} needs the tables that online builds, and no view migration is unfinished{latest}.",
                remedy=remedy,
            )
        if command is Command.ROLLBACK:
            raise InvalidTransition(f"rollback needs a live view migration to go back from{latest}.")
        raise InvalidTransition(
            f"No view migration is unfinished{latest}; there is nothing to {command}.",
            remedy="See: sequent migrate status",
        )
    raise InvalidTransition(f"{command} is not possible while the view migration is {state}.", remedy=remedy)


def next_commands(
    state: MigrationState | None, has_retired: bool, *, is_pending: bool = True, is_held: bool = False
) -> list[str]:
    """Return the command lines that make sense next, the way forward first.

    ``has_retired``: the tables that the code could go back to are kept. ``is_pending``: the code's version is newer than the live one, so that a new migration would do something. ``is_held``: a command
    is at work; any other would be refused as concurrent, so nothing but watching is offered.
    """
    if is_held:
        return ["sequent migrate status"]
    counted = settled(state, is_held=False)
    offered = []
    for transition in TRANSITIONS:
        command = transition.trigger
        if transition.from_state is not counted or command not in AVAILABLE_COMMANDS:
            continue
        if transition.is_beginning and not is_pending:
            continue
        if command is Command.ROLLBACK and not has_retired:
            continue
        offered.append(f"sequent migrate {command}")
    return offered


def _remedy(state: MigrationState | None) -> str:
    """Name what can be run instead; empty where nothing can."""
    lines = next_commands(state, has_retired=False)
    return f"Run: {' or '.join(lines)}" if lines else ""


def state_check() -> str:
    """Return the CHECK expression that admits the states and no other."""
    return f"state IN ({_quoted(MigrationState)})"


def timestamps_check() -> str:
    """Return the CHECK expression that couples the state to its timestamps, so that neither can tell a story without the other."""
    finished = _quoted(state for state in MigrationState if state.is_finished)
    return (
        f"(finished_at IS NOT NULL) = (state IN ({finished}))"
        f" AND (online_done_at IS NOT NULL OR state NOT IN ({_quoted(ONLINE_DONE_REQUIRED)}))"
        f" AND (online_done_at IS NULL OR state <> '{MigrationState.ONLINE_RUNNING}')"
        f" AND (rolled_back_at IS NOT NULL) = (state = '{MigrationState.ROLLED_BACK}')"
    )


def _quoted(states: Iterable[MigrationState]) -> str:
    return ", ".join(f"'{state}'" for state in states)
