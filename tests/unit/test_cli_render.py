"""What people see: reports as text, progress as lines, in any encoding and on any stream."""

from __future__ import annotations

import io
import re
import sys
from datetime import UTC, datetime

import pytest

from sequent_py.cli import descriptions
from sequent_py.cli.blocks import Block, Facts, Grid, Items, Line, duration
from sequent_py.cli.render import Output, describe_replay
from sequent_py.event_store.gate import GateState
from sequent_py.progress import ReplayProgress
from sequent_py.view_schema.bookkeeping.generations import Generation
from sequent_py.view_schema.plans import AlterStep, Plan, ReplayStep
from sequent_py.view_schema.reports import (
    AbortReport,
    CheckReport,
    MigrationReport,
    OfflineReport,
    OnlineReport,
    PlanReport,
    StatusReport,
)

STARTED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
OPEN = GateState(
    is_closed=False, maintenance=False, reason=None, since=None, closed_by_migration=None, live_version=1
)
PLAN = Plan(
    from_version=1,
    target_version=2,
    replays=(
        ReplayStep(
            table_name="account_records",
            shadow_name="account_records_2",
            retired_name="account_records_1",
            projectors=("AccountProjector",),
            event_types=("AccountOpened",),
            reason="AccountProjector is listed under version 2 [really]",
        ),
    ),
    alters=(AlterStep("owner_records", 2, "owner_records_2.sql", "alter_table under version 2"),),
    projectors=("AccountProjector",),
    orphaned=("forgotten_records",),
)


def shown(
    capsys: pytest.CaptureFixture[str], value: object, describe: object, *, is_json: bool = False
) -> str:
    Output(is_json=is_json, is_debug=False).report(value, describe)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_a_plan_names_tables_reasons_events_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, PlanReport(PLAN, 1234, False, ("a view is re-pointed",)), descriptions.plan)
    for expected in (
        "from version 1 to 2",
        "account_records_2",
        "account_records_1",
        "AccountProjector is listed under version 2 [really]",
        "about 1,234 events",
        "owner_records_2.sql",
        "forgotten_records",
        "a view is re-pointed",
        "sequent migrate online",
    ):
        assert expected in text


def test_nothing_to_do_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = PlanReport(Plan(from_version=2, target_version=2), 0, True, ())
    assert shown(capsys, report, descriptions.plan) == "Nothing to do: the database is at version 2.\n"


def test_online_and_offline_say_what_they_did_and_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    online = OnlineReport(1, 0, 2, False, True, 100_000, 16, 4.0, {"account_records_2": 12_345})
    text = shown(capsys, online, descriptions.online)
    for expected in (
        "100,000 events in 16 groups",
        "25,000 events/s",
        "12,345",
        "earlier run",
        "sequent migrate offline",
    ):
        assert expected in text
    offline = OfflineReport(
        migration_id=1,
        from_version=1,
        target_version=2,
        is_noop=False,
        catch_up_events=10,
        window_events=1,
        verified_aggregates=100,
        rows={"t": 1},
        retired_tables=("account_records_1",),
        seconds=2.5,
        closed_seconds=0.25,
        step_seconds={"swap": 0.02},
        repointed_views=("public.rich",),
    )
    text = shown(capsys, offline, descriptions.offline)
    for expected in (
        "Version 2 is live",
        "10 events before",
        "1 event while",
        "250 ms",
        "swap 20 ms",
        "account_records_1",
        "public.rich",
    ):
        assert expected in text


def status(**changes: object) -> StatusReport:
    values: dict[str, object] = {
        "installed": True,
        "code_version": 2,
        "live_version": 1,
        "migration": MigrationReport(7, 1, 2, "online_running", STARTED, None, None),
        "state": "online_running",
        "holder": "sequent migrate online (host:12)",
        "replay": ReplayProgress(50_000, 100_000, 3, 6, 2, seconds=5.0),
        "passes": 1,
        "pending_events": 12,
        "gate": OPEN,
        "retired_tables": ("account_records_0",),
        "next_commands": ("sequent migrate status",),
        "generations": (Generation(0, 1, ("account_records_0",), (), None, 1),),
    }
    return StatusReport(**(values | changes))  # type: ignore[arg-type]


