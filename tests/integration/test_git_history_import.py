"""A repository's history through both versions of the read side, and that the comparison with git notices what is wrong."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sequent_py import database
from sequent_py.demo import scratch
from sequent_py.demo.examples import example_directory
from sequent_py.demo.git import run_git
from sequent_py.demo.git_check import check_git
from sequent_py.demo.reports import Comparison
from sequent_py.demo.session import application, importable
from sequent_py.testing.server import drop_database


class Watcher:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.reports: list[Any] = []

    def step(self, name: str) -> None:
        self.steps.append(name)

    def replay(self, progress: Any) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def counted(self, done: int, total: int) -> None:
        pass

    def report(self, report: Any) -> None:
        self.reports.append(report)


def _git(repository: Path, *arguments: str, minute: int = 0, **environment: str) -> None:
    moment = f"{1_700_000_000 + 60 * minute} +0100"
    ours = {
        "PATH": os.environ["PATH"],
        "HOME": str(repository),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{role}_NAME": "Ann" for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_EMAIL": "ann@example.org" for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_DATE": moment for role in ("AUTHOR", "COMMITTER")},
        **environment,
    }
    subprocess.run(["git", *arguments], cwd=repository, env=ours, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Forty commits with merges, renames, binaries, deletions, odd names and two authors."""
    path = tmp_path / "repository"
    path.mkdir()
    _git(path, "init", "-q", "-b", "main")
    odd = os.fsdecode(b'caf\xe9 "x"\n.txt')
    for number in range(36):
        (path / f"file {number % 5}").write_text("line\n" * (number + 1))
        if number % 7 == 0:
            (path / "picture").write_bytes(bytes([0, number]))
            (path / odd).write_text(f"{number}\n")
        if number % 11 == 10:
            _git(path, "mv", "file 1", f"renamed {number}")
        if number == 20:
            _git(path, "rm", "-q", "-f", "file 2")
        _git(path, "add", "-A")
        author = {"GIT_AUTHOR_NAME": "Béla", "GIT_AUTHOR_EMAIL": "Bela@Example.org"} if number % 3 else {}
        _git(path, "commit", "-q", "-m", "x", minute=30_000 * number, **author)
        if number in (8, 25):
            _git(path, "switch", "-q", "-c", f"side-{number}", "HEAD~2")
            (path / f"side {number}").write_text("side\n")
            _git(path, "add", "-A")
            _git(path, "commit", "-q", "-m", "x", minute=30_000 * number + 1)
            _git(path, "switch", "-q", "main")
            _git(path, "merge", "-q", "--no-edit", f"side-{number}", minute=30_000 * number + 2)
    return path


@pytest.fixture
def on_path() -> Iterator[None]:
    with importable(example_directory("git_history")):
        yield


def test_a_history_becomes_two_versions_of_tables_that_agree_with_git(
    server_url: str, repository: Path, tmp_path: Path
) -> None:
    watcher = Watcher()
    report = run_git(
        repository=repository,
        workers=0,
        keep=False,
        server_url=server_url,
        working_directory=tmp_path,
        progress=watcher,
    )
    assert [comparison.examples for comparison in report.comparisons] == [(), (), ()]
    assert report.is_correct
    assert all(comparison.rows for comparison in report.comparisons)
    assert report.writer is not None
    assert (report.writer.appends, report.writer.version_refusals) == (4, 1)
    assert report.writer.appends_after_swap >= 1
    assert [phase.name for phase in report.phases] == [
        "read git log and load",
        "version 1: online",
        "version 1: offline",
        "version 2: online",
        "version 2: offline",
        "check against git log --numstat",
    ]
    assert {type(shown).__name__ for shown in watcher.reports} == {
        "PlanReport",
        "OnlineReport",
        "OfflineReport",
        "StatusReport",
    }


def test_a_kept_demonstration_leaves_a_project_and_its_database(
    server_url: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unique = f"{os.getpid():08x}"
    monkeypatch.setattr(scratch.secrets, "token_hex", lambda size: unique)
    try:
        report = run_git(
            repository=repository,
            workers=0,
            keep=True,
            server_url=server_url,
            working_directory=tmp_path,
            progress=Watcher(),
        )
        assert report.kept is not None
        assert report.kept.database == f"sequent_demo_{unique}"
        assert report.kept.directory == tmp_path / ".sequent" / "demo"
        assert (report.kept.directory / "pyproject.toml").is_file()
        with psycopg.connect(server_url) as connection:
            names = connection.execute("SELECT datname FROM pg_database").fetchall()
        assert (f"sequent_demo_{unique}",) in names
    finally:
        drop_database(server_url, f"sequent_demo_{unique}")


@pytest.mark.usefixtures("on_path")
def test_the_comparison_finds_one_wrong_number_one_missing_row_and_one_that_is_too_many(
    database_url: str, repository: Path
) -> None:
    log, lineage = (importlib.import_module(f"git_history.{name}") for name in ("log", "lineage"))
    source = log.open_repository(repository)
    project = example_directory("git_history")
    with application(
        project, database_url, "git_history.v2:GitHistoryMigrations", sql_directory="sql/v2", workers=0
    ) as app:
        app.install()
        app.store.import_history(lineage.events_of(log.read_commits(source)))
        app.view_schema.online()
        app.view_schema.offline()
    with database.connect(database_url, autocommit=True) as connection:

        def differences() -> list[int]:
            found: tuple[Comparison, ...] = check_git(
                connection, "sequent_schema", "view_schema", repository, source.head
            )
            return [comparison.differences for comparison in found]

        assert differences() == [0, 0, 0]
        connection.execute(
            "UPDATE view_schema.file_name_records SET lines_added = lines_added + 1 WHERE path = 'file 3'"
        )
        assert differences() == [1, 0, 0]
        connection.execute(
            "DELETE FROM view_schema.activity_records WHERE (aggregate_id, month) IN"
            " (SELECT aggregate_id, month FROM view_schema.activity_records LIMIT 1)"
        )
        assert differences() == [1, 1, 0]
        connection.execute(
            "UPDATE view_schema.file_records SET aggregate_id = gen_random_uuid() WHERE path = 'file 3'"
        )
        assert differences() == [1, 1, 2]
