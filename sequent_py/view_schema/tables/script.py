"""Runs the text of one SQL file inside the caller's transaction, whole, and says where it went wrong.

The text is executed by one ``DO`` block that reads it from a setting: nothing here splits or rewrites SQL, and because the server refuses
transaction control inside a block, no ``COMMIT`` in a file can end the caller's transaction; looking at the transaction's status
afterwards would find it only when the damage is done. Locks are those that the file's own statements take. A file that would leave a
changed setting behind in the session, or whose names the server would cut, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

from sequent_py.errors import TableFileError
from sequent_py.view_schema.tables import prepared

Connection = psycopg.Connection[Any]

_RUN = sql.SQL("DO $run$ BEGIN EXECUTE pg_catalog.current_setting('sequent.script'); END $run$")
_NAME_TOO_LONG = "42622"
SERVER_STATE = ("08", "40", "53", "55P03", "57", "58", "XX")
"""How the SQLSTATEs begin that tell of the server's state (connection, deadlock, resources, lock timeout, cancellation) and not of what
was asked of it; they pass as they come, and the caller knows whether to try again."""


def run_script(connection: Connection, text: str, *, source: str, search_path: Sequence[str]) -> None:
    """Execute a file's text with a search path of its own.

    Requires a transaction. Search path and message level are the caller's again afterwards.

    Raises
    ------
    TableFileError
        The server refused it; names ``source``, the line where PostgreSQL gives it, and the message. The transaction is aborted.
    psycopg.Error
        What is not the file's fault, such as a lock timeout or a deadlock: the caller knows whether to try again.
    """
    cut_names: list[str] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        # Read at once: the notice is gone when the handler returns.
        if notice.sqlstate == _NAME_TOO_LONG:
            cut_names.append(notice.message_primary or "")

    with searching(connection, search_path), locally(connection, "client_min_messages", "notice"):
        connection.execute("SELECT pg_catalog.set_config('sequent.script', %s, true)", (text,))
        before = _settings(connection)
        connection.add_notice_handler(note)
        try:
            # Never prepared: it is the same statement every time, but not the same work.
            connection.execute(_RUN, prepare=False)
        except psycopg.Error as error:
            if error.sqlstate is None or error.sqlstate.startswith(SERVER_STATE):
                raise
            raise _translated(error, text, source) from error
        finally:
            connection.remove_notice_handler(note)
        _refuse_changed_settings(connection, before, source)
    if cut_names:
        raise TableFileError(
            f"{source}: names are longer than 63 bytes: {'; '.join(dict.fromkeys(cut_names))}.",
            remedy="Shorten them.",
        )


@contextmanager
def searching(connection: Connection, search_path: Sequence[str]) -> Iterator[None]:
    """Set the search path until the block ends."""
    path = sql.SQL(", ").join(map(sql.Identifier, search_path)).as_string(connection)
    with locally(connection, "search_path", path):
        yield


def lock_timeout(connection: Connection, seconds: float) -> AbstractContextManager[None]:
    """Let statements wait for a lock no longer than this until the block ends."""
    return locally(connection, "lock_timeout", f"{round(seconds * 1000)}ms")


@contextmanager
def locally(connection: Connection, name: str, value: str) -> Iterator[None]:
    """Set a setting until the block ends; when the block raises, the rollback puts it back."""
    _require_transaction(connection)
    row = connection.execute("SELECT pg_catalog.current_setting(%s)", (name,)).fetchone()
    before = row[0] if row else ""
    connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", (name, value))
    yield
    connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", (name, before))


def _require_transaction(connection: Connection) -> None:
    # Without one, a local setting would end with the very statement that sets it.
    if connection.info.transaction_status is not TransactionStatus.INTRANS:
        raise ValueError("this needs a transaction of the caller's")


def _settings(connection: Connection) -> dict[str, str]:
    # The role is a setting too, but pg_settings does not list it.
    query = (
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE context IN ('user', 'superuser') "
        "UNION ALL VALUES ('role', pg_catalog.current_setting('role'))"
    )
    return dict(prepared.execute(connection, query, ()).fetchall())


def _refuse_changed_settings(connection: Connection, before: dict[str, str], source: str) -> None:
    """Refuse a file that leaves a setting changed: it would hold for whatever the session does next."""
    changed = sorted(
        name for name, value in _settings(connection).items() if before.get(name, value) != value
    )
    if changed:
        raise TableFileError(
            f"{source} changes the setting {', '.join(changed)} of the session.",
            remedy="Remove SET and set_config() from the file.",
        )


def _translated(error: psycopg.Error, text: str, source: str) -> TableFileError:
    diagnostic = error.diag
    message = (diagnostic.message_primary or str(error)).strip()
    remedy = "Correct the file."
    if isinstance(error, errors.FeatureNotSupported) and "EXECUTE of transaction commands" in message:
        message = "it has transaction control (BEGIN, COMMIT, ROLLBACK or SAVEPOINT)"
        remedy = "Remove it: the file runs inside a transaction of its own."
    elif isinstance(error, errors.InvalidTransactionTermination):
        message = f"it has transaction control inside a block ({message})"
        remedy = "Remove it: the file runs inside a transaction of its own."
    elif isinstance(error, errors.ActiveSqlTransaction):
        remedy = "Remove CONCURRENTLY: nobody else uses the table yet."
    parts = [f"{source}{_place(diagnostic, text)}: {message}"]
    parts += [item for item in (diagnostic.message_detail, diagnostic.message_hint) if item]
    return TableFileError(". ".join(part.rstrip(".") for part in parts) + ".", remedy=remedy)


def _place(diagnostic: psycopg.errors.Diagnostic, text: str) -> str:
    """Return the line that PostgreSQL blames; empty where it blames none, or one in a nested statement."""
    if diagnostic.internal_position is None or diagnostic.internal_query != text:
        return ""
    before = text[: int(diagnostic.internal_position) - 1]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return f", line {line}, column {column}"
