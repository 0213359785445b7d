"""Renames the objects of tables, in the caller's transaction.

A rename takes ACCESS EXCLUSIVE on the table, which the caller already holds, and SHARE UPDATE EXCLUSIVE on an index; nothing is rewritten.
Whether a batch can be done in the order given does not matter: a name that is still taken by another member of the batch is freed first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.errors import MigrationError
from sequent_py.names import NAME_LIMIT_BYTES
from sequent_py.view_schema.tables.blueprints import HOLDER_KINDS, ON_TABLE_KINDS, RELATION_KINDS

Connection = psycopg.Connection[Any]

_ALTER = {
    "table": "ALTER TABLE {object} RENAME TO {new}",
    "index": "ALTER INDEX {object} RENAME TO {new}",
    "sequence": "ALTER SEQUENCE {object} RENAME TO {new}",
    "view": "ALTER VIEW {object} RENAME TO {new}",
    "materialized view": "ALTER MATERIALIZED VIEW {object} RENAME TO {new}",
    "composite type": "ALTER TYPE {object} RENAME TO {new}",
    "type": "ALTER TYPE {object} RENAME TO {new}",
    "domain": "ALTER DOMAIN {object} RENAME TO {new}",
    "statistics": "ALTER STATISTICS {object} RENAME TO {new}",
    # Without arguments: the name must be unambiguous, and the server says so when it is not.
    "function": "ALTER ROUTINE {object} RENAME TO {new}",
    "key": "ALTER TABLE {table} RENAME CONSTRAINT {name} TO {new}",
    "constraint": "ALTER TABLE {table} RENAME CONSTRAINT {name} TO {new}",
    "trigger": "ALTER TRIGGER {name} ON {table} RENAME TO {new}",
    "policy": "ALTER POLICY {name} ON {table} RENAME TO {new}",
    "rule": "ALTER RULE {name} ON {table} RENAME TO {new}",
}


_CLOSING_TAG = re.compile(r"\$\w+\$\Z")


@dataclass(frozen=True, slots=True)
class Rename:
    """One object's new name."""

    kind: str
    table: str
    """The present name of the table that it is on; empty for what stands by itself, tables included."""
    name: str
    new: str
    source: str | None = None
    """A function's new body."""


def rename_all(connection: Connection, schema: str, renames: Iterable[Rename]) -> None:
    """Give all objects their new names.

    Raises
    ------
    psycopg.Error
        A name is taken by something outside the batch.
    """
    # What is on a table or view goes first: it is addressed by the name of that, which changes last.
    pending = sorted(
        (item for item in renames if item.name != item.new), key=lambda item: item.kind in HOLDER_KINDS
    )
    # Sent without waiting for each answer: everybody else waits for the last one.
    with connection.pipeline():
        _rename_in_turn(connection, schema, pending)


def _rename_in_turn(connection: Connection, schema: str, pending: list[Rename]) -> None:
    parked = 0
    present: dict[str, str] = {}
    while pending:
        taken = {_namespace(item): item for item in pending}
        ready = [item for item in pending if taken.get(_namespace(item, item.new), item) is item]
        if not ready:
            parked += 1
            first = pending[0]
            away = f"sequent_parked_{parked}"
            _rename(connection, schema, replace(first, new=away), present)
            pending[0] = replace(first, name=away)
            continue
        for item in ready:
            _rename(connection, schema, item, present)
        pending = [item for item in pending if item not in ready]


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return ``wanted``, shortened and numbered until it fits and is free."""
    candidate = _shortened(wanted, "")
    number = 0
    while candidate in taken:
        number += 1
        candidate = _shortened(wanted, f"_{number}")
    return candidate


def suffixed_name(plain: str, suffix: str, taken: Collection[str]) -> str:
    """Return a free name for an object with no recorded one; the suffix survives the shortening."""
    stem = _shortened(plain, suffix).removesuffix(suffix)
    return free_name(stem + suffix, taken)


def replace_source(connection: Connection, schema: str, name: str, source: str) -> None:
    """Give a function another body and leave all else of it as it is.

    Raises
    ------
    MigrationError
        The function is overloaded, gone, or not one with a body of text.
    """
    rows = connection.execute(
        "SELECT pg_catalog.pg_get_functiondef(f.oid), f.prosrc FROM pg_catalog.pg_proc f "
        "JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace WHERE n.nspname = %s AND f.proname = %s",
        (schema, name),
    ).fetchall()
    if len(rows) != 1:
        raise MigrationError(f"There are {len(rows)} functions {name} in schema {schema}, expected one.")
    definition, present = rows[0]
    if present == source:
        return
    # It ends in "AS $tag$body$tag$"; what precedes the body is kept as the server wrote it.
    definition = definition.rstrip()
    tag = _CLOSING_TAG.search(definition)
    ending = f"AS {tag[0]}{present}{tag[0]}" if tag else ""
    if not tag or not definition.endswith(ending):
        raise MigrationError(f"The body of function {name} cannot be replaced.")
    header = sql.SQL(definition.removesuffix(ending))
    connection.execute(sql.SQL("{}AS {}").format(header, sql.Literal(source)), prepare=False)


def _rename(connection: Connection, schema: str, item: Rename, present: dict[str, str]) -> None:
    statement = sql.SQL(_ALTER[item.kind]).format(
        object=sql.Identifier(schema, item.name),
        table=sql.Identifier(schema, present.get(item.table, item.table)),
        name=sql.Identifier(item.name),
        new=sql.Identifier(item.new),
    )
    connection.execute(statement)
    if item.kind in HOLDER_KINDS:
        # Keyed by the name at the start of the batch, by which the members refer to their table.
        first_name = next((first for first, now in present.items() if now == item.name), item.name)
        present[first_name] = item.new
    if item.source is not None:
        replace_source(connection, schema, item.new, item.source)


def _namespace(item: Rename, name: str | None = None) -> tuple[str, str, str]:
    """Return what no two objects may share; ``name`` stands for the item's own."""
    name = item.name if name is None else name
    if item.kind in RELATION_KINDS:
        return ("relation", "", name)
    return (item.kind, item.table if item.kind in ON_TABLE_KINDS else "", name)


def _shortened(stem: str, suffix: str) -> str:
    """Cut whole characters off the stem until the name fits, as the server would not: it cuts the end, suffix and all."""
    room = NAME_LIMIT_BYTES - len(suffix.encode())
    return stem.encode()[:room].decode(errors="ignore") + suffix
