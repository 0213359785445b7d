"""Which words and which exit code an exception gets. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import psycopg
import sqlalchemy.exc
import typer

from sequent_py.database import is_lost
from sequent_py.errors import SequentError

FAILED = 1
_CONTENTIONS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_CommandLineError = typer.BadParameter.__mro__[2]
"""What all errors of parsing have in common; typer exports only this subclass of it."""


class Interrupted(KeyboardInterrupt):
    """A signal asked us to end; everything that treats Ctrl-C well treats this well."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Failure:
    """An exception, as it is printed."""

    kind: str
    message: str
    remedy: str
    exit_code: int


def failure_of(error: BaseException, *, resume: str = "") -> Failure:
    """Describe an exception; ``resume`` says what is kept, and which command goes on, if it was an interruption or the server went away."""
    kind = type(error).__name__
    match error:
        case KeyboardInterrupt():
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            return Failure("Interrupted", "Interrupted.", resume, 128 + number)
        case SequentError():
            return Failure(kind, error.message, error.remedy, FAILED)
        case sqlalchemy.exc.DBAPIError() if isinstance(error.orig, psycopg.Error):
            return failure_of(error.orig, resume=resume)
        case psycopg.Error() if is_lost(error):
            return Failure(kind, _driver_message(error), f"{_SERVER} {resume or _AGAIN}", FAILED)
        case psycopg.Error():
            return Failure(kind, _driver_message(error), _driver_remedy(error), FAILED)
        case OSError() if error.filename is not None and error.strerror is not None:
            return Failure(
                kind, f"{error.filename}: {error.strerror}.", "Check the path, and who may use it.", FAILED
            )
        case typer.Abort():
            return Failure("Aborted", "Aborted.", "", FAILED)
    if isinstance(error, _CommandLineError):
        return _usage_failure(error)
    message = f"{kind}: {' '.join(str(error).split())}".removesuffix(": ")
    return Failure(kind, f"Unexpected {message}", "Run it again with --debug to see where.", FAILED)


def _usage_failure(error: BaseException) -> Failure:
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "sequent"
    return Failure("UsageError", message, f"Run: {where} --help", getattr(error, "exit_code", 2))


def _driver_message(error: psycopg.Error) -> str:
    """Return the server's words, detail and hint in one line, without the excerpt of the statement that libpq adds."""
    primary = error.diag.message_primary
    if primary is None:
        text = " ".join(str(error).split())
        return (
            f"The database connection failed: {text}" if is_lost(error) else f"The database refused: {text}"
        )
    parts = [primary, error.diag.message_detail, error.diag.message_hint]
    text = ". ".join(" ".join(part.split()).removesuffix(".") for part in parts if part)
    if is_lost(error):
        return f"The connection to the database was lost: {text} (SQLSTATE {error.sqlstate})."
    return f"The database refused: {text} (SQLSTATE {error.sqlstate})."


def _driver_remedy(error: psycopg.Error) -> str:
    for cls, remedy in _REMEDIES:
        if isinstance(error, cls):
            return remedy
    return "Run it again with --debug to see where."


_SERVER = "Check that the server runs, and database_url ([tool.sequent] in pyproject.toml, or SEQUENT_DATABASE_URL)."
_AGAIN = "Then run the same command again."
_REMEDIES: tuple[tuple[type[psycopg.Error] | tuple[type[psycopg.Error], ...], str], ...] = (
    (
        psycopg.errors.InsufficientPrivilege,
        "Give the user of database_url that right, or name another one; docs/roles.md says which of the store's roles may what."
        " To create those: sequent init --roles",
    ),
    (
        psycopg.errors.LockNotAvailable,
        "Somebody holds what it takes; pg_locks says who, joined with pg_stat_activity by pid. Run it again when they have ended.",
    ),
    (
        _CONTENTIONS,
        "Another transaction was in the way, several times where that is tried again. Run the same command again.",
    ),
    (
        psycopg.errors.ReadOnlySqlTransaction,
        "Let database_url lead to a server that is no standby, as a login without default_transaction_read_only.",
    ),
    (
        (psycopg.errors.DiskFull, psycopg.errors.TooManyConnections, psycopg.errors.OutOfMemory),
        "Make room on the server, then run it again.",
    ),
)
