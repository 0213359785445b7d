"""The scratch fold: events through the live persistor into scratch tables, in many short transactions.

In one long transaction every version of a row that is updated stays, for whoever wrote it may still look: a row's thousandth update looks at
a thousand versions, and each event costs more than the one before. A live row has an append's transaction per update instead, and
autovacuum; temporary tables are never vacuumed by others. So the fold commits every few events, after which the server prunes what is dead, and vacuums
and analyses the tables itself as they grow.

Tables with an initially deferred constraint are folded in one transaction all the same: a commit checks it, and where we commit the
application may not have. What a fold that failed leaves behind, the next one removes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from psycopg import sql

from sequent_py.checks.omissions import Omissions
from sequent_py.checks.partial_fold import PartialFold
from sequent_py.checks.scratch import ScratchTable
from sequent_py.event_classes import EventTypes
from sequent_py.persistors.deferred import deferred_names
from sequent_py.persistors.live import LivePersistor
from sequent_py.projectors import Projector
from sequent_py.records import Record
from sequent_py.replay.ledger import Connection
from sequent_py.replay.reader import RawEvent

COMMITTED_EVENTS = 20
"""Events per transaction. It costs a tenth of a millisecond, as much as two statements; and so many versions of most rows fit on a page, where the
next ones then find room: with a hundred the row moves on, and the table grows."""
VACUUMED_EVENTS = 10_000
"""After the first so many events the tables are vacuumed, then each time that their number has grown by half: linear in all."""


class ScratchFold:
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
        persistor = LivePersistor(connection, {record: table.fold for record, table in scratch.items()})
        self._fold = PartialFold(projectors, persistor, event_types, stored_types, omissions)
        self._vacuum_at = VACUUMED_EVENTS
        self._events = 0
        self._is_deferring = False

    @property
    def event_type_ids(self) -> tuple[int, ...]:
        """The stored types that the projectors handle."""
        return self._fold.event_type_ids

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Begin with empty tables; what is folded inside the block is to be looked at inside it."""
        self._empty()
        if not self._is_deferring:
            yield
            return
        with self._connection.transaction(force_rollback=True):
            yield

    def _empty(self) -> None:
        with self._connection.transaction():
            for table in self._scratch.values():
                table.empty(self._connection)
        folds = [table.fold for table in self._scratch.values()]
        self._is_deferring = any(
            deferred_names(self._connection, schema, [table.name for table in folds])
            for schema in {table.schema for table in folds}
        )

    def apply(self, raw_events: Iterable[RawEvent]) -> int:
        """Fold events, inside :meth:`opened`; return how many there were. May be called again for those that come next.

        Raises
        ------
        ProjectionFailed, InvalidPayload
            The code cannot fold an event.
        """
        before = self._events
        for batch in self._batches(raw_events):
            with self._connection.transaction():
                self._events += self._fold.apply(batch)
            if self._events >= self._vacuum_at and not self._is_deferring:
                self._vacuum()
        return self._events - before

    def _batches(self, raw_events: Iterable[RawEvent]) -> Iterator[Iterable[RawEvent]]:
        if self._is_deferring:
            yield raw_events
            return
        events = iter(raw_events)
        while batch := list(islice(events, COMMITTED_EVENTS)):
            yield batch

    def _vacuum(self) -> None:
        self._vacuum_at = self._events + self._events // 2
        for table in self._scratch.values():
            # Plans that were made when a table was empty are made anew with it.
            self._connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table.relation))