def test_status_shows_the_run_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, status(), descriptions.status)
    for expected in (
        "online_running",
        "sequent migrate online (host:12)",
        "3 of 6 done, 2 workers",
        "50,000 of about 100,000",
        "10,000 events/s",
        "5.0 s left",
        "12 events since the last pass",
        "The gate is open",
        "account_records_0",
        "from version 1 back to 0",
    ):
        assert expected in text


def test_status_of_a_killed_run_says_that_nobody_is_at_work(capsys: pytest.CaptureFixture[str]) -> None:
    migration = MigrationReport(7, 1, 2, "online_running", STARTED, None, "ValueError: no")
    text = shown(capsys, status(holder=None, migration=migration), descriptions.status)
    assert "nobody at the moment" in text
    assert "ValueError: no" in text


def test_status_before_installation(capsys: pytest.CaptureFixture[str]) -> None:
    report = StatusReport(False, None, 0, None, None, None, None, 0, None, None, (), ("sequent init",))
    text = shown(capsys, report, descriptions.status)
    assert "not installed" in text
    assert "sequent init" in text


def test_check_abort_and_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert "version 3" in shown(capsys, CheckReport(3, 3, ()), descriptions.check)
    assert "tables are missing" in shown(
        capsys, CheckReport(3, 2, ("tables are missing",)), descriptions.check
    )
    assert "a_2" in shown(capsys, AbortReport(1, 2, ("a_2",)), descriptions.abort)
    closed = GateState(True, True, "moving", STARTED, None, 1)
    assert "since 2026-03-04 05:06:07 UTC (moving)" in shown(capsys, closed, descriptions.maintenance)
    cutting_over = GateState(True, False, None, None, 9, 1)
    assert "view migration 9" in shown(capsys, cutting_over, descriptions.maintenance)


def test_nothing_is_folded_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 100

    def blocks(_: object) -> list[Block]:
        return [
            Line(long),
            Facts({"label": long}),
            Grid("title", ("column",), [(long,)]),
            Items("items", [long]),
        ]

    lines = shown(capsys, None, blocks).splitlines()
    assert sum(long.strip() in line for line in lines) == 4


def test_a_stream_that_knows_no_unicode_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    Output(is_json=False, is_debug=False).failure("Odd", "Zoë", "do")
    assert raw.getvalue() == b"error: Zo\\xeb\n\\u2192 do\n"


def test_an_error_is_followed_by_its_remedy_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    Output(is_json=False, is_debug=False).failure("Odd", "It is odd [bold]so[/].", "Run: sequent init")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: It is odd [bold]so[/].\n→ Run: sequent init\n"


def test_passwords_are_masked_in_errors_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(is_json=True, is_debug=True)
    output.keep_secret("postgresql://ann:hunter2@db/shop")
    output.failure("Odd", "hunter2 failed", "", traceback="url = 'postgresql://ann:hunter2@db/shop'")
    output.note("postgresql://ann:hunter2@db/shop")
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err


def test_progress_off_a_terminal_is_a_few_timestamped_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(is_json=False, is_debug=False).progress() as progress:
        progress.step("replaying")
        for done in range(0, 101, 10):
            progress.replay(ReplayProgress(done * 1000, 100_000, done // 10, 10, 2, seconds=done / 10 + 0.1))
        progress.step("indexing")
        progress.note("two indexes")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 5
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    assert lines[0].endswith("replaying")
    assert "100,000 of about 100,000 events, 10 of 10 groups" in lines[2]
    assert lines[4].endswith("two indexes")


def test_progress_says_the_rest_only_while_there_is_one() -> None:
    assert "left" in describe_replay(ReplayProgress(50, 100, 1, 2, 1, seconds=1.0, is_exact=True))
    assert "left" not in describe_replay(ReplayProgress(100, 100, 2, 2, 1, seconds=1.0, is_exact=True))
    assert "events/s" not in describe_replay(ReplayProgress(0, 100, 0, 2, 1, seconds=0.0))


def test_a_terminal_gets_bars_that_end_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with Output(is_json=False, is_debug=False).progress() as progress:
        progress.step("creating tables")
        progress.step("replaying")
        progress.replay(ReplayProgress(50, 100, 1, 2, 2, seconds=1.0))
        progress.note("a worker was replaced")
        progress.replay(ReplayProgress(100, 100, 2, 2, 2, seconds=2.0, is_exact=True))
    text = stream.getvalue()
    for expected in ("creating tables", "replaying", "a worker was replaced", "50 events/s"):
        assert expected in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0432, "43 ms"), (4.21, "4.2 s"), (59.96, "60.0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
