"""Live projection: handlers run in the transaction that appends.

The store calls :meth:`LiveProjection.project` only when the live version is one that this code serves, while the append holds the gate: the
tables cannot be swapped underneath. A process that carries two versions of the declaration goes on across the cut-over from one to the other.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import psycopg

from sequent_py.events import Event
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Dispatcher
from sequent_py.records import Record, record_shape
from sequent_py.view_schema.migrations import MigrationsDefinition


class LiveProjection:
    """All registered projectors, fed with new events; of each version that this process serves. Safe for use by several threads."""

    def __init__(self, definitions: Sequence[MigrationsDefinition], view_schema: str) -> None:
        self.versions = tuple(item.version for item in definitions)
        """The view-schema versions that this code can project into."""
        self._definitions = {item.version: item for item in definitions}
        self._view_schema = view_schema
        self._tables: dict[int, Mapping[type[Record], TableShape]] = {}
        self._prepared: WeakKeyDictionary[psycopg.Connection[Any], int] = WeakKeyDictionary()
        """The version for which each connection may have prepared statements."""
        self._lock = threading.Lock()

    def project(
        self, connection: psycopg.Connection[Any], events: Sequence[Event], live_version: int
    ) -> None:
        """Run the live version's handlers of these events, in order, on the live tables.

        Raises
        ------
        ProjectionFailed
            A handler raised; the caller's transaction must not commit.
        """
        persistor = LivePersistor(connection, self._live_tables(connection, live_version))
        projectors = self._definitions[live_version].projectors
        dispatcher = Dispatcher([item.projector(persistor) for item in projectors])
        for event in events:
            dispatcher.dispatch(event)

    def _live_tables(
        self, connection: psycopg.Connection[Any], live_version: int
    ) -> Mapping[type[Record], TableShape]:
        """Read the tables' shapes once per version: they only change with it."""
        with self._lock:
            if self._prepared.setdefault(connection, live_version) != live_version:
                # Prepared for tables whose columns had other types: the server would refuse to run them again.
                connection.execute("DEALLOCATE ALL")
                self._prepared[connection] = live_version
            if live_version not in self._tables:
                # Those of the version before are forgotten: should it come back, its tables may have been built anew.
                self._tables = {
                    live_version: {
                        record: read_table_shape(
                            connection,
                            record_shape(record),
                            self._view_schema,
                            record_shape(record).table_name,
                        )
                        for record in dict.fromkeys(
                            record
                            for item in self._definitions[live_version].projectors
                            for record in item.records
                        )
                    }
                }
            return self._tables[live_version]
