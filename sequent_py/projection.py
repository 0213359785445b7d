"""Live projection: handlers run in the transaction that appends.

The store calls :meth:`LiveProjection.project` only when the live version is one that this code serves, while the append holds the gate: the
tables cannot be swapped underneath. A process that carries two versions of the declaration goes on across the cut-over from one to the other.

Aggregates that were left behind when the tables were promoted (:mod:`sequent_py.replay.quarantine`) are not projected into those tables: their
rows stay the prefix of their history that they are, until ``sequent aggregates refold`` makes them whole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql

from sequent_py.errors import DatabaseUnavailable, ProjectionFailed
from sequent_py.events import Event
from sequent_py.home import Home
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.refusals import Origin, circumstance_of, constraint_violated, refusal_of
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Dispatcher, Projector
from sequent_py.records import Record, record_shape
from sequent_py.replay.quarantine import Quarantine
from sequent_py.view_schema.migrations import MigrationsDefinition


class LiveProjection:
    """All registered projectors, fed with new events; of each version that this process serves. Safe for use by several threads."""

    def __init__(
        self,
        definitions: Sequence[MigrationsDefinition],
        view_schema: str,
        quarantine: Quarantine | None = None,
        home: Home | None = None,
    ) -> None:
        self.versions = tuple(item.version for item in definitions)
        """The view-schema versions that this code can project into."""
        self._definitions = {item.version: item for item in definitions}
        self._view_schema = view_schema
        self._quarantine = quarantine
        self._home = home
        self._left_behind: frozenset[UUID] = frozenset()
        """Aggregates that were left behind when the version was promoted. It can only get smaller: whoever is in it is asked for again."""
        self._tables: Mapping[type[Record], TableShape] = {}
        self._cut_overs: int | None = None
        """As of when the two above are known."""
        self._prepared: WeakKeyDictionary[psycopg.Connection[Any], int] = WeakKeyDictionary()
        """As of when each connection may have prepared statements."""
        self._lock = threading.Lock()

    def project(
        self, connection: psycopg.Connection[Any], events: Sequence[Event], live_version: int, cut_overs: int
    ) -> None:
        """Run the live version's handlers of these events, in order, on the live tables, which are the same until ``cut_overs`` rises.

        Raises
        ------
        ProjectionFailed
            A handler raised, or a table refuses its rows (ConstraintViolated); the caller's transaction must not commit.
        ConfigurationError
            The live tables are in another view schema.
        DatabaseUnavailable
            The connection was lost meanwhile, which is not the handler's fault; nothing was recorded.
        psycopg.OperationalError
            Neither is this: a deadlock or a serialization failure, after which the caller may try again, a lock that could not be had…
        """
        tables = self._live_tables(connection, live_version, cut_overs)
        persistor = LivePersistor(connection, tables)
        projectors = self._definitions[live_version].projectors
        behind = self._tables_left_behind(connection, {event.aggregate_id for event in events})
        if behind:
            projectors = tuple(
                item
                for item in projectors
                if behind.isdisjoint(record_shape(it).table_name for it in item.records)
            )
        dispatcher = Dispatcher([item.projector(persistor) for item in projectors])
        try:
            for event in events:
                dispatcher.dispatch(event)
        except ProjectionFailed as failed:
            if connection.closed:
                raise DatabaseUnavailable(
                    "The connection was lost while events were being projected; nothing was recorded.",
                    remedy="Try again.",
                ) from failed
            circumstance = circumstance_of(failed)
            if circumstance is not None:
                raise circumstance from circumstance.__cause__
            raise _with_table(failed, [item.projector for item in projectors], tables) from failed.__cause__

    def _tables_left_behind(
        self, connection: psycopg.Connection[Any], aggregate_ids: set[UUID]
    ) -> frozenset[str]:
        """Return the live tables that were promoted without these aggregates; one append has events of one aggregate only."""
        suspects = self._left_behind & aggregate_ids
        if not suspects or self._quarantine is None:
            return frozenset()
        found = self._quarantine.unprojected(connection, list(suspects))
        return frozenset(table for tables in found.values() for table in tables)

    def _live_tables(
        self, connection: psycopg.Connection[Any], live_version: int, cut_overs: int
    ) -> Mapping[type[Record], TableShape]:
        """Read the tables' shapes, and who was left behind, once per cut-over: a version that comes back may have been built anew."""
        with self._lock:
            if self._prepared.setdefault(connection, cut_overs) != cut_overs:
                # Prepared for tables whose columns had other types: the server would refuse to run them again. The driver looks at
                # what became of a text that is new to it only; one that it has counted before, another application's on the same connection,
                # say, it would not see deallocate anything.
                connection.execute(sql.SQL("DEALLOCATE ALL -- {}").format(sql.Literal(uuid4().hex)))
                self._prepared[connection] = cut_overs
            if self._cut_overs != cut_overs:
                if self._home is not None:
                    self._home.require_view_schema(connection, self._view_schema)
                tables = {
                    record: read_table_shape(
                        connection, record_shape(record), self._view_schema, record_shape(record).table_name
                    )
                    for record in dict.fromkeys(
                        record
                        for item in self._definitions[live_version].projectors
                        for record in item.records
                    )
                }
                left_behind = frozenset(
                    self._quarantine.unprojected(connection) if self._quarantine is not None else ()
                )
                # All or nothing: one without the other would be believed until the next cut-over.
                self._tables, self._left_behind, self._cut_overs = tables, left_behind, cut_overs
            return self._tables


def _with_table(
    failed: ProjectionFailed,
    projectors: Sequence[type[Projector]],
    tables: Mapping[type[Record], TableShape],
) -> ProjectionFailed:
    """Name table and constraint, where it was a table that refused the handler's rows."""
    refusal = failed.__cause__
    if not isinstance(refusal, psycopg.Error) or refusal_of(refusal) is None:
        return failed
    return constraint_violated(
        refusal,
        Origin(failed.event_type, failed.aggregate_id, failed.sequence_number),
        projectors=[item for item in projectors if item.__name__ == failed.projector],
        tables=tables,
        writing=None,
    )
