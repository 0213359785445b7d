"""The log of a run: each statement with its time, in Sequel's own lines.

::

    2026-11-21 19:33:59 INFO: Begin applying migration version 1, direction: up
    2026-11-21 19:33:59 INFO: BEGIN
    2026-11-21 19:33:59 INFO: (0.001382s) CREATE TABLE artists (name TEXT)
    2026-11-21 19:33:59 INFO: COMMIT
    2026-11-21 19:33:59 INFO: Finished applying migration version 1, direction: up, took 0.002296 seconds

A statement that fails is logged as ``ERROR: Class: message: SQL``. The migrator's own questions (locks, versions, settings) are left out;
its writes are not. Nothing is logged, and no listener registered, where there is nowhere to write to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
import sqlalchemy as sa

from sequent_py.schema_migrations.connections import UNLOGGED, is_committing
from sequent_py.schema_migrations.files import Direction

Write = Callable[[str], object]
"""Takes a line with its line end."""


class SqlLog:
    """Lines for every sink in ``writers``."""

    def __init__(self, writers: Sequence[Write]) -> None:
        self._writers = tuple(writers)
        self._began = 0.0

    def begin(self, label: str, direction: Direction) -> None:
        """Say that a migration begins."""
        self._began = time.perf_counter()
        self._line("INFO", f"Begin applying migration {label}, direction: {direction}")

    def finish(self, label: str, direction: Direction) -> None:
        """Say that a migration is done and recorded."""
        took = time.perf_counter() - self._began
        self._line(
            "INFO", f"Finished applying migration {label}, direction: {direction}, took {took:.6f} seconds"
        )

    @contextmanager
    def listening(self, connection: sa.Connection) -> Iterator[None]:
        """Log what ``connection`` executes during the block."""
        if not self._writers:
            yield
            return
        # SQLAlchemy has the error hook on the dialect only, which all connections of an engine share.
        listeners: list[tuple[object, str, Callable[..., None]]] = [
            (connection, "before_cursor_execute", self._start),
            (connection, "after_cursor_execute", self._done),
            (connection.dialect, "handle_error", partial(self._failed, connection)),
            (connection, "begin", partial(self._transaction, "BEGIN")),
            (connection, "commit", partial(self._transaction, "COMMIT")),
            (connection, "rollback", partial(self._transaction, "ROLLBACK")),
        ]
        for target, name, listener in listeners:
            sa.event.listen(target, name, listener)
        try:
            yield
        finally:
            for target, name, listener in listeners:
                sa.event.remove(target, name, listener)

    def _line(self, level: str, text: str) -> None:
        if self._writers:
            line = f"{datetime.now():%Y-%m-%d %H:%M:%S} {level}: {text}\n"
            for write in self._writers:
                write(line)

    def _start(
        self,
        conn: sa.Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        context._sequent_started = time.perf_counter()

    def _done(
        self,
        conn: sa.Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        if not context.execution_options.get(UNLOGGED):
            took = time.perf_counter() - context._sequent_started
            self._line("INFO", f"({took:.6f}s) {_with_values(conn, statement, parameters, executemany)}")

    def _failed(self, connection: sa.Connection, exception: sa.engine.ExceptionContext) -> None:
        if exception.connection is connection:
            error = exception.original_exception
            text = " ".join(str(error).splitlines())
            self._line(
                "ERROR", f"{type(error).__name__}: {text}: {(exception.statement or 'COMMIT').strip()}"
            )

    def _transaction(self, word: str, connection: sa.Connection) -> None:
        # SQLAlchemy announces transactions on a committing connection as well; the server sees none.
        if not is_committing(connection):
            self._line("INFO", word)


def _with_values(connection: sa.Connection, statement: str, parameters: Any, executemany: bool) -> str:
    """Return the statement with its parameters in it, as psql would take it."""
    if executemany:
        return f"{statement.strip()}; {parameters}"
    if not parameters:
        return statement.strip()
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return psycopg.ClientCursor(raw).mogrify(statement, parameters).strip()
