"""The command line before, at and after installation: what it answers, on which stream, with which exit code."""

from __future__ import annotations

import json
import subprocess

import psycopg
import pytest
from library_project import PYPROJECT, Library

READING_COMMANDS = [
    ("migrate", "plan"),
    ("migrate", "status"),
    ("migrate", "current-version"),
    ("maintenance", "status"),
]


def test_version_and_help_need_no_project(project: Library) -> None:
    (project.directory / "pyproject.toml").unlink()
    assert project.sequent("--version").stdout.startswith("sequent ")
    assert "migrate" in project.sequent("--help").stdout
    assert "sequent migrate offline" in project.sequent("migrate", "online", "--help").stdout


def test_an_unknown_option_is_a_usage_error_on_standard_error(project: Library) -> None:
    result = project.sequent("migrate", "plan", "--fast", expect=2)
    assert "--fast" in result.stderr
    assert "→ Run: sequent migrate plan --help" in result.stderr
    assert result.stdout == ""


def test_a_usage_error_is_a_json_document_where_json_was_asked_for(project: Library) -> None:
    assert project.json("migrate", "plan", "--fast", expect=2)["error"]["type"] == "UsageError"


@pytest.mark.parametrize("command", READING_COMMANDS, ids=" ".join)
def test_reading_commands_answer_on_an_empty_database_and_write_nothing(
    project: Library, command: tuple[str, ...]
) -> None:
    before = project.query("SELECT nspname FROM pg_namespace ORDER BY 1")
    assert project.json(*command) is not None
    assert project.query("SELECT nspname FROM pg_namespace ORDER BY 1") == before


def test_check_and_doctor_say_pending_before_installation(project: Library) -> None:
    assert project.json("migrate", "check", expect=3)["problems"]
    verdicts = {it["subject"]: it["verdict"] for it in project.json("doctor", expect=3)["findings"]}
    # A server that is thrown away need not write to disk.
    assert verdicts | {"settings": "notice"} == {
        "server": "ok",
        "settings": "notice",
        "event store": "pending",
    }
    assert "sequent init" in project.sequent("doctor", expect=3).stdout


@pytest.mark.parametrize("command", READING_COMMANDS, ids=" ".join)
def test_reading_commands_answer_before_there_is_an_embedded_server_and_create_none(
    project: Library, command: tuple[str, ...]
) -> None:
    on_an_empty_database = project.json(*command)
    embedded = Library(project.directory, None)
    assert embedded.json(*command) == on_an_empty_database
    embedded.sequent(*command)
    assert not (project.directory / ".sequent").exists()


def test_check_and_doctor_say_pending_before_there_is_an_embedded_server(project: Library) -> None:
    embedded = Library(project.directory, None)
    assert embedded.json("migrate", "check", expect=3) == project.json("migrate", "check", expect=3)
    findings = embedded.json("doctor", expect=3)["findings"]
    assert [(it["subject"], it["verdict"], it["remedy"]) for it in findings] == [
        ("server", "pending", "Run: sequent init")
    ]
    assert not (project.directory / ".sequent").exists()


@pytest.mark.parametrize(
    "command", [("migrate", "online"), ("migrate", "worker"), ("maintenance", "on")], ids=" ".join
)
def test_what_needs_a_store_creates_no_embedded_server_to_miss_it_there(
    project: Library, command: tuple[str, ...]
) -> None:
    error = Library(project.directory, None).json(*command, expect=1)["error"]
    assert (error["type"], error["remedy"]) == ("StoreNotInstalled", "Run: sequent init")
    assert not (project.directory / ".sequent").exists()


def test_a_missing_migrations_class_is_reported_before_a_server_is_started(project: Library) -> None:
    project.sequent("init")
    project.write({"pyproject.toml": "[tool.sequent]\n"})
    nowhere = "postgresql://nobody@127.0.0.1:1/nowhere"
    for command in (("migrate", "plan"), ("migrate", "online")):
        assert "migrations_class" in project.sequent(*command, expect=1, SEQUENT_DATABASE_URL=nowhere).stderr
        assert "migrations_class" in Library(project.directory, None).sequent(*command, expect=1).stderr
    assert not (project.directory / ".sequent").exists()


def test_init_installs_once(project: Library) -> None:
    assert project.json("init")["applied"]
    assert project.json("init")["applied"] == []
    assert "up to date" in project.sequent("init").stdout


