"""``sequent doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from sequent_py.cli.blocks import Block, Items, Line, Tone
from sequent_py.cli.invocation import Invocation, command
from sequent_py.doctor import DoctorReport, Verdict, examine

_TONES = {
    Verdict.OK: Tone.GOOD,
    Verdict.NOTICE: Tone.WARNING,
    Verdict.PENDING: Tone.WARNING,
    Verdict.PROBLEM: Tone.BAD,
}
_EXIT_CODES = {Verdict.OK: 0, Verdict.PENDING: 3, Verdict.PROBLEM: 1}


@command
def doctor(
    invocation: Invocation,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend keys, indexes and triggers of the store, and transaction ids of another server.",
        ),
    ] = False,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Decode every event of the log, instead of a sample."),
    ] = False,
) -> None:
    """Look for what is wrong, and say what to do about it.

    The server and its settings, the event store beside a fresh one, privileges and roles, transaction ids after a restore, the gate,
    the versions of code and database, managed tables, code that changed without a new version, event types that the code does not know
    and payloads that do not decode. Writes nothing, unless --repair is given: then keys, indexes and triggers of the store are made
    again, without stopping writers, and events whose transaction ids came from another server get ids that every snapshot sees. Exits
    with 0 if all is well, 3 if something has not been run yet, 1 if something is wrong.

    \b
    Example: sequent doctor --json | jq '.findings[] | select(.verdict != "ok")'
    """
    invocation.resume = "Nothing is half done. Run it again: sequent doctor"
    with invocation.application() as sequent, invocation.progress() as progress:
        repaired = sequent.view_schema.repair(progress=progress) if repair else ()
        report = examine(sequent, reads_all_events=coverage, repaired=repaired, progress=progress)
    invocation.report(report, _describe)
    if report.verdict is not Verdict.OK:
        raise typer.Exit(_EXIT_CODES[report.verdict])


def _describe(report: DoctorReport) -> Iterator[Block]:
    yield Items("Mended:", report.repaired, Tone.GOOD)
    for finding in report.findings:
        yield Line(f"{finding.verdict:8} {finding.subject}: {finding.message}", _TONES[finding.verdict])
        if finding.remedy:
            yield Line(f"         → {finding.remedy}")
