"""``sequent schema``: section H of the case list."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sequent_py import cli
from sequent_py.schema_migrations import event_store

FIXTURES = Path(__file__).parent / "fixtures"
LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def sequent(db, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run ``sequent schema …`` in the directory that holds ``migrations``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQUENT_DATABASE_URL", db.url)

    def run(*arguments: str) -> Ran:
        code = cli.run(["schema", *arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


Sequent = Callable[..., Ran]


@pytest.mark.rows(260, 261, 262, 263, 265, 285)
def test_migrating_prints_nothing(sequent: Sequent, db, files):
    files.tables("001_a", "002_b")
    for arguments in (
        ["migrate"],
        ["migrate"],
        ["migrate", "--dir", "migrations"],
        ["migrate", "--dir", str(files.path)],
    ):
        assert sequent(*arguments) == Ran(0, "", "")
    assert db.version == 2
    assert sequent("migrate", "-M", "0") == Ran(0, "", "")
    assert (db.version, db.tables) == (0, set())


@pytest.mark.rows(265, 267, 268, 269)
@pytest.mark.parametrize(("given", "version"), [("99", 11), ("-5", 0), ("001", 1), ("010", 10), ("1_1", 11)])
def test_versions_are_decimal_and_clamped(sequent: Sequent, db, files, given, version):
    files.tables(*(f"{n:03}_t{n}" for n in range(1, 12)))
    assert sequent("migrate", "-M", given).code == 0
    assert sequent("migrate", "--target", given).code == 0
    assert db.version == version


@pytest.mark.rows(266)
def test_a_timestamp_as_version(sequent: Sequent, db, files):
    files.tables("20200101_a", "20200102_b")
    assert sequent("migrate", "-M", "20200101").code == 0
    assert db.tables == {"a"}


@pytest.mark.rows(271, 272, 273, 275)
@pytest.mark.parametrize("arguments", [["-M", "x"], ["-M"], ["--bogus"], ["-M", "1", "surplus"]])
def test_wrong_usage(sequent: Sequent, db, files, arguments):
    files.tables("001_a")
    ran = sequent("migrate", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert "--help" in ran.err
    assert db.all_tables == set()


@pytest.mark.rows(1)
@pytest.mark.parametrize("command", ["migrate", "status", "check"])
def test_no_directory(sequent: Sequent, db, command):
    ran = sequent(command, "--dir", "nowhere")
    assert ran.code == 1
    assert "Must supply a valid migration path: nowhere does not exist" in ran.err
    assert db.all_tables == set()


@pytest.mark.rows(277, 278, 280)
def test_echo(sequent: Sequent, files):
    files.tables("001_a")
    sequent("migrate", "-M", "0")
    ran = sequent("migrate", "-E")
    expected = [
        rf"{LINE}INFO: Begin applying migration version 1, direction: up",
        rf"{LINE}INFO: BEGIN",
        rf"{LINE}INFO: \(\d+\.\d{{6}}s\) CREATE TABLE a \(a integer\)",
        LINE + r"INFO: \(\d+\.\d{6}s\) UPDATE schema_info SET version=1",  # noqa: S608
        rf"{LINE}INFO: COMMIT",
        rf"{LINE}INFO: Finished applying migration version 1, direction: up, took \d+\.\d{{6}} seconds",
    ]
    lines = ran.out.splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.rows(279, 280)
def test_echo_of_timestamps_and_without_transactions(sequent: Sequent, files):
    files.tables("20200102_b")
    path = files.path / "20200102_b.py"
    path.write_text(f"transaction = False\n{path.read_text()}")
    sequent("migrate")
    ran = sequent("migrate", "-M", "0", "--echo")
    assert "Begin applying migration 20200102_b.py, direction: down" in ran.out
    assert re.search(
        r"Finished applying migration 20200102_b\.py, direction: down, took [0-9.]+ seconds", ran.out
    )
    assert not re.search("BEGIN|COMMIT", ran.out)


@pytest.mark.rows(280, 281)
def test_echo_of_a_failure(sequent: Sequent):
    ran = sequent("migrate", "-E", "--dir", str(FIXTURES / "wrong_sql"))
    assert ran.code == 1
    tail = ran.out.splitlines()[-2:]
    assert re.fullmatch(rf"{LINE}ERROR: SyntaxError: .*: SELEC 1", tail[0])
    assert re.fullmatch(rf"{LINE}INFO: ROLLBACK", tail[1])
    assert "Finished applying migration version 2" not in ran.out


@pytest.mark.rows(283, 284)
def test_logging_to_a_file(sequent: Sequent, files, tmp_path: Path):
    files.tables("001_a")
    log = tmp_path / "sql.log"
    assert sequent("migrate", "-l", str(log)) == Ran(0, "", "")
    first = log.read_text()
    assert "CREATE TABLE a" in first
    ran = sequent("migrate", "-M", "0", "-l", str(log), "-E")
    assert log.read_text() == first + ran.out
    assert "DROP TABLE a" in ran.out


def test_a_log_that_cannot_be_written_stops_the_run(sequent: Sequent, db, files):
    files.tables("001_a")
    assert sequent("migrate", "-l", "/nonexistent/log").code == 1
    assert db.all_tables == set()


def test_parameters_are_shown_as_values(sequent: Sequent, files):
    text = (
        "import sqlalchemy as sa\n\n\ndef up(op):\n    op.run('CREATE TABLE t (n int, s text)')\n"
        "    t = sa.table('t', sa.column('n', sa.Integer), sa.column('s', sa.Text))\n"
        '    op.get_bind().execute(sa.insert(t).values(n=7, s="it\'s 5%"))\n'
    )
    files.write({"001_x": text})
    assert "VALUES (7::INTEGER, 'it''s 5%'::VARCHAR)" in sequent("migrate", "-E").out


@pytest.mark.rows(286, 287)
def test_a_failing_migration(sequent: Sequent, db):
    directory = FIXTURES / "fails_going_up"
    ran = sequent("migrate", "--dir", str(directory))
    assert (ran.code, ran.out) == (1, "")
    assert "ArithmeticError: boom" in ran.err
    assert f"Failed in {directory / '002_b.py'}, line 3." in ran.err
    assert len(ran.err.splitlines()) <= 3
    assert len(sequent("migrate", "--debug", "--dir", str(directory)).err.splitlines()) > 5
    assert db.version == 1


@pytest.mark.rows(289)
def test_an_empty_directory(sequent: Sequent, db):
    ran = sequent("migrate")
    assert ran.code == 1
    assert "No target and/or latest version available" in ran.err
    assert db.all_tables == set()


@pytest.mark.rows(290, 291)
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:secr3t@127.0.0.1:1/none",
        "mysql://ann:secr3t@127.0.0.1/none",
        "host=/nowhere password=secr3t",
    ],
)
@pytest.mark.parametrize("command", ["migrate", "status", "check", "dump"])
def test_a_database_that_cannot_be_reached(sequent: Sequent, files, url, command):
    files.tables("001_a")
    ran = sequent(command, "--database-url", url, *(["-D"] if command == "dump" else []))
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert "secr3t" not in ran.err


def test_another_database(sequent: Sequent, db, other_db, files):
    files.tables("001_a")
    assert sequent("migrate", "--database-url", other_db.url).code == 0
    assert (db.tables, other_db.tables) == (set(), {"a"})


@pytest.mark.rows(293)
def test_a_plan_runs_nothing(sequent: Sequent, db, files):
    files.tables("001_a", "002_b")
    ran = sequent("migrate", "--plan")
    assert ran.code == 0
    assert re.findall(r"\d+_.\.py \w+", ran.out) == ["001_a.py up", "002_b.py up"]
    assert db.all_tables == set()
    plan = json.loads(sequent("migrate", "--plan", "--json", "-M", "1").out)
    assert [step["file"]["name"] for step in plan["steps"]] == ["001_a.py"]
    sequent("migrate")
    assert re.findall(r"\d+_.\.py \w+", sequent("migrate", "--plan", "-M", "0").out) == [
        "002_b.py down",
        "001_a.py down",
    ]
    assert "Nothing to do" in sequent("migrate", "--plan").out


@pytest.mark.rows(296, 297)
def test_help(capsys: pytest.CaptureFixture[str]):
    for command in ("migrate", "status", "check", "dump", "new"):
        assert cli.run(["schema", command, "--help"]) == 0
        captured = capsys.readouterr()
        assert f"sequent schema {command}" in captured.out
        assert captured.err == ""


@pytest.mark.rows(164, 166, 169)
def test_check_and_status(sequent: Sequent, db, files):
    files.tables("001_a")
    ran = sequent("check")
    assert ran.code == 3
    assert "001_a.py up" in ran.out
    assert "001_a.py" in sequent("status").out
    assert db.all_tables == set()
    sequent("migrate")
    files.tables("002_b")
    found = json.loads(sequent("status", "--json").out)
    assert (found["version"], found["latest"], found["applied"], found["pending"], found["is_current"]) == (
        1,
        2,
        ["001_a.py"],
        ["002_b.py"],
        False,
    )
    assert sequent("check", "-M", "1") == Ran(0, "", "")
    sequent("migrate")
    assert sequent("check") == Ran(0, "", "")
    assert "Current." in sequent("status").out
    assert sequent("check", "-M", "1").code == 3


@pytest.mark.rows(149, 154)
def test_missing_files(sequent: Sequent, db, files):
    files.tables("001_a", "002_b")
    sequent("migrate")
    files.remove("002_b")
    for command in ("migrate", "check", "status"):
        ran = sequent(command)
        assert ran.code == 1
        assert "(current: 2, target: 1)" in ran.err
        assert "--allow-missing" in ran.err
    assert sequent("migrate", "--allow-missing") == Ran(0, "", "")
    assert db.version == 2


@pytest.mark.rows(10)
def test_names_that_look_like_migrations_are_mentioned(sequent: Sequent, files):
    files.tables("001_a")
    files.write({"2-b.py": ""})
    ran = sequent("migrate")
    assert (ran.code, ran.out) == (0, "")
    assert "Ignored, as they are not named like 001_create_artists.py: 2-b.py" in ran.err


@pytest.mark.rows(298, 299, 301)
@pytest.mark.parametrize("option", ["-d", "-D", "--sql"])
def test_a_redirected_dump_is_a_first_migration(sequent: Sequent, db, other_db, files, option):
    db.sql("CREATE TABLE artists (id serial PRIMARY KEY, name text); CREATE VIEW v AS SELECT 1 AS one")
    ran = sequent("dump", option)
    assert ran.code == 0
    assert ("left out: view v is not dumped" in ran.err) == (option != "--sql")
    files.write({"001_start": ran.out})
    assert sequent("migrate", "--database-url", other_db.url).code == 0
    assert (other_db.tables, other_db.version) == ({"artists"}, 1)
    assert json.loads(sequent("dump", option, "--json").out)["text"] == ran.out


@pytest.mark.rows(274)
@pytest.mark.parametrize("options", [[], ["-d", "-D"], ["-d", "--sql"]])
def test_one_kind_of_dump(sequent: Sequent, options):
    ran = sequent("dump", *options)
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.rows(365)
def test_the_help_of_dump_recommends_sql():
    done = subprocess.run(
        [sys.executable, "-m", "sequent_py", "schema", "dump", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "prefer --sql" in " ".join(done.stdout.split())


def test_new_files(sequent: Sequent, db, files, tmp_path: Path):
    assert sequent("new", "create_artists").out.strip() == str(
        tmp_path / "migrations" / "001_create_artists.py"
    )
    assert sequent("new", "create_albums").out.strip().endswith("002_create_albums.py")
    assert sequent("migrate") == Ran(0, "", "")
    assert db.version == 2
    assert re.fullmatch(r".*/\d{14}_later\.py", sequent("new", "later", "--timestamp").out.strip())
    assert re.fullmatch(r".*/\d{14}_still\.py", sequent("new", "still").out.strip())
    for name in ("Bad name", "../x", "", "_x", "é"):
        ran = sequent("new", name)
        assert ran.code == 1, name
        assert "is not a name for a migration" in ran.err


def test_the_first_directory_is_made(sequent: Sequent, tmp_path: Path):
    assert sequent("new", "a", "--dir", str(tmp_path / "x" / "y")).code == 0
    assert (tmp_path / "x" / "y" / "001_a.py").is_file()


@pytest.mark.rows(295)
def test_migrations_can_import_the_projects_modules(sequent: Sequent, db, files, tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text("[tool.sequent]\n")
    (tmp_path / "names_of_a_project.py").write_text("TABLE = 'named'\n")
    files.write(
        {"001_a": "from names_of_a_project import TABLE\n\n\ndef up(op):\n    op.create_table(TABLE)\n"}
    )
    assert sequent("migrate").code == 0
    assert db.tables == {"named"}


def test_the_command_as_a_process(db, files, tmp_path: Path):
    files.tables("001_a")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "sequent_py", "schema", "migrate", "--database-url", db.url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert db.version == 1


def test_the_schemas_that_sequent_maintains_are_not_dumped(sequent: Sequent, db):
    event_store.install_event_store(db.engine, "sequent_schema")
    db.sql("CREATE TABLE mine ()")
    for option in ("-d", "-D", "--sql"):
        ran = sequent("dump", option)
        assert "mine" in ran.out
        assert "sequent_schema" not in ran.out
        assert ("left out: schema sequent_schema: sequent maintains it" in ran.err) == (option == "--sql")
