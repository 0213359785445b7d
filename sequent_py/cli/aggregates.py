"""``sequent aggregates``: single aggregates, erased or folded anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer

from sequent_py.cli.blocks import Block, Facts, Grid, Items, Line, Tone, count
from sequent_py.cli.invocation import Invocation, command
from sequent_py.erasure import REMEDY_FOR_UNTOLD, ErasureReport
from sequent_py.refolding import LONGEST_STALL_SECONDS, REBUILD, RefoldReport

app = typer.Typer(help="Erase single aggregates, or fold them anew.", rich_markup_mode=None)

NOT_EVERYWHERE = 3
"""The exit code of an erasure that left tables to somebody else: nothing failed, and it is not done."""

Ids = Annotated[list[UUID], typer.Argument(metavar="ID…", help="Aggregate ids.")]
LockBudget = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="How long to wait for a moment without writers."),
]


@app.command("erase")
@command
def erase(
    invocation: Invocation,
    ids: Ids,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be deleted; writes nothing.")
    ] = False,
    lock_budget: LockBudget = None,
) -> None:
    """Delete aggregates for good: their events, and their rows wherever they are kept.

    Covers events and partition keys, live, retired and shadow tables, quarantine and recorded errors, and says for each what it did.
    Writers wait for some milliseconds per aggregate. Afterwards the ids are new. There is no way back but a backup. May be run again.
    Exits with 3 if tables are left that may still hold what was erased; it names them, and what deletes it there.

    \b
    Example: sequent aggregates erase 6f1c… --dry-run
    """
    invocation.resume = (
        "What was deleted stays deleted. Run the same command again: it goes on with the rest."
    )
    with invocation.application() as sequent:
        if not dry_run and not yes:
            _confirm(invocation, len(ids))
        report = sequent.aggregates.erase(ids, is_dry_run=dry_run, lock_budget_seconds=lock_budget)
    invocation.report(report, _erasure)
    if not report.is_dry_run and not report.is_everywhere:
        raise typer.Exit(NOT_EVERYWHERE)


@app.command("refold")
@command
def refold(
    invocation: Invocation,
    ids: Ids,
    lock_budget: LockBudget = None,
    max_stall: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long appends may wait for an aggregate that is appended to all the time.",
        ),
    ] = LONGEST_STALL_SECONDS,
) -> None:
    """Make the live rows of aggregates the fold of their events.

    After events were edited by hand, or for an aggregate that was left behind in a migration. Needs the code of the live version. One
    transaction per aggregate; readers see the old rows or the new ones, and writers wait for its last milliseconds. Tables whose rows cannot be told apart by aggregate are left as
    they are, and named; an aggregate that was left behind in one of those is refused.

    \b
    Example: sequent aggregates refold 6f1c…
    """
    invocation.resume = "Each aggregate is as it was or done. Run the same command again."
    with invocation.application() as sequent:
        report = sequent.aggregates.refold(
            ids, lock_budget_seconds=lock_budget, longest_stall_seconds=max_stall
        )
    invocation.report(report, _refold)


def _confirm(invocation: Invocation, number: int) -> None:
    if invocation.output.is_json or not sys.stdin.isatty():
        raise typer.BadParameter("erasing is for good: give --yes, or try --dry-run first")
    typer.confirm(f"Delete {count(number, 'aggregate')} for good?", abort=True, err=True)


def _erasure(report: ErasureReport) -> Iterator[Block]:
    number = count(len(report.aggregate_ids), "aggregate")
    if report.is_dry_run:
        yield Line(f"Would erase {number}; nothing was written.")
    elif not report.is_everywhere:
        yield Line(f"Erased {number}, but not everywhere.", Tone.WARNING)
    else:
        yield Line(f"Erased {number}.", Tone.GOOD)
    yield Grid(
        "Found" if report.is_dry_run else "Deleted",
        ("place", "rows"),
        [(place.name, "none kept" if place.rows is None else count(place.rows)) for place in report.places],
        frozenset({1}),
    )
    yield Items(
        "A migration is at work on these tables. Its next pass deletes the rows, and they are not promoted before:",
        report.left_to_next_pass,
        Tone.WARNING,
    )
    yield Items(
        f"THESE TABLES MAY STILL HOLD WHAT WAS ERASED, for their rows cannot be told apart by aggregate. {REMEDY_FOR_UNTOLD}:",
        report.untold_tables,
        Tone.BAD,
    )
    if not report.is_dry_run:
        yield Line(report.rest)


def _refold(report: RefoldReport) -> Iterator[Block]:
    yield Line(
        f"Folded {count(report.events, 'event')} of {count(len(report.aggregate_ids), 'aggregate')} anew.",
        Tone.GOOD,
    )
    yield Facts(
        {
            "were left behind until now": count(report.released) if report.released else None,
            "appends waited for": f"{report.stall_seconds * 1000:.0f} ms at most",
        }
    )
    yield Grid(
        "Rows",
        ("table", "before", "now"),
        [
            (table, count(report.deleted_rows[table]), count(report.inserted_rows[table]))
            for table in report.deleted_rows
        ],
        frozenset({1, 2}),
    )
    yield Items(
        f"Not folded anew, and as they were. If events were edited that these projectors handle: {REBUILD[0].lower()}{REBUILD[1:]}:",
        [
            f"{', '.join(item.tables)} of {' and '.join(item.projectors)}: {item.reason}"
            for item in report.not_folded
        ],
        Tone.WARNING,
    )
