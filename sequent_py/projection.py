"""Live projection: handlers run in the transaction that appends.

The store calls :meth:`LiveProjection.project` only when the live version is one that this code serves, while the append holds the gate: the
tables cannot be swapped underneath. A process that carries two versions of the declaration goes on across the cut-over from one to the other.

Aggregates that were left behind when the tables were promoted (:mod:`sequent_py.replay.quarantine`) are not projected into those tables: their
rows stay the prefix of their history that they are, until ``sequent aggregates refold`` makes them whole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus

from sequent_py.cursors import OwnCursor
from sequent_py.errors import DatabaseUnavailable, ProjectionFailed
from sequent_py.event_store.home import Home
from sequent_py.events import Event
from sequent_py.exchange import Exchange
from sequent_py.persistors.holding import Holdable, holdable_columns
from sequent_py.persistors.lines import Failure, Foreseen, Handler, Line
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.lookups import Foresight, LookUps
from sequent_py.persistors.refusals import Origin, circumstance_of, constraint_violated, refusal_of
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Dispatcher, Projector, ProjectorDefinition
from sequent_py.records import Record, record_shape
from sequent_py.replay.quarantine import Quarantine
from sequent_py.view_schema.migrations import MigrationsDefinition


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """What is known of the live tables until ``cut_overs`` rises. One value, lest some of it be believed without the rest."""

    cut_overs: int | None = None
    projectors: Sequence[ProjectorDefinition] = ()
    may_be_made_early: bool = False
    """Whether to make the projectors reads and writes nothing: they have no constructors of their own."""
    tables: Mapping[type[Record], TableShape] = field(default_factory=dict)
    at_once: frozenset[str] = frozenset()
    """Tables where a write can have effects on other rows, or on its own."""
    holdable: Holdable = field(default_factory=dict)
    """Tables of which an append's own rows may be remembered, and updates held."""
    left_behind: frozenset[UUID] = frozenset()
    """Aggregates that were left behind when the version was promoted. It can only get smaller: whoever is in it is asked for again."""
    look_ups: LookUps = field(default_factory=LookUps)


@dataclass(frozen=True, slots=True)
class _Ready:
    """The handlers of some events, and all that they need."""

    known: _Known
    persistor: LivePersistor
    line: Line | None
    projectors: Sequence[ProjectorDefinition]
    handlers: Mapping[type[Event], Sequence[Handler]]
    """By event class, in their order."""


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
        self._known = _Known()
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
        known = self._known_of(connection, live_version, cut_overs)
        self._run(_ready(known, known.projectors, events, LivePersistor(connection, known.tables)), events)

    # Along a line

    def ahead(self, exchange: Exchange, event: Event, *, is_numbered: bool) -> Sequence[Foreseen]:
        """Return the look-ups to send along with an event that knows its aggregate and, if ``is_numbered``, its number, and nothing else of its envelope."""
        found: list[Foreseen] = []
        for foresight in self._known.look_ups.foresights(type(event)):
            if not is_numbered and foresight.needs_number:
                continue
            parameters = foresight.of(event)
            if parameters is not None:
                found.append(Foreseen(foresight, parameters, exchange.dump(parameters)))
        return found

    def give_up(self, foresight: Foresight) -> None:
        """Send this look-up along no longer."""
        self._known.look_ups.give_up(foresight)

    def get_ready(self, exchange: Exchange, events: Sequence[Event]) -> _Ready | None:
        """Return what :meth:`project_and_commit` takes for these events; None where it has to look at the live version first."""
        known = self._known
        if not known.may_be_made_early or exchange.prepared_for is not known:
            return None
        return _ready_along(exchange, known, events)

    def project_and_commit(
        self,
        exchange: Exchange,
        events: Sequence[Event],
        live_version: int,
        cut_overs: int,
        foreseen: Sequence[Foreseen],
        ready: _Ready | None,
    ) -> None:
        """As :meth:`project`, and commit, on a connection of the store's own; ``foreseen`` came back with the events.

        Raises
        ------
        psycopg.Error
            Besides the above: the transaction was not committed, and never will be.
        DatabaseUnavailable
            Besides: the connection was lost, and nobody knows whether it was committed.
        """
        if ready is None or ready.known.cut_overs != cut_overs:
            before, known = (
                self._known,
                self._known_of(exchange.connection, live_version, cut_overs, exchange),
            )
            if known is not before:
                # Read for tables that were live before.
                foreseen = ()
            ready = _ready_along(exchange, known, events)
        assert ready.line is not None
        ready.line.expect(foreseen)
        if self._run(ready, events):
            for foresight in ready.line.in_vain:
                ready.known.look_ups.give_up(foresight)

    # Inside

    def _run(self, ready: _Ready, events: Sequence[Event]) -> bool:
        """Run the handlers, and commit along a line; return whether all of them were to run."""
        known, connection = ready.known, ready.persistor.connection
        behind = self._tables_left_behind(connection, events, known) if known.left_behind else None
        if behind:
            projectors = [
                item
                for item in ready.projectors
                if behind.isdisjoint(record_shape(it).table_name for it in item.records)
            ]
            ready = _ready(known, projectors, events, ready.persistor, ready.line)
        try:
            _dispatch(ready, events)
            if ready.line is not None:
                _commit(ready.line)
        except ProjectionFailed as failed:
            if connection.closed:
                raise DatabaseUnavailable(
                    "The connection was lost while events were being projected; nothing was recorded.",
                    remedy="Try again.",
                ) from failed
            circumstance = circumstance_of(failed)
            if circumstance is not None:
                raise circumstance from circumstance.__cause__
            raise _with_table(
                failed, [item.projector for item in ready.projectors], known.tables
            ) from failed.__cause__
        finally:
            if ready.line is not None:
                # A handler knows its projector, which knows the line.
                ready.line.at = None
        return not behind

    def _tables_left_behind(
        self, connection: psycopg.Connection[Any], events: Sequence[Event], known: _Known
    ) -> frozenset[str]:
        """Return the live tables that were promoted without the events' aggregate; one append has events of one aggregate only."""
        suspects = known.left_behind & {event.aggregate_id for event in events}
        if not suspects or self._quarantine is None:
            return frozenset()
        found = self._quarantine.unprojected(connection, list(suspects))
        return frozenset(table for tables in found.values() for table in tables)

    def _known_of(
        self,
        connection: psycopg.Connection[Any],
        live_version: int,
        cut_overs: int,
        exchange: Exchange | None = None,
    ) -> _Known:
        """Read the tables' shapes, and who was left behind, once per cut-over: a version that comes back may have been built anew."""
        with self._lock:
            if self._prepared.setdefault(connection, cut_overs) != cut_overs:
                # Prepared for tables whose columns had other types: the server would refuse to run them again. The driver looks at
                # what became of a text that is new to it only; one that it has counted before, another application's on the same connection,
                # say, it would not see deallocate anything.
                connection.execute(sql.SQL("DEALLOCATE ALL -- {}").format(sql.Literal(uuid4().hex)))
                if exchange is not None:
                    exchange.forget()
                self._prepared[connection] = cut_overs
            known = self._known
            if known.cut_overs != cut_overs:
                if self._home is not None:
                    self._home.require_view_schema(connection, self._view_schema)
                projectors = self._definitions[live_version].projectors
                tables = {
                    record: read_table_shape(
                        connection, record_shape(record), self._view_schema, record_shape(record).table_name
                    )
                    for record in dict.fromkeys(record for item in projectors for record in item.records)
                }
                left_behind = frozenset(
                    self._quarantine.unprojected(connection) if self._quarantine is not None else ()
                )
                at_once = tables_with_effects(
                    connection, self._view_schema, [table.name for table in tables.values()]
                )
                holdable = (
                    {} if at_once else holdable_columns(connection, self._view_schema, tuple(tables.values()))
                )
                has_constructors = any(
                    item.projector.__init__ is not Projector.__init__ for item in projectors
                )
                known = self._known = _Known(
                    cut_overs, projectors, not has_constructors, tables, at_once, holdable, left_behind
                )
            if exchange is not None:
                exchange.prepared_for = known
            return known


