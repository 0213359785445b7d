"""``sequent init``: the event store's own schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sequent_py.cli.blocks import Block, Items, Line, Tone
from sequent_py.cli.invocation import Invocation, command


@dataclass(frozen=True)
class InitReport:
    """What ``init`` did."""

    event_store_schema: str
    applied: tuple[str, ...]


@command
def init(invocation: Invocation) -> None:
    """Create the event store, or bring it up to date.

    Runs the schema migrations that this version of sequent-py brings along, in the schema event_store_schema; your own tables are not
    touched. Running it again does nothing, and two at once take turns.

    \b
    Next: sequent migrate plan
    """
    with invocation.application() as sequent:
        applied = tuple(sequent.install())
        report = InitReport(sequent.config.event_store_schema, applied)
    invocation.report(report, _describe)


def _describe(report: InitReport) -> Iterator[Block]:
    if report.applied:
        yield Line(f"The event store is installed in schema {report.event_store_schema!r}.", Tone.GOOD)
        yield Items("Applied:", report.applied)
    else:
        yield Line(f"The event store in schema {report.event_store_schema!r} is up to date.", Tone.GOOD)
    yield Items("Next:", ("sequent migrate plan",))
