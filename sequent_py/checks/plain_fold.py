"""The plain fold: a slice's events through the plain persistor, and its rows copied into scratch tables when all were folded.

Some ten times as fast as a :class:`~sequent_py.checks.scratch_fold.ScratchFold`, which sends every statement of every handler. What a fold that failed leaves behind,
the next one removes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sequent_py.checks.omissions import Omissions
from sequent_py.checks.partial_fold import PartialFold
from sequent_py.checks.plain import PlainPersistor
from sequent_py.checks.scratch import ScratchTable
from sequent_py.event_classes import EventTypes
from sequent_py.projectors import Projector
from sequent_py.records import Record
from sequent_py.replay.ledger import Connection
from sequent_py.replay.reader import RawEvent


class PlainFold:
    """One fold of events into the scratch tables of a connection, which nobody else uses meanwhile and which is in autocommit."""

    def __init__(
        self,
        connection: Connection,
        scratch: Mapping[type[Record], ScratchTable],
        projectors: Sequence[type[Projector]],
        event_types: EventTypes,
        stored_types: Mapping[str, int],
        omissions: Omissions,
    ) -> None:
        self._connection = connection
        self._scratch = scratch
        self._persistor = PlainPersistor(
            connection, {record: table.fold for record, table in scratch.items()}
        )
        self._fold = PartialFold(projectors, self._persistor, event_types, stored_types, omissions)

    def run(self, chunks: Iterable[Sequence[RawEvent]]) -> int:
        """Fold all events into tables that are emptied first; return how many there were.

        Raises
        ------
        ProjectionFailed, InvalidPayload
            The code cannot fold an event.
        psycopg.Error
            The server refuses a row.
        """
        connection = self._connection
        with connection.transaction():
            for table in self._scratch.values():
                table.empty(connection)
        events = sum(self._fold.apply(chunk) for chunk in chunks)
        self._persistor.flush()
        return events
