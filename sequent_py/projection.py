"""Live projection: handlers run in the transaction that appends.

The store calls :meth:`LiveProjection.project` only when this code's version is the live one, while the append holds the gate: the tables
cannot be swapped underneath.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from sequent_py.events import Event
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Dispatcher
from sequent_py.records import Record, record_shape
from sequent_py.view_schema.migrations import MigrationsDefinition


class LiveProjection:
    """All registered projectors, fed with new events. Safe for use by several threads."""

    def __init__(self, definition: MigrationsDefinition, view_schema: str) -> None:
        self.version = definition.version
        """The view-schema version that this code projects into."""
        self._definition = definition
        self._view_schema = view_schema
        self._tables: Mapping[type[Record], TableShape] | None = None
        self._lock = threading.Lock()

    def project(self, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        """Run the handlers of these events, in order, on the live tables.

        Raises
        ------
        ProjectionFailed
            A handler raised; the caller's transaction must not commit.
        """
        persistor = LivePersistor(connection, self._live_tables(connection))
        dispatcher = Dispatcher([item.projector(persistor) for item in self._definition.projectors])
        for event in events:
            dispatcher.dispatch(event)

    def _live_tables(self, connection: psycopg.Connection[Any]) -> Mapping[type[Record], TableShape]:
        """Read the tables' shapes once: they only change with the version, and then this code is refused."""
        with self._lock:
            if self._tables is None:
                self._tables = {
                    record: read_table_shape(
                        connection, record_shape(record), self._view_schema, record_shape(record).table_name
                    )
                    for record in dict.fromkeys(
                        record for item in self._definition.projectors for record in item.records
                    )
                }
            return self._tables