def test_init_puts_the_rows_back_that_somebody_deleted(library: Library) -> None:
    library.migrate()
    assert library.database_url is not None
    with psycopg.connect(library.database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM sequent_schema.gate; DELETE FROM sequent_schema.append_order")
    assert "Run: sequent init" in library.sequent("doctor", expect=1).stdout
    text = library.sequent("init").stdout
    assert "version 1 is live" in text
    assert "append_order" in text
    library.sequent("maintenance", "off")
    library.append("Dracula")
    assert library.json("init")["restored"] == []
    assert library.sequent("doctor", expect=0)


def test_status_after_init_offers_online(library: Library) -> None:
    status = library.json("migrate", "status")
    assert status["installed"]
    assert (status["code_version"], status["live_version"], status["state"]) == (1, 0, None)
    assert status["next_commands"][0] == "sequent migrate online"


def test_current_version_prints_the_number_alone(library: Library) -> None:
    assert library.sequent("migrate", "current-version").stdout == "0\n"
    library.migrate()
    assert library.sequent("migrate", "current-version").stdout == "1\n"
    assert library.json("migrate", "current-version") == {"current_version": 1}


def test_everything_is_well_after_a_migration(library: Library) -> None:
    library.migrate()
    library.sequent("migrate", "check")
    assert library.json("migrate", "check")["is_current"] is True
    library.sequent("doctor")
    found = {it["subject"]: it["verdict"] for it in library.json("doctor")["findings"]}
    # Neither is wrong: roles are a choice, and a server that is thrown away need not write to disk.
    assert {subject for subject, verdict in found.items() if verdict != "ok"} <= {"roles", "settings"}, found
    assert set(found.values()) <= {"ok", "notice"}


def test_json_errors_are_one_document_with_type_message_and_remedy(library: Library) -> None:
    error = library.json("migrate", "offline", expect=1)["error"]
    assert sorted(error) == ["message", "remedy", "type"]
    assert error["type"] == "MigrationNotStarted"
    assert "sequent migrate online" in error["remedy"]


def test_json_may_stand_before_the_command(library: Library) -> None:
    assert json.loads(library.sequent("--json", "migrate", "status").stdout)["installed"]


def test_project_names_another_directory(library: Library) -> None:
    elsewhere = library.directory / "elsewhere"
    elsewhere.mkdir()
    there = Library(elsewhere, library.database_url)
    assert there.json("migrate", "status", "--project", str(library.directory))["code_version"] == 1
    assert there.json("--project", str(library.directory), "migrate", "status")["code_version"] == 1
    there.sequent("migrate", "status", "--project", str(elsewhere / "missing"), expect=2)


def test_debug_shows_the_traceback(library: Library) -> None:
    assert "Traceback" in library.sequent("migrate", "offline", "--debug", expect=1).stderr


def test_an_unknown_setting_is_named_with_the_nearest_known_one(project: Library) -> None:
    project.write({"pyproject.toml": PYPROJECT + 'sql_dir = "elsewhere"\n'})
    stderr = project.sequent("migrate", "plan", expect=1).stderr
    assert "'sql_dir'" in stderr
    assert "'sql_directory'" in stderr


def test_a_missing_migrations_class_says_what_to_put_where(project: Library) -> None:
    project.write({"pyproject.toml": "[tool.sequent]\n"})
    stderr = project.sequent("migrate", "plan", expect=1).stderr
    assert "migrations_class" in stderr
    assert "pyproject.toml" in stderr


def test_a_migrations_class_that_cannot_be_imported_is_named(project: Library) -> None:
    project.edit("pyproject.toml", "LibraryMigrations", "Missing")
    assert "Missing" in project.sequent("migrate", "plan", expect=1).stderr


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("postgresql://ann:s3cr3tive@localhost:1/nowhere", "--debug"),
        ("postgresql://ann:s3cr3tive@127.0.0.1:notaport/nowhere", "--json"),
        ("postgresql://ann:at@s3cr3tive@127.0.0.1:1/nowhere", "--debug"),
        ("host=127.0.0.1 port=1 user=ann password=s3cr3tive dbname=nowhere", "--json"),
        ("host=127.0.0.1 port=1 password='s3cr3tive", "--debug"),
    ],
)
def test_no_password_is_shown_when_the_database_cannot_be_reached(
    project: Library, url: str, option: str
) -> None:
    result = project.sequent("migrate", "status", option, expect=1, SEQUENT_DATABASE_URL=url)
    assert "s3cr3tive" not in result.stdout + result.stderr
    assert "→" in result.stderr


def test_a_reader_who_leaves_does_not_break_the_command(library: Library) -> None:
    process = library.start("migrate", "status", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 0
    process.stderr.close()


def test_maintenance_mode_refuses_appends_until_it_is_off(library: Library) -> None:
    assert library.json("maintenance", "on", "--reason", "moving house")["maintenance"] is True
    status = library.json("maintenance", "status")
    assert (status["is_closed"], status["reason"]) == (True, "moving house")
    assert "moving house" in library.sequent("migrate", "status").stdout
    refused = library.append("Dracula", expect=1)
    assert "MaintenanceModeActive" in refused.stderr
    assert "moving house" in refused.stderr
    assert library.json("maintenance", "off")["is_closed"] is False
    library.append("Dracula")


def test_the_embedded_server_is_announced_once_on_standard_error(project: Library) -> None:
    embedded = Library(project.directory, None)
    result = embedded.sequent("init")
    assert result.stderr.count("embedded PostgreSQL") == 1
    assert "embedded PostgreSQL" not in result.stdout
    embedded.append("Emma")
    embedded.migrate()
    assert embedded.json("migrate", "current-version") == {"current_version": 1}
    assert not (project.directory / ".sequent/postgres/data/postmaster.pid").exists()


def test_a_terminal_gets_the_same_words(library: Library) -> None:
    """Under script(1) the command believes itself on a terminal; it must not fail there."""
    result = subprocess.run(
        [
            "script",
            "-qec",
            f"{' '.join(library._command(('migrate', 'online', '--workers', '1')))}",
            "/dev/null",
        ],
        cwd=library.directory,
        env=library._environment({"TERM": "xterm", "COLUMNS": "100"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "sequent migrate offline" in result.stdout


def test_standard_streams_that_are_closed_are_no_failure(library: Library) -> None:
    assert library.run_with_closed_streams("migrate", "online") == 0
    assert library.json("migrate", "status")["state"] == "online_done"
