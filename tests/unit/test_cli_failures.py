"""Which words and exit code each kind of exception gets."""

from __future__ import annotations

import signal

import psycopg
import pytest
import sqlalchemy.exc

from sequent_py.cli import run
from sequent_py.cli.failures import Failure, Interrupted, failure_of
from sequent_py.errors import ConcurrentMigration, ProjectionFailed


def test_our_own_errors_bring_their_words_and_remedy() -> None:
    failure = failure_of(ConcurrentMigration("sequent migrate online (host:7)"))
    assert failure.kind == "ConcurrentMigration"
    assert "host:7" in failure.message
    assert failure.remedy == "Watch it: sequent migrate status"
    assert failure.exit_code == 1


def test_a_projection_failure_names_everything() -> None:
    message = failure_of(ProjectionFailed("P", "Opened", "a-1", 7, "ValueError: no")).message
    for part in ("P", "Opened", "a-1", "7", "ValueError: no"):
        assert part in message


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM), 143), (Interrupted(signal.SIGHUP), 129)],
)
def test_an_interruption_says_how_to_go_on(error: BaseException, code: int) -> None:
    assert failure_of(error, resume="Go on with: x") == Failure(
        "Interrupted", "Interrupted.", "Go on with: x", code
    )


def test_a_failure_to_connect_is_one_line() -> None:
    failure = failure_of(
        psycopg.OperationalError("connection failed:\n  Connection refused\n  Is the server running?")
    )
    assert failure.message == (
        "The database connection failed: connection failed: Connection refused Is the server running?"
    )
    assert "database_url" in failure.remedy


def test_a_lost_connection_says_what_is_kept_and_what_goes_on() -> None:
    failure = failure_of(psycopg.errors.AdminShutdown("ended"), resume="Go on with: x")
    assert "database_url" in failure.remedy
    assert failure.remedy.endswith("Go on with: x")
    assert failure_of(psycopg.errors.CrashShutdown("ended")).remedy.endswith("run the same command again.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.LockNotAvailable, "pg_locks"),
        (psycopg.errors.DeadlockDetected, "Run the same command again."),
        (psycopg.errors.InsufficientPrivilege, "sequent init --roles"),
        (psycopg.errors.ReadOnlySqlTransaction, "standby"),
        (psycopg.errors.DiskFull, "Make room"),
        (psycopg.errors.DivisionByZero, "--debug"),
    ],
)
def test_what_the_server_refuses_has_a_remedy(error: type[psycopg.Error], expected: str) -> None:
    failure = failure_of(error("no"))
    assert failure.message == "The database refused: no"
    assert expected in failure.remedy
    assert failure.exit_code == 1


def test_sqlalchemy_is_looked_through() -> None:
    wrapped = sqlalchemy.exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("gone"))
    assert failure_of(wrapped).message == "The database connection failed: gone"


def test_anything_else_is_unexpected_and_points_at_debug() -> None:
    failure = failure_of(ZeroDivisionError("division\nby zero"))
    assert failure.message == "Unexpected ZeroDivisionError: division by zero"
    assert "--debug" in failure.remedy
    assert failure_of(AssertionError()).message == "Unexpected AssertionError"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bogus"], "bogus"),
        (["migrate", "online", "--workers", "many"], "--workers"),
        (["migrate", "online", "--workers", "-1"], "--workers"),
        (["migrate"], "Missing command"),
        (["migrate", "plan", "--project", "/no/such/directory"], "/no/such/directory"),
    ],
)
def test_a_wrong_command_line_is_exit_2_and_points_at_help(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert "--help" in captured.err
