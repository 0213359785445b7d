"""Queries that are planned once per session: where others wait for the answer, planning is three quarters of a catalog query's time.

The driver's own prepared statements are forgotten after every ROLLBACK and ALTER, which is when these are needed; so they are prepared by SQL,
on sessions that ask for it with :func:`keep_plans`. On any other, :func:`execute` is the connection's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

Connection = psycopg.Connection[Any]

_PLACEHOLDER = re.compile(r"%(?:%|s|\((\w+)\)s)")
_kept: WeakKeyDictionary[Connection, dict[str, str]] = WeakKeyDictionary()
"""The names of statements by their text, per session that keeps any."""


def keep_plans(connection: Connection) -> None:
    """Keep the plans of what :func:`execute` runs, as long as the session lives."""
    if connection in _kept:
        return
    connection.prepare_threshold = None
    with connection.transaction(force_rollback=True):
        # A rollback makes the driver forget what it has prepared so far. Otherwise the next one would, by DEALLOCATE ALL, ours included.
        pass
    # Without this a statement is planned anew for its first five executions, and after that whenever that looks cheaper.
    connection.execute("SET plan_cache_mode = force_generic_plan")
    _kept[connection] = {}


@contextmanager
def keeping_plans(connection: Connection) -> Iterator[None]:
    """Keep the plans of what :func:`execute` runs until the block ends; the session is then as it was."""
    if connection in _kept:
        yield
        return
    threshold = connection.prepare_threshold
    keep_plans(connection)
    try:
        yield
    finally:
        statements = _kept.pop(connection)
        connection.prepare_threshold = threshold
        # In a transaction that has failed, or on a session that is lost, nothing can be said; the caller's error tells of it.
        if connection.info.transaction_status in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
            connection.execute("RESET plan_cache_mode")
            for name in statements.values():
                connection.execute(sql.SQL("DEALLOCATE {}").format(sql.Identifier(name)))


def execute(
    connection: Connection, query: LiteralString | sql.Composed, parameters: Sequence[Any] | Mapping[str, Any]
) -> psycopg.Cursor[Any]:
    """Run a query with parameters as the connection does, by the session's plan if it keeps any."""
    statements = _kept.get(connection)
    if statements is None:
        return connection.execute(query, parameters)
    text = query if isinstance(query, str) else query.as_string(connection)
    numbered, names = _numbered(text)
    name = statements.get(text)
    if name is None:
        name = f"sequent_{len(statements) + 1}"
        # Composed by the caller; only its placeholders are spelled as the server does.
        connection.execute(
            sql.SQL("PREPARE {} AS {}").format(sql.Identifier(name), sql.SQL(cast(Any, numbered)))
        )
        statements[text] = name
    values = [parameters[key] for key in names] if isinstance(parameters, Mapping) else parameters
    template = "EXECUTE {} ({})" if values else "EXECUTE {}"
    arguments = sql.SQL(", ").join(map(sql.Literal, values))
    return connection.execute(sql.SQL(template).format(sql.Identifier(name), arguments))


def _numbered(text: str) -> tuple[str, list[str]]:
    """Spell placeholders as the server does; return the names of named ones, in the order of their numbers."""
    names: list[str] = []
    count = 0

    def number(match: re.Match[str]) -> str:
        nonlocal count
        if match[0] == "%%":
            return "%"
        if match[1] is None:
            count += 1
            return f"${count}"
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PLACEHOLDER.sub(number, text), names
