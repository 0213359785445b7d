"""``sequent maintenance``: the gate, closed by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from sequent_py.cli import descriptions
from sequent_py.cli.invocation import Invocation, command
from sequent_py.errors import StoreNotInstalled
from sequent_py.event_store.gate import GateState

NO_GATE = GateState(
    is_closed=False, maintenance=False, reason=None, since=None, closed_by_migration=None, live_version=0
)

app = typer.Typer(
    help="Close the event store to writers, and open it again.",
    rich_markup_mode=None,
)


@app.command("on")
@command
def on(
    invocation: Invocation,
    reason: Annotated[str, typer.Option(help="What refused writers are told.")] = "maintenance",
) -> None:
    """Refuse every append from now on; reading goes on.

    Enforced by the database, for every process, until it is turned off: it outlives this command. A view migration does not need it
    (offline closes and opens the gate by itself), and leaves it as it found it.

    \b
    Next: sequent maintenance off
    Example: sequent maintenance on --reason "moving to another data centre, back at 14:00"
    """
    with invocation.application() as sequent:
        invocation.report(sequent.maintenance.on(reason), descriptions.maintenance)


@app.command("off")
@command
def off(invocation: Invocation) -> None:
    """Let events be appended again. It is no error if maintenance mode is off already."""
    with invocation.application() as sequent:
        invocation.report(sequent.maintenance.off(), descriptions.maintenance)


@app.command("status")
@command
def status(invocation: Invocation) -> None:
    """Show whether the gate is closed, since when, and by whom. Writes nothing."""
    with invocation.application() as sequent:
        try:
            state = sequent.maintenance.status()
        except StoreNotInstalled:
            # There is no gate yet that could be closed.
            state = NO_GATE
    invocation.report(state, descriptions.maintenance)
