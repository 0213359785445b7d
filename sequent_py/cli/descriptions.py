"""What each report says to people: one function per report, from its values to blocks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sequent_py.cli.blocks import Block, Facts, Grid, Items, Line, Tone, count, duration, rate
from sequent_py.cli.quarantine import left_behind, quarantined
from sequent_py.event_store.gate import GateState
from sequent_py.progress import ReplayProgress
from sequent_py.replay.quarantine import accepting_options, waiting
from sequent_py.view_schema.bookkeeping.generations import Generation
from sequent_py.view_schema.plans import Plan
from sequent_py.view_schema.reports import (
    AbortReport,
    CheckReport,
    DryRunReport,
    MigrationReport,
    OfflineReport,
    OnlineReport,
    PlanReport,
    StatusReport,
)
from sequent_py.view_schema.states import MigrationState

TRIED_AGAIN = "mend the handler, then: sequent migrate online   (tries again what was set aside)"


def plan(report: PlanReport) -> Iterator[Block]:
    plan = report.plan
    if plan.is_noop:
        tone = Tone.WARNING if report.warnings else Tone.GOOD
        yield Line(f"Nothing to do: the database is at version {plan.target_version}.", tone)
        yield Items("Warnings:", report.warnings, Tone.WARNING)
        return
    yield Line(f"View migration from version {plan.from_version} to {plan.target_version}")
    if plan.is_empty:
        yield Line("No table changes; golive or offline only records the version.")
    yield from _steps(plan)
    if plan.replays:
        about = "" if report.is_exact else "about "
        yield Facts(
            {
                "to replay": f"{about}{count(report.events, 'event')}",
                "event types": ", ".join(plan.event_types),
                "projectors": ", ".join(plan.projectors),
            }
        )
    yield Items("Stays, although no projector manages it any more:", plan.orphaned)
    yield Items("Warnings:", (*plan.warnings, *report.warnings), Tone.WARNING)
    yield Items("Next:", ("sequent migrate online", "sequent migrate golive   (or offline)"))


def _steps(plan: Plan) -> Iterator[Block]:
    if plan.replays:
        rows = [
            (
                step.table_name,
                step.shadow_name,
                step.retired_name or "-",
                ", ".join(step.projectors),
                step.ordering,
                step.reason,
            )
            for step in plan.replays
        ]
        yield Grid(
            "Tables to build from the events",
            ("table", "built as", "old one kept as", "projectors", "ordering", "why"),
            rows,
        )
    if plan.alters:
        rows_of_alters = [(step.table_name, step.file_name, step.reason) for step in plan.alters]
        yield Grid("Tables to alter in place, in the swap", ("table", "file", "why"), rows_of_alters)
    yield Items(
        "Not run, because the table is built anew:",
        [f"{step.file_name}: {step.reason}" for step in plan.skipped_alters],
    )


def dry_run(report: DryRunReport) -> Iterator[Block]:
    yield Line("The dry run met nothing wrong, and nothing of it is left.", Tone.GOOD)
    yield Facts(
        {
            "would migrate": f"from version {report.plan.from_version} to {report.plan.target_version}",
            "replayed": f"{count(report.events, 'event')} of {count(report.aggregates, 'aggregate')}",
            "took": duration(report.seconds),
        }
    )
    yield from row_counts(report.rows)
    yield Items("Warnings:", report.warnings, Tone.WARNING)
    yield Items("Next:", ("sequent migrate online",))


def online(report: OnlineReport) -> Iterator[Block]:
    if report.is_noop:
        yield Line(f"Nothing to do: the database is at version {report.target_version}.", Tone.GOOD)
        return
    went_on = " (an earlier run's groups were kept)" if report.is_resumed else ""
    yield Line(
        f"Online is done: the tables of version {report.target_version} stand beside the live ones{went_on}.",
        Tone.GOOD,
    )
    yield Facts(
        {
            "replayed": f"{count(report.events, 'event')} in {count(report.groups, 'group')}",
            "took": f"{duration(report.seconds)}, {rate(report.events_per_second)}",
        }
    )
    yield from row_counts(report.rows)
    yield from quarantined(report.quarantined)
    yield Items("Warnings:", report.warnings, Tone.WARNING)
    if report.quarantined:
        accepting = f"sequent migrate golive {accepting_options(report.quarantined)}"
        yield Items(
            "Next:",
            (TRIED_AGAIN, f"{accepting}   (or offline: to leave behind what is still set aside)"),
        )
        return
    yield Items(
        "Next:",
        (
            "sequent migrate golive    (while the application runs)",
            "sequent migrate offline   (under maintenance mode)",
            "sequent migrate online    (again, to leave less for them)",
        ),
    )


def offline(report: OfflineReport) -> Iterator[Block]:
    if report.is_noop:
        yield Line(f"Nothing to do: the database is at version {report.target_version}.", Tone.GOOD)
        return
    yield Line(f"Version {report.target_version} is live.", Tone.GOOD)
    yield Facts(
        {
            "caught up": f"{count(report.catch_up_events, 'event')} before the gate closed,"
            f" {count(report.window_events, 'event')} while it was closed",
            "verified": f"row counts, and {count(report.verified_aggregates, 'aggregate')} against a fresh fold",
            "took": duration(report.seconds),
            "gate closed for": duration(report.closed_seconds),
            "steps": ", ".join(f"{name} {duration(seconds)}" for name, seconds in report.step_seconds.items())
            or None,
        }
    )
    yield from row_counts(report.rows)
    yield Items("Old tables are kept as:", report.retired_tables)
    yield Items("Views that read the new tables now:", report.repointed_views)
    yield left_behind(report.accepted_quarantined)
    yield Items("Warnings:", report.warnings, Tone.WARNING)


def row_counts(rows: Mapping[str, int]) -> Iterator[Block]:
    """Say how many rows each of the new tables has."""
    if rows:
        yield Grid(
            "Rows",
            ("table", "rows"),
            [(table, count(number)) for table, number in rows.items()],
            frozenset({1}),
        )


def abort(report: AbortReport) -> Iterator[Block]:
    yield Line(
        f"The view migration to version {report.target_version} is aborted; the live tables are as they were.",
        Tone.GOOD,
    )
    yield Items("Dropped:", report.dropped_tables)


def check(report: CheckReport) -> Iterator[Block]:
    if report.is_current:
        yield Line(f"Code and database are at version {report.live_version}.", Tone.GOOD)
        yield Items("Worth knowing:", report.notices, Tone.WARNING)
        return
    code = "none" if report.code_version is None else str(report.code_version)
    yield Facts({"code": code, "database": str(report.live_version)})
    yield Items("Not current:", report.problems, Tone.WARNING)
    yield Items("Worth knowing:", report.notices, Tone.WARNING)
    yield Items("Next:", ("sequent migrate plan", "sequent doctor"))


def status(report: StatusReport) -> Iterator[Block]:
    if not report.installed:
        yield Line("The event store is not installed yet.", Tone.WARNING)
    facts: dict[str, str | None] = {
        "code version": "none (no migrations class is set)"
        if report.code_version is None
        else str(report.code_version),
        "live version": str(report.live_version),
        "state": report.state or "no migration yet",
    }
    if report.migration is not None:
        facts |= _migration(report.migration, report.holder)
        if report.replay is not None and (report.migration.finished_at is None or _is_at_work(report)):
            facts |= _replay(report.replay, report.passes)
    if report.limits is not None:
        facts["limits"] = str(report.limits)
    if report.pause is not None:
        facts["replays"] = str(report.pause)
    if report.pending_events is not None:
        facts["pending"] = f"{count(report.pending_events, 'event')} since the last pass"
    yield Facts(facts)
    if report.gate is not None:
        yield from maintenance(report.gate)
    yield from quarantined(report.quarantined)
    if report.generations:
        yield generations("Retired tables", report.generations)
    if report.rollback is not None:
        yield Line(report.rollback.message, Tone.PLAIN if report.rollback.is_possible else Tone.WARNING)
    if report.migration is not None:
        yield Items(
            "Promoted although verification had found differences:",
            [
                f"{item.accepted_at:%Y-%m-%d %H:%M:%S %Z} by {item.database_user} on {item.host}: {item.found}"
                for item in report.migration.accepted_differences
            ],
            Tone.WARNING,
        )
    tried_again = report.state == MigrationState.ONLINE_DONE and waiting(report.quarantined)
    yield Items(
        "Next:",
        [
            TRIED_AGAIN if tried_again and line == "sequent migrate online" else line
            for line in report.next_commands
        ],
    )


def generations(title: str, kept: Sequence[Generation]) -> Grid:
    """Return what swaps have left behind, as a table."""
    rows = [
        (
            str(item.version),
            ", ".join((*item.tables, *(f"{name} (under its plain name)" for name in item.orphaned))),
            "-" if item.retired_at is None else f"{item.retired_at:%Y-%m-%d %H:%M:%S %Z}",
            item.way,
        )
        for item in kept
    ]
    return Grid(title, ("version", "tables", "since", "what it makes possible"), rows)


def _is_at_work(report: StatusReport) -> bool:
    """Whether a rollback is replaying: the migration is finished then, and its newest pass is not."""
    replay = report.replay
    return report.holder is not None and replay is not None and replay.groups_done < replay.groups_total


def _migration(migration: MigrationReport, holder: str | None) -> dict[str, str | None]:
    finished = None if migration.finished_at is None else f"{migration.finished_at:%Y-%m-%d %H:%M:%S %Z}"
    return {
        "migration": f"{migration.id}, from version {migration.from_version} to {migration.target_version}",
        "started": f"{migration.started_at:%Y-%m-%d %H:%M:%S %Z}",
        "finished": finished,
        "run by": holder or (None if finished else "nobody at the moment"),
        "last error": migration.error,
    }


def _replay(replay: ReplayProgress, passes: int) -> dict[str, str | None]:
    about = "" if replay.is_exact else "about "
    is_done = replay.groups_done >= replay.groups_total
    workers = f", {count(replay.workers, 'worker')}" if replay.workers else ""
    return {
        "pass": str(passes),
        "groups": f"{count(replay.groups_done)} of {count(replay.groups_total)} done{workers}",
        "events": f"{count(replay.events_done)} of {about}{count(replay.events_total)}",
        "rate": rate(replay.events_per_second) if replay.events_per_second else None,
        "time": None if is_done or replay.eta_seconds is None else f"{duration(replay.eta_seconds)} left",
    }


def maintenance(state: GateState) -> Iterator[Block]:
    if state.maintenance:
        since = "" if state.since is None else f" since {state.since:%Y-%m-%d %H:%M:%S %Z}"
        yield Line(
            f"The gate is closed: maintenance mode is on{since} ({state.reason or 'no reason given'}).",
            Tone.WARNING,
        )
    elif state.is_closed:
        yield Line(
            f"The gate is closed by view migration {state.closed_by_migration}, which is cutting over.",
            Tone.WARNING,
        )
    else:
        yield Line("The gate is open: events can be appended.", Tone.GOOD)
