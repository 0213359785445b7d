"""However commands, failures and kills follow each other, a view migration can be ended by commands that exist."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequent_py.errors import InvalidTransition, MigrationNotStarted
from sequent_py.view_schema.states import (
    TRANSITIONS,
    Command,
    MigrationState,
    Outcome,
    next_commands,
    require,
    settled,
    transition_of,
)

walks = st.lists(st.sampled_from([*Command, *Outcome]), max_size=30)


def step(state: MigrationState | None, trigger: Command | Outcome) -> MigrationState | None:
    edge = transition_of(state, trigger)
    return edge.to_state if edge else state


@given(walks)
def test_from_wherever_a_walk_ends_offered_commands_lead_to_an_end(walk: list[Command | Outcome]) -> None:
    state: MigrationState | None = None
    for trigger in walk:
        state = step(state, trigger)
    # The process that ran the last command is killed here.
    state = settled(state, is_held=False)
    if state is None or state.is_finished:
        return
    assert "sequent migrate abort" in next_commands(state, has_retired=False)
    assert require(state, Command.ABORT).to_state is MigrationState.ABORTED
    for _ in range(4):
        way_forward = Command(next_commands(state, has_retired=False)[0].split()[-1])
        state = require(state, way_forward).to_state
        for outcome in (Outcome.BUILT, Outcome.PROMOTED):
            state = step(state, outcome) or state
        if state is MigrationState.LIVE:
            return
    pytest.fail(f"the commands offered first do not lead to live but to {state}")


@given(st.sampled_from([None, *MigrationState]), st.sampled_from(Command))
def test_a_command_is_allowed_exactly_where_the_table_has_an_edge(
    state: MigrationState | None, command: Command
) -> None:
    edges = [edge for edge in TRANSITIONS if edge.from_state is state and edge.trigger is command]
    if edges:
        assert [require(state, command)] == edges
    else:
        with pytest.raises((InvalidTransition, MigrationNotStarted)) as caught:
            require(state, command)
        assert command in str(caught.value)


@given(st.sampled_from([None, *MigrationState]), st.booleans(), st.booleans())
def test_what_is_offered_is_allowed(
    state: MigrationState | None, has_retired: bool, is_pending: bool
) -> None:
    for line in next_commands(state, has_retired, is_pending=is_pending):
        require(settled(state, is_held=False), Command(line.removeprefix("sequent migrate ")))
