"""``sequent migrate rollback`` and ``sequent migrate prune``: going back, and giving the way back up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from sequent_py.cli.blocks import Block, Facts, Grid, Items, Line, Tone, count, duration
from sequent_py.cli.cut_over_options import (
    LONGEST_SECONDS,
    LockBudget,
    LockTimeout,
    MaxDelta,
    MaxLag,
    VerifySample,
    Workers,
)
from sequent_py.cli.descriptions import generations
from sequent_py.cli.invocation import Invocation, command
from sequent_py.cli.replaying import MaxLoad, MaxReplicaLag, Pool, Rate, replaying
from sequent_py.view_schema.retired.prune import PruneReport
from sequent_py.view_schema.retired.rollback import RollbackReport
from sequent_py.view_schema.retired.rollback_preview import RollbackPlanReport


@command
def rollback(
    invocation: Invocation,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would happen, and do nothing.")] = False,
    workers: Workers = None,
    max_delta: MaxDelta = None,
    max_lag: MaxLag = None,
    lock_timeout: LockTimeout = None,
    lock_budget: LockBudget = None,
    stall_limit: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=LONGEST_SECONDS,
            metavar="SECONDS",
            help="How long writers and readers may wait at most. Default: 2.",
        ),
    ] = None,
    verify_sample: VerifySample = None,
    pool: Pool = "local",
    rate: Rate = None,
    max_load: MaxLoad = None,
    max_replica_lag: MaxReplicaLag = None,
) -> None:
    """Let this code's version serve again.

    Run with the code of the version that served before: it replays into the tables that were kept what has been written since, compares
    them with the log, and swaps them back in while writers wait for some milliseconds. Nothing is lost. The tables that served are kept in turn: run
    with their code, rollback goes forth again. It may be interrupted or killed at any moment; run it again, and it goes on.

    \b
    Needs: the tables that offline or golive kept (sequent migrate status lists them)
    Example: sequent migrate rollback --plan
    """
    if plan:
        with invocation.application() as sequent:
            report = sequent.view_schema.rollback_plan()
        invocation.report(report, _describe_plan)
        return
    invocation.resume = (
        "Unless it had just been committed, the swap has not happened: the version that served serves on, and finished groups are kept."
        " See: sequent migrate status. Go on with: sequent migrate rollback"
    )
    with invocation.application() as sequent, invocation.progress() as progress:
        done = sequent.view_schema.rollback(
            **replaying(pool, workers=workers, rate=rate, max_load=max_load, max_replica_lag=max_replica_lag),
            max_delta_events=max_delta,
            max_lag_seconds=max_lag,
            lock_timeout_seconds=lock_timeout,
            lock_budget_seconds=lock_budget,
            stall_limit_seconds=stall_limit,
            verify_sample=verify_sample,
            progress=progress,
        )
    invocation.report(done, _describe_rollback)


@command
def prune(
    invocation: Invocation,
    keep: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="How many generations to keep. Default: the setting retired_versions_to_keep.",
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, metavar="V", help="Drop the tables of this version, and no others."),
    ] = None,
    orphaned: Annotated[
        bool,
        typer.Option(
            "--orphaned", help="Also drop tables under plain names that no projector manages any more."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be dropped, and drop nothing.")
    ] = False,
) -> None:
    """Drop retired tables, the newest ones excepted.

    By the names that were recorded, all of them in one transaction, and never what depends on them. Says what can no longer be rolled
    back. Refused while a command is at work.

    \b
    Example: sequent migrate prune --dry-run
    """
    with invocation.application() as sequent, invocation.progress() as progress:
        report = sequent.view_schema.prune(
            keep=keep, version=version, orphaned=orphaned, dry_run=dry_run, progress=progress
        )
    invocation.report(report, _describe_prune)


def _describe_plan(report: RollbackPlanReport) -> Iterator[Block]:
    if report.is_noop:
        yield from _nothing(report.target_version)
        return
    direction = "Forth" if report.is_forth else "Back"
    yield Line(f"{direction} from version {report.from_version} to {report.target_version}")
    names = list(dict.fromkeys((*report.returning, *report.retiring, *report.in_place)))
    rows = [
        (
            name,
            report.returning.get(name) or ("itself" if name in report.in_place else "-"),
            report.retiring.get(name, "-"),
        )
        for name in names
    ]
    if rows:
        yield Grid("Tables", ("table", "comes back from", "the one that serves is kept as"), rows)
    else:
        yield Line("No table changes; only the version does.")
    yield Facts(
        {
            "to replay": count(report.pending_events, "event"),
            "projectors": ", ".join(report.projectors) or None,
        }
    )
    yield Items("Warnings:", report.warnings, Tone.WARNING)
    yield Items("Next:", ("sequent migrate rollback",))


def _describe_rollback(report: RollbackReport) -> Iterator[Block]:
    if report.is_noop:
        yield from _nothing(report.target_version)
        return
    yield Line(
        f"Version {report.target_version} serves again; version {report.from_version} does not.", Tone.GOOD
    )
    yield Facts(
        {
            "caught up": f"{count(report.catch_up_events, 'event')}, and {count(report.window_events, 'event')} while writers waited",
            "verified": f"{count(report.verified_aggregates, 'aggregate')} against a fresh fold",
            "took": duration(report.seconds),
            "writers waited for": f"at most {duration(report.writers_stall_milliseconds / 1000)}",
            "readers waited for": f"at most {duration(report.readers_stall_milliseconds / 1000)}",
        }
    )
    yield Items("Serve again:", report.returned_tables)
    yield Items("Kept, to go the other way:", report.retired_tables)
    yield Items("Views that read the returned tables now:", report.repointed_views)
    yield Items("Warnings:", report.warnings, Tone.WARNING)
    yield Items(
        "Next:",
        (f"start the code of version {report.target_version}, where it does not run already",),
    )


def _nothing(version: int) -> Iterator[Block]:
    yield Line(
        f"Nothing to do: version {version} serves, and it is this code's. To have another one serve, run this with its code.",
        Tone.GOOD,
    )


def _describe_prune(report: PruneReport) -> Iterator[Block]:
    if not report.dropped_tables and not report.forgotten_tables:
        yield Line("Nothing to drop.", Tone.GOOD)
    elif report.is_dry_run:
        yield Line("Nothing was dropped; this would be.", Tone.GOOD)
    would = "Would drop:" if report.is_dry_run else "Dropped:"
    yield Items(would, report.dropped_tables)
    if report.dropped_tables:
        yield Facts({"frees" if report.is_dry_run else "freed": _size(report.freed_bytes)})
    yield Items("Forgotten, for somebody had dropped them already:", report.forgotten_tables, Tone.WARNING)
    yield Items(
        "No longer possible afterwards:" if report.is_dry_run else "No longer possible:",
        [f"to go {way}" for way in report.ended_ways],
        Tone.WARNING,
    )
    if report.kept:
        yield generations("Kept", report.kept)


def _size(size: int) -> str:
    """Return bytes to a figure that matters: ``8 kB``, ``3.4 GB``."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TB"
