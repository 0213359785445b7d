"""The stored ids of event types. Owns the table ``event_types``.

Ids are given once and never change or go away, so what is cached stays true. A new type is committed on a connection of its own
before any event refers to it: a rollback of the caller's transaction takes the events back, never an id that is already cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.cursors import OwnCursor
from sequent_py.database import for_parameters
from sequent_py.errors import StoreError


class EventTypeIds:
    """Both directions, cached. Safe for threads: a race at worst reads twice."""

    def __init__(
        self, schema: str, autocommit_connection: Callable[[], AbstractContextManager[psycopg.Connection]]
    ) -> None:
        self._table = for_parameters(sql.Identifier(schema, "event_types"))
        self._register = for_parameters(sql.Identifier(schema, "register_event_types_v1"))
        self._autocommit_connection = autocommit_connection
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def cached_ids_of(self, names: Sequence[str]) -> list[int] | None:
        """Return the ids of the names in their order; None where one of them is new here."""
        try:
            return [self._ids[name] for name in names]
        except KeyError:
            return None

    def ids_of(self, names: Sequence[str]) -> list[int]:
        """Return the ids of the names in their order; new names are stored first, and committed at once."""
        if self.cached_ids_of(names) is None:
            with self._autocommit_connection() as connection:
                self._store(connection, sorted({name for name in names if name not in self._ids}))
        return [self._ids[name] for name in names]

    def known_ids_of(self, names: Sequence[str]) -> list[int]:
        """Return the ids of those names that were ever stored."""
        if not all(name in self._ids for name in names):
            with self._autocommit_connection() as connection:
                self._read(connection)
        return [self._ids[name] for name in names if name in self._ids]

    def name_of(self, event_type_id: int) -> str:
        """Return the name of a stored id."""
        if event_type_id not in self._names:
            with self._autocommit_connection() as connection:
                self._read(connection)
        try:
            return self._names[event_type_id]
        except KeyError:
            raise StoreError(f"Events refer to event type id {event_type_id}, which is not stored.") from None

    def _store(self, connection: psycopg.Connection, names: list[str]) -> None:
        self._read(connection)
        missing = [name for name in names if name not in self._ids]
        if missing:
            # Through a function: whoever appends has the right to call it, and none to write the table.
            OwnCursor(connection).execute(sql.SQL("SELECT {}(%s::text[])").format(self._register), [missing])
            self._read(connection)

    def _read(self, connection: psycopg.Connection) -> None:
        for event_type_id, name in OwnCursor(connection).execute(
            sql.SQL("SELECT id, name FROM {}").format(self._table), []
        ):
            self._ids[name] = event_type_id
            self._names[event_type_id] = name


def stored_event_types(connection: psycopg.Connection[Any], schema: str) -> dict[str, int]:
    """Return the ids of all stored event types by name, as this moment's transaction sees them."""
    rows = connection.execute(
        sql.SQL("SELECT name, id FROM {}").format(sql.Identifier(schema, "event_types"))
    )
    return dict(rows.fetchall())
