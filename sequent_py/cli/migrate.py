"""``sequent migrate``: view migrations, from the plan to the swap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from sequent_py.cli import descriptions
from sequent_py.cli.blocks import Block, Line
from sequent_py.cli.cut_over_options import LockBudget, LockTimeout, VerifySample, Workers
from sequent_py.cli.golive import golive
from sequent_py.cli.invocation import Invocation, command
from sequent_py.cli.quarantine import AcceptQuarantined
from sequent_py.cli.replaying import (
    MaxLoad,
    MaxReplicaLag,
    Pool,
    Rate,
    ReadFrom,
    pause,
    replaying,
    resume,
    worker,
)
from sequent_py.cli.verify import AcceptDifferences, diff, verify
from sequent_py.replay.quarantine import DEFAULT_LIMIT

NOT_CURRENT = 3
"""The exit code that says: nothing failed, but there is something to migrate."""

app = typer.Typer(
    help="Move the tables to the version of the code.",
    rich_markup_mode=None,
)


@app.command("plan")
@command
def plan(invocation: Invocation) -> None:
    """Show what a migration to the code's version would do.

    Which tables are built, why, by which projectors and from how many events; which files alter tables in place; what the old tables
    will be called. Where nothing is to be built, projectors whose code changed all the same. Writes nothing and may be run at any time.

    \b
    Next: sequent migrate online
    Example: sequent migrate plan --json | jq '.plan.replays[].table_name'
    """
    with invocation.application() as sequent:
        invocation.report(sequent.view_schema.plan(), descriptions.plan)


@app.command("dry-run")
@command
def dry_run(
    invocation: Invocation,
    sample: Annotated[int, typer.Option(min=0, metavar="N", help="How many aggregates to replay.")] = 1_000,
) -> None:
    """Try the migration on a sample, and leave no trace.

    Proves the table files, creates the tables, replays up to N aggregates into them and builds their indexes, in a transaction that is
    rolled back. Finds handlers that raise, payloads that do not validate and keys that are not unique before online does.

    \b
    Next: sequent migrate online
    Example: sequent migrate dry-run --sample 5000
    """
    with invocation.application() as sequent, invocation.progress() as progress:
        report = sequent.view_schema.dry_run(sample=sample, progress=progress)
    invocation.report(report, descriptions.dry_run)


@app.command("online")
@command
def online(
    invocation: Invocation,
    workers: Workers = None,
    group_events: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Events that a group aims for. Default: the setting group_target_events."
        ),
    ] = None,
    quarantine: Annotated[
        bool | None,
        typer.Option(
            "--quarantine/--no-quarantine",
            help="Set aggregates aside whose events cannot be projected, and go on. Default: as the migration was begun; else it stops.",
            show_default=False,
        ),
    ] = None,
    quarantine_limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many are set aside before it stops all the same.")
    ] = DEFAULT_LIMIT,
    pool: Pool = "local",
    rate: Rate = None,
    max_load: MaxLoad = None,
    max_replica_lag: MaxReplicaLag = None,
    read_from: ReadFrom = None,
) -> None:
    """Build the new tables beside the live ones.

    The application runs on meanwhile, readers and writers alike: the live tables stay as they are, and nobody sees the new ones before golive or offline. It may be
    interrupted or killed at any moment; run it again, and it goes on with what is missing. Run again when it is done, it replays the
    events that came in meanwhile, which makes the cut-over shorter, and tries again what was set aside. Nothing to do is not an error.

    Limits are kept between groups, on every host, as long as this command runs; sequent migrate pause holds it from another terminal.

    \b
    Next: sequent migrate golive, or sequent migrate offline
    Example: sequent migrate online --workers 4
    """
    invocation.resume = (
        "Finished groups are kept; the live tables were not touched. Go on with: sequent migrate online"
    )
    invocation.output.keep_secret(read_from or "")
    with invocation.application() as sequent, invocation.progress() as progress:
        report = sequent.view_schema.online(
            **replaying(pool, workers=workers, rate=rate, max_load=max_load, max_replica_lag=max_replica_lag),
            read_from=read_from,
            group_target_events=group_events,
            quarantine=quarantine,
            quarantine_limit=quarantine_limit,
            progress=progress,
        )
    invocation.report(report, descriptions.online)


@app.command("offline")
@command
def offline(
    invocation: Invocation,
    drain_timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="How long to wait for writers in flight.")
    ] = None,
    lock_timeout: LockTimeout = None,
    lock_budget: LockBudget = None,
    verify_sample: VerifySample = None,
    workers: Workers = None,
    accept_quarantined: AcceptQuarantined = None,
    accept_differences: AcceptDifferences = False,
    pool: Pool = "local",
    rate: Rate = None,
    max_load: MaxLoad = None,
    max_replica_lag: MaxReplicaLag = None,
) -> None:
    """Replay the rest, verify, and swap the new tables in.

    Closes the gate: appending raises MaintenanceModeActive until it is open again, reading goes on. Waits for writers in flight, replays
    the last events, compares the new tables with the log, and swaps all of them in one transaction. Whatever fails before that commits
    leaves the old tables serving and the gate as it was found, and offline can be run again. The old tables are kept under their version.

    \b
    Needs: sequent migrate online
    Example: sequent migrate offline --drain-timeout 30
    """
    invocation.resume = (
        "Unless it had just been committed, the swap has not happened: the old tables serve, and online's work is kept."
        " See: sequent migrate status. Go on with: sequent migrate offline"
    )
    with invocation.application() as sequent, invocation.progress() as progress:
        report = sequent.view_schema.offline(
            **replaying(pool, workers=workers, rate=rate, max_load=max_load, max_replica_lag=max_replica_lag),
            drain_timeout_seconds=drain_timeout,
            lock_timeout_seconds=lock_timeout,
            lock_budget_seconds=lock_budget,
            verify_sample=verify_sample,
            accept_quarantined=accept_quarantined or (),
            accept_differences=accept_differences,
            progress=progress,
        )
    invocation.report(report, descriptions.offline)


app.command("golive")(golive)
app.command("worker")(worker)
app.command("pause")(pause)
app.command("resume")(resume)
app.command("verify")(verify)
app.command("diff")(diff)


@app.command("status")
@command
def status(invocation: Invocation) -> None:
    """Show where things stand, and what comes next.

    The versions of code and database, the latest migration, who runs it, how far its replay is, how many events wait, and the gate.
    Writes nothing and waits for no lock; works before anything is installed.

    \b
    Example: sequent migrate status --json | jq .pending_events
    """
    with invocation.application() as sequent:
        invocation.report(sequent.view_schema.status(), descriptions.status)


@app.command("abort")
@command
def abort(invocation: Invocation) -> None:
    """Give up a migration, and drop what it built.

    Drops the new tables by the names that were recorded, and nothing else; the live tables stay as they are. Refused while a command is
    at work on the migration.

    \b
    Next: sequent migrate plan
    """
    with invocation.application() as sequent:
        invocation.report(sequent.view_schema.abort(), descriptions.abort)


@app.command("check")
@command
def check(invocation: Invocation) -> None:
    """Exit with 0 if code and database fit, else with 3.

    For start-up scripts and deployments. Writes nothing.

    \b
    Example: sequent migrate check || exit 1
    """
    with invocation.application() as sequent:
        report = sequent.view_schema.check()
        invocation.report(report, descriptions.check)
    if not report.is_current:
        raise typer.Exit(NOT_CURRENT)


@app.command("current-version")
@command
def current_version(invocation: Invocation) -> None:
    """Print the version that is live.

    0 before the first migration. Writes nothing.
    """
    with invocation.application() as sequent:
        version = sequent.view_schema.current_version()
    invocation.report({"current_version": version}, _current_version)


def _current_version(report: dict[str, int]) -> Iterator[Block]:
    yield Line(str(report["current_version"]))