def _ready_along(exchange: Exchange, known: _Known, events: Sequence[Event]) -> _Ready:
    line = Line(exchange, at_once=known.at_once, holdable=known.holdable, look_ups=known.look_ups)
    return _ready(
        known, known.projectors, events, LivePersistor(exchange.connection, known.tables, line), line
    )


def _ready(
    known: _Known,
    definitions: Sequence[ProjectorDefinition],
    events: Sequence[Event],
    persistor: LivePersistor,
    line: Line | None = None,
) -> _Ready:
    event_classes = {type(event) for event in events}
    projectors = [
        (definition.handlers, definition.projector(persistor))
        for definition in definitions
        if not event_classes.isdisjoint(definition.handlers)
    ]
    handlers = {
        event_class: [
            getattr(projector, name) for names, projector in projectors for name in names.get(event_class, ())
        ]
        for event_class in event_classes
    }
    return _Ready(known, persistor, line, definitions, handlers)


def _dispatch(ready: _Ready, events: Sequence[Event]) -> None:
    """Call the handlers as a dispatcher does.

    What the server has against a write is the fault of the handler that wrote, not of the one that it is noticed in.
    """
    line, last = ready.line, events[-1]
    pgconn = ready.persistor.connection.pgconn
    for event in events:
        if line is not None:
            line.more_come = event is not last
        for handler in ready.handlers[type(event)]:
            if line is not None:
                line.at = handler, event
            try:
                handler(event)
                if line is None and pgconn.transaction_status == TransactionStatus.INERROR:
                    # Whoever commits that rolls back, and is not told.
                    raise InFailedSqlTransaction("it went on after an error of the server")
            except Exception as error:
                found = (line and line.failure) or Failure(handler, event, error)
                raise _failed(found) from found.error


def _commit(line: Line) -> None:
    try:
        line.commit()
    except Exception:
        if line.failure is None:
            raise
        raise _failed(line.failure) from line.failure.error


def _failed(failure: Failure) -> ProjectionFailed:
    return Dispatcher(()).failure(failure.handler, failure.event, failure.error)


_WITH_EFFECTS = """
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = ANY (%s) AND EXISTS (
    SELECT FROM pg_catalog.pg_class r
    WHERE (r.oid = c.oid OR r.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid))) AND (
        r.relhasrules
        OR EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = r.oid AND NOT t.tgisinternal)
        OR EXISTS (
            SELECT FROM pg_catalog.pg_constraint k
            WHERE k.confrelid = r.oid AND k.contype = 'f' AND k.confupdtype NOT IN ('a', 'r')
        )
    )
)
"""


def tables_with_effects(
    connection: psycopg.Connection[Any], schema: str, names: Sequence[str]
) -> frozenset[str]:
    """Return those of the tables where a write can have effects on other rows, or on its own: by triggers, rules, foreign keys that cascade updates."""
    with OwnCursor(connection) as cursor:
        return frozenset(name for (name,) in cursor.execute(_WITH_EFFECTS, (schema, list(names))))


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
