"""``sequent migrate golive``: the cut-over without maintenance mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from sequent_py.cli.blocks import Block, Facts, Items, Line, Tone, count, duration
from sequent_py.cli.cut_over_options import LockBudget, LockTimeout, MaxDelta, MaxLag, VerifySample, Workers
from sequent_py.cli.descriptions import row_counts
from sequent_py.cli.invocation import Invocation, command
from sequent_py.cli.quarantine import AcceptQuarantined, left_behind
from sequent_py.cli.replaying import MaxLoad, MaxReplicaLag, Pool, Rate, replaying
from sequent_py.cli.verify import AcceptDifferences
from sequent_py.view_schema.going_live.golive import GoliveReport


@command
def golive(
    invocation: Invocation,
    max_delta: MaxDelta = None,
    max_lag: MaxLag = None,
    lock_timeout: LockTimeout = None,
    lock_budget: LockBudget = None,
    max_time: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long it may take in all; then it stops where nothing is lost, and can be run again. Default: as long as it takes.",
        ),
    ] = None,
    verify_sample: VerifySample = None,
    workers: Workers = None,
    accept_quarantined: AcceptQuarantined = None,
    accept_differences: AcceptDifferences = False,
    pool: Pool = "local",
    rate: Rate = None,
    max_load: MaxLoad = None,
    max_replica_lag: MaxReplicaLag = None,
) -> None:
    """Replay the rest, verify, and swap the new tables in, while the application runs.

    As offline, but without maintenance mode: appending and reading wait for some milliseconds and then go on. Catches up until little is
    left and compares the new tables with the log while everybody writes; then, in one short transaction, holds writers and readers back, replays
    the last events, and swaps. While a long transaction is in the way it waits without holding anybody up. When it can't have its locks, or anything
    else fails, the old tables serve as before, and golive or offline can be run again.

    Processes that append must carry the old declaration and the new one (Migrations.also_serves): the old one alone is refused once the new version
    is live. The old tables are kept under their version.

    \b
    Needs: sequent migrate online
    Example: sequent migrate golive --max-delta 50 --lock-budget 300 --max-time 3600
    """
    invocation.resume = (
        "Unless it had just been committed, the swap has not happened: the old tables serve, nobody waits, and online's work is kept."
        " See: sequent migrate status. Go on with: sequent migrate golive"
    )
    with invocation.application() as sequent, invocation.progress() as progress:
        report = sequent.view_schema.golive(
            **replaying(pool, workers=workers, rate=rate, max_load=max_load, max_replica_lag=max_replica_lag),
            max_delta_events=max_delta,
            max_lag_seconds=max_lag,
            lock_timeout_seconds=lock_timeout,
            lock_budget_seconds=lock_budget,
            verify_sample=verify_sample,
            max_seconds=max_time,
            accept_quarantined=accept_quarantined or (),
            accept_differences=accept_differences,
            progress=progress,
        )
    invocation.report(report, describe)


def describe(report: GoliveReport) -> Iterator[Block]:
    """Say what golive did."""
    if report.is_noop:
        yield Line(f"Nothing to do: the database is at version {report.target_version}.", Tone.GOOD)
        return
    yield Line(f"Version {report.target_version} is live.", Tone.GOOD)
    in_window = ", those of the last window among them" if report.is_window_checked else ""
    steps = ", ".join(f"{name} {duration(seconds)}" for name, seconds in report.step_seconds.items())
    yield Facts(
        {
            "writers waited": f"at most {report.writers_stall_milliseconds:.0f} ms",
            "readers waited": f"at most {report.readers_stall_milliseconds:.0f} ms",
            "locks": f"asked for {count(report.tries, 'time')}",
            "caught up": f"{count(report.catch_up_events, 'event')} while writers went on,"
            f" {count(report.window_events, 'event')} while they waited",
            "verified": f"row counts, and {count(report.verified_aggregates, 'aggregate')} against a fresh fold{in_window}",
            "took": duration(report.seconds),
            "steps": steps or None,
        }
    )
    yield from row_counts(report.rows)
    yield Items("Old tables are kept as:", report.retired_tables)
    yield Items("Views that read the new tables now:", report.repointed_views)
    yield left_behind(report.accepted_quarantined)
    yield Items("Warnings:", report.warnings, Tone.WARNING)
