"""``sequent demo``: the main job on a scratch database, checked. The work is in :mod:`sequent_py.demo`; here it is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from sequent_py.cli import descriptions
from sequent_py.cli.blocks import Block, Facts, Grid, Items, Line, Tone, count, duration
from sequent_py.cli.cut_over_options import Workers
from sequent_py.cli.invocation import Invocation, command
from sequent_py.cli.render import Output
from sequent_py.config import Config
from sequent_py.demo.bank import DEFAULT_EVENTS, run_bank
from sequent_py.demo.git import run_git
from sequent_py.demo.reports import DemoReport, Kept, WriterReport
from sequent_py.progress import Progress, ReplayProgress
from sequent_py.view_schema.reports import OfflineReport, OnlineReport, PlanReport, StatusReport

DIFFERENT = 1
_LINE_SECONDS = 3.0


@command
def demo(
    invocation: Invocation,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="With --git: a git repository. Default: the one around here."),
    ] = None,
    git: Annotated[
        bool, typer.Option("--git", help="Use the history of a git repository instead of a made-up bank.")
    ] = False,
    events: Annotated[int, typer.Option(min=1, help="How many events the bank has.")] = DEFAULT_EVENTS,
    workers: Workers = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the database, and a project to use it with.")
    ] = False,
) -> None:
    """Run a whole migration on a scratch database while a second writer appends, and check every row.

    The bank: loads events, starts a process that appends through the public API, then plan, online, status, offline; at the end every
    balance and every statement line is compared with SQL over the events. With --git: imports a repository's history, builds version 1,
    migrates to version 2 while the last commits arrive, and compares the tables with git log --numstat. Exits with 1 if anything differs.

    Creates a database of its own on the configured server, else on an embedded PostgreSQL in a temporary directory, and drops it.

    \b
    Example: sequent demo --events 1000000
    Example: sequent demo --git ~/src/linux
    """
    if path is not None and not git:
        raise typer.BadParameter("a path goes with --git", param_hint="PATH")
    config = Config.load(invocation.project)
    server_url = None if config.database_url is None else config.database_url.get_secret_value()
    if server_url is not None:
        invocation.output.keep_secret(server_url)
    invocation.resume = "The scratch database is gone; begin again with: sequent demo"
    with _Shown(invocation.output) as progress:
        working_directory = (invocation.project or Path.cwd()).resolve()
        workers = config.workers if workers is None else workers
        if git:
            report = run_git(
                repository=(path or Path.cwd()).resolve(),
                workers=workers,
                keep=keep,
                server_url=server_url,
                working_directory=working_directory,
                progress=progress,
            )
        else:
            report = run_bank(
                events=events,
                workers=workers,
                keep=keep,
                server_url=server_url,
                working_directory=working_directory,
                progress=progress,
            )
    invocation.report(report, _describe)
    if not report.is_correct:
        raise typer.Exit(DIFFERENT)


class _Shown:
    """Shows a demonstration: progress as every command does, and what the commands of the migration would have printed.

    Progress is closed before a report is printed, so that bars and text do not write over each other.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._open = ExitStack()
        self._progress: Progress | None = None
        self._counted_at = 0.0

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def step(self, name: str) -> None:
        self._counted_at = time.monotonic()
        self._current().step(name)

    def note(self, text: str) -> None:
        self._current().note(text)

    def replay(self, progress: ReplayProgress) -> None:
        self._current().replay(progress)

    def counted(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._counted_at >= _LINE_SECONDS:
            self._counted_at = now
            self._current().note(f"{count(done)} of {count(total)}")

    def report(self, report: PlanReport | StatusReport | OnlineReport | OfflineReport) -> None:
        self._close()
        if self._output.is_json:
            return
        match report:
            case PlanReport():
                self._show("sequent migrate plan", report, descriptions.plan)
            case StatusReport():
                self._show("sequent migrate status", report, descriptions.status)
            case OnlineReport():
                self._show("sequent migrate online", report, descriptions.online)
            case OfflineReport():
                self._show("sequent migrate offline", report, descriptions.offline)

    def _show(self, title: str, report: Any, describe: Callable[[Any], Iterable[Block]]) -> None:
        def blocks(report: Any) -> Iterator[Block]:
            yield Line(f"\n$ {title}")
            yield from describe(report)
            yield Line("")

        self._output.report(report, blocks)

    def _current(self) -> Progress:
        if self._progress is None:
            self._progress = self._open.enter_context(self._output.progress())
        return self._progress

    def _close(self) -> None:
        self._open.close()
        self._progress = None


def _describe(report: DemoReport) -> Iterator[Block]:
    yield Line(f"{report.subject}, on {report.server}")
    yield Grid(
        "Phases",
        ("phase", "events", "seconds", "events/s"),
        [
            (phase.name, count(phase.events), f"{phase.seconds:.1f}", f"{phase.events_per_second:,.0f}")
            for phase in report.phases
        ],
        frozenset({1, 2, 3}),
    )
    if report.writer is not None:
        yield _writer(report.writer, report.gate_closed_seconds)
    for comparison in report.comparisons:
        if comparison.differences:
            yield Items(
                f"{comparison.name}: {count(comparison.differences, 'difference')} in {count(comparison.rows, 'row')}",
                comparison.examples,
                Tone.BAD,
            )
        else:
            yield Line(f"{comparison.name}: {count(comparison.rows, 'row')}, no difference", Tone.GOOD)
    if report.kept is not None:
        yield Items("Kept:", _kept(report.kept))


def _writer(writer: WriterReport, gate_closed_seconds: float) -> Block:
    versions = f", {count(writer.version_refusals)} for its old code" if writer.version_refusals else ""
    return Facts(
        {
            "writer": f"{count(writer.appends, 'append')} of {count(writer.events, 'event')},"
            f" {count(writer.appends_after_swap)} of them after the swap",
            "refused": f"{count(writer.refused, 'try', 'tries')} at the closed gate{versions}; each was repeated",
            "stall": f"{duration(writer.stall_seconds)} between two appends (gate closed for {duration(gate_closed_seconds)})",
            "append took": f"{writer.latency_p50_milliseconds:.1f} ms (median), {writer.latency_p99_milliseconds:.1f} ms (99 %),"
            f" {writer.latency_max_milliseconds:.1f} ms (longest)",
        }
    )


def _kept(kept: Kept) -> tuple[str, ...]:
    if kept.database is None:
        return (
            f"cd {kept.directory} && sequent migrate status     (its embedded PostgreSQL starts by itself)",
        )
    return (
        f"database {kept.database} on the configured server; drop it when you are done",
        f"cd {kept.directory} && SEQUENT_DATABASE_URL=<that server, that database> sequent migrate status",
    )
