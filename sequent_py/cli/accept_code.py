"""``sequent migrate accept-code``: the present code makes the same rows as what built the tables."""

from __future__ import annotations

from collections.abc import Iterator

from sequent_py.cli.blocks import Block, Items, Line, Tone
from sequent_py.cli.invocation import Invocation, command
from sequent_py.view_schema.comparison.accept_code import AcceptCodeReport


@command
def accept_code(invocation: Invocation) -> None:
    """Say that changed code makes the same rows.

    check, doctor and plan compare projectors, records, events and table files with what built the live tables. After a refactoring that
    changes no row, this records the present code as good, beside what is recorded already. Where rows change, list the projector under a
    new version instead.

    \b
    Example: sequent migrate check || sequent migrate accept-code
    """
    with invocation.application() as sequent:
        invocation.report(sequent.view_schema.accept_code(), _describe)


def _describe(report: AcceptCodeReport) -> Iterator[Block]:
    if not report.changed and not report.recorded:
        yield Line("Nothing to accept: the code is what built the tables.", Tone.GOOD)
        return
    yield Items(
        "Accepted as making the same rows:",
        [f"{table}: {', '.join(parts)}" for table, parts in report.changed.items()],
        Tone.GOOD,
    )
    yield Items("Recorded for the first time:", report.recorded, Tone.GOOD)
