"""``sequent doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from sequent_py.cli.blocks import Block, Line, Tone
from sequent_py.cli.invocation import Invocation, command
from sequent_py.doctor import DoctorReport, Verdict, examine

_TONES = {Verdict.OK: Tone.GOOD, Verdict.PENDING: Tone.WARNING, Verdict.PROBLEM: Tone.BAD}
_EXIT_CODES = {Verdict.OK: 0, Verdict.PENDING: 3, Verdict.PROBLEM: 1}


@command
def doctor(
    invocation: Invocation,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend the transaction ids of a store that was restored elsewhere."),
    ] = False,
) -> None:
    """Look for what is wrong, and say what to do about it.

    The server's version, the event store, transaction ids after a restore, the gate, the versions of code and database, the live
    tables. Writes nothing, unless --repair is given: then events whose transaction ids came with a dump from another server get ids that
    every snapshot sees. Exits with 0 if all is well, 3 if something has not been run yet, 1 if something is wrong.

    \b
    Example: sequent doctor --json | jq '.findings[] | select(.verdict != "ok")'
    """
    with invocation.application() as sequent:
        if repair:
            sequent.view_schema.repair_transaction_ids()
        report = examine(sequent)
    invocation.report(report, _describe)
    if report.verdict is not Verdict.OK:
        raise typer.Exit(_EXIT_CODES[report.verdict])


def _describe(report: DoctorReport) -> Iterator[Block]:
    for finding in report.findings:
        yield Line(f"{finding.verdict:8} {finding.subject}: {finding.message}", _TONES[finding.verdict])
        if finding.remedy:
            yield Line(f"         → {finding.remedy}")
