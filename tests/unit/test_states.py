"""What may follow what, and everything that is derived from it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from sequent_py.errors import InvalidTransition, MigrationNotStarted
from sequent_py.view_schema import state_diagram
from sequent_py.view_schema.states import (
    AVAILABLE_COMMANDS,
    TRANSITIONS,
    Command,
    MigrationState,
    Outcome,
    is_reachable,
    next_commands,
    require,
    settled,
    state_check,
    timestamps_check,
    transition_of,
)

ROOT = Path(__file__).parents[2]
S = MigrationState


def test_each_trigger_leads_to_one_state() -> None:
    edges = [(edge.from_state, edge.trigger) for edge in TRANSITIONS]
    assert len(edges) == len(set(edges))


@pytest.mark.parametrize("state", [None, S.ABORTED, S.ROLLED_BACK, S.LIVE])
def test_online_begins_a_new_migration_when_none_is_unfinished(state: MigrationState | None) -> None:
    edge = require(state, Command.ONLINE)
    assert edge.to_state is S.ONLINE_RUNNING
    assert edge.is_beginning


@pytest.mark.parametrize("state", [S.ONLINE_RUNNING, S.ONLINE_DONE])
def test_online_goes_on_with_an_unfinished_migration(state: MigrationState) -> None:
    edge = require(state, Command.ONLINE)
    assert edge.to_state is state
    assert not edge.is_beginning


@pytest.mark.parametrize("state", [None, S.ABORTED, S.ROLLED_BACK, S.LIVE])
@pytest.mark.parametrize("command", [Command.OFFLINE, Command.GOLIVE])
def test_a_cut_over_needs_an_online_phase(state: MigrationState | None, command: Command) -> None:
    with pytest.raises(MigrationNotStarted, match="needs the tables that online builds") as caught:
        require(state, command)
    assert caught.value.remedy == "Run: sequent migrate online"


def test_offline_before_online_is_done_says_what_to_run() -> None:
    with pytest.raises(InvalidTransition, match=r"offline is not possible while .* online_running") as caught:
        require(S.ONLINE_RUNNING, Command.OFFLINE)
    assert caught.value.remedy == "Run: sequent migrate online or sequent migrate abort"


@pytest.mark.parametrize("state", [None, S.ABORTED, S.ROLLED_BACK, S.LIVE])
def test_abort_needs_an_unfinished_migration(state: MigrationState | None) -> None:
    with pytest.raises(InvalidTransition, match="there is nothing to abort"):
        require(state, Command.ABORT)


def test_rollback_needs_a_live_migration() -> None:
    assert require(S.LIVE, Command.ROLLBACK).to_state is S.ROLLED_BACK
    assert require(S.ROLLED_BACK, Command.ROLLBACK).to_state is S.LIVE
    with pytest.raises(InvalidTransition, match="rollback needs a live view migration"):
        require(None, Command.ROLLBACK)


@pytest.mark.parametrize("state", [S.OFFLINE_RUNNING, S.GOLIVE_RUNNING])
def test_a_cut_over_that_nobody_holds_counts_as_online_done(state: MigrationState) -> None:
    assert settled(state, is_held=False) is S.ONLINE_DONE
    assert settled(state, is_held=True) is state


@pytest.mark.parametrize("state", [None, *(state for state in S if not state.is_cut_over)])
def test_every_other_state_counts_as_it_is(state: MigrationState | None) -> None:
    assert settled(state, is_held=False) is state


@pytest.mark.parametrize(
    ("state", "commands"),
    [
        (None, ["online"]),
        (S.ONLINE_RUNNING, ["online", "abort"]),
        (S.ONLINE_DONE, ["offline", "golive", "online", "abort"]),
        (S.OFFLINE_RUNNING, ["offline", "golive", "online", "abort"]),
        (S.GOLIVE_RUNNING, ["offline", "golive", "online", "abort"]),
        (S.LIVE, ["rollback", "online"]),
        (S.ABORTED, ["online"]),
        (S.ROLLED_BACK, ["rollback", "online"]),
    ],
)
def test_the_next_commands_are_those_that_exist_and_lead_on(
    state: MigrationState | None, commands: list[str]
) -> None:
    assert next_commands(state, has_retired=True) == [f"sequent migrate {command}" for command in commands]


@pytest.mark.parametrize("state", [None, S.LIVE, S.ABORTED, S.ROLLED_BACK])
def test_nothing_is_offered_when_nothing_is_pending(state: MigrationState | None) -> None:
    assert next_commands(state, has_retired=False, is_pending=False) == []


@pytest.mark.parametrize("state", list(S))
def test_only_watching_is_offered_while_a_command_is_at_work(state: MigrationState) -> None:
    assert next_commands(state, has_retired=True, is_held=True) == ["sequent migrate status"]


@pytest.mark.parametrize("state", [S.LIVE, S.ROLLED_BACK])
def test_rollback_is_offered_only_with_retired_tables(state: MigrationState) -> None:
    assert "sequent migrate rollback" in next_commands(state, has_retired=True)
    assert "sequent migrate rollback" not in next_commands(state, has_retired=False)


def test_a_cut_over_without_maintenance_comes_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequent_py.view_schema.states.AVAILABLE_COMMANDS", frozenset(Command))
    assert next_commands(S.ONLINE_DONE, has_retired=False)[:2] == [
        "sequent migrate offline",
        "sequent migrate golive",
    ]


def test_beginning_a_new_migration_does_not_move_the_old_one() -> None:
    assert not is_reachable(S.LIVE, S.ONLINE_RUNNING)
    assert not is_reachable(S.ABORTED, S.ONLINE_RUNNING)
    assert is_reachable(S.ONLINE_RUNNING, S.ONLINE_RUNNING)
    assert is_reachable(S.OFFLINE_RUNNING, S.LIVE)
    assert not is_reachable(S.ONLINE_DONE, S.LIVE)


def test_there_is_an_interruption_for_every_cut_over_and_for_nothing_else() -> None:
    for state in S:
        assert (transition_of(state, Outcome.INTERRUPTED) is not None) == state.is_cut_over


def test_the_tables_constraints_are_the_derived_ones() -> None:
    path = ROOT / "migrations" / "002_view_migrations.py"
    spec = importlib.util.spec_from_file_location("view_migrations_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = re.sub(r"\s+", " ", module.VIEW_MIGRATIONS)
    assert f"CHECK ( {state_check()} )" in written
    assert f"CHECK ( {timestamps_check()} )" in written


def test_the_state_diagram_is_current() -> None:
    written = (ROOT / "docs" / "state-diagram.md").read_text(encoding="utf-8")
    assert written == state_diagram.document(), (
        "python -m sequent_py.view_schema.state_diagram > docs/state-diagram.md"
    )


def test_the_state_diagram_tells_planned_commands_from_those_that_exist() -> None:
    page = state_diagram.document()
    for command in Command:
        assert (f"`{command}` (planned)" in page) == (command not in AVAILABLE_COMMANDS)
    for state in S:
        assert f"| `{state}` | {state_diagram.DESCRIPTIONS[state]} |" in page
