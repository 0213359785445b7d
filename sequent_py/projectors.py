"""Projectors: classes whose handlers turn events into rows of the tables they manage.

Pure: a projector gets a persistor and cannot tell which one. It reaches nothing but its own records; every method below checks that in one
dictionary look-up and passes on to the persistor.

Handlers are found by the event's exact class. Events of one aggregate arrive in order; across aggregates the order is what ``ordering``
declares.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast

from sequent_py.errors import DefinitionError, ProjectionFailed, RecordNotManaged
from sequent_py.events import Event
from sequent_py.ordering import ORDERINGS, Ordering
from sequent_py.records import Record, record_shape

if TYPE_CHECKING:
    from sequent_py.persistors import Persistor

R = TypeVar("R", bound=Record)
H = TypeVar("H", bound=Callable[..., None])

_MARK = "__sequent_event_classes__"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def on(*event_classes: type[Event]) -> Callable[[H], H]:
    """Mark a method as the handler of these event classes; exactly these, not their subclasses.

    Raises
    ------
    DefinitionError
        Something other than subclasses of Event was given, or nothing.
    """
    for cls in event_classes:
        if not (isinstance(cls, type) and issubclass(cls, Event)) or cls is Event:
            raise DefinitionError(f"@on takes event classes, not {cls!r}.")
    if not event_classes:
        raise DefinitionError("@on needs at least one event class.", remedy="Write @on(SomethingHappened).")

    def mark(handler: H) -> H:
        if not inspect.isfunction(handler):
            raise DefinitionError(f"@on marks methods, not {handler!r}.")
        setattr(handler, _MARK, (*event_classes, *getattr(handler, _MARK, ())))
        return handler

    return mark


def is_handler(member: Any) -> bool:
    """Whether :func:`on` has marked this member of a class."""
    return getattr(member, _MARK, None) is not None


class Projector:
    """Subclass it, name the records in ``manages_tables`` and mark handlers with :func:`on`.

    ``ordering`` declares across which events the order matters: within each aggregate (the default; replays in parallel), within each
    partition key, or globally (one lane). Handlers read and write rows that events of that scope have written, and no others. All projectors of a
    table declare the same ordering.

    Filters are keywords: a value means equality, a list, tuple or set membership, None IS NULL. Where several rows match they come in the
    order of the primary key, and the first of them is meant where one is asked for. Rows are snapshots: they keep their values whatever
    is written later, and are read-only outside the block of an update.

    Every method raises RecordNotManaged for records of others, UnknownColumn for columns the record does not have, InvalidFilter for JSON
    and array columns in filters, and InvalidValue for values that a column does not take.
    """

    manages_tables: ClassVar[Sequence[type[Record]]] = ()
    ordering: ClassVar[Ordering] = "aggregate"

    def __init__(self, persistor: Persistor) -> None:
        self._persistor = persistor
        # What an update notes of its event, by record. Being in here is being managed.
        self._managed = {record: _touched_by(record) for record in self.manages_tables}

    def create_record(self, record: type[R], /, **values: Any) -> R:
        """Insert a row and return it, defaults and generated key included.

        Raises
        ------
        DuplicateRecord
            A row has this primary key.
        """
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.create_record(record, values)

    def create_records(self, record: type[R], rows: Iterable[Mapping[str, Any]], /) -> list[R]:
        """Insert rows and return them in the order given; all or none are inserted.

        Raises
        ------
        DuplicateRecord
            A row has one of the primary keys, or two of the rows have the same.
        """
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.create_records(record, rows)

    def update_record(
        self, record: type[R], event: Event, /, *, touch: bool = True, **where: Any
    ) -> AbstractContextManager[R]:
        """Yield the first row that matches for changing; it is stored when the block ends.

        Without filters it is the row of the event's aggregate. Columns ``updated_at`` and ``sequence_number``, where the record has them
        and they are not part of its key, are set from the event before the block; ``touch=False`` leaves them alone. If the block raises
        nothing is changed.

        Raises
        ------
        RecordNotFound
            No row matches, or the block deleted it.
        """
        touched = self._managed.get(record)
        if touched is None:
            self._refuse(record)
        if not where:
            where = {"aggregate_id": event.aggregate_id}
        return self._persistor.update_record(
            record,
            where,
            touched(event) if touch else _NOTHING,
        )

    def create_or_update_record(
        self, record: type[R], event: Event | None = None, /, *, touch: bool = True, **where: Any
    ) -> AbstractContextManager[R]:
        """Yield the first row that matches, or a new one with the filters' values and defaults; it is stored when the block ends.

        With an event, filters default to its aggregate and columns are set from it as in :meth:`update_record`. If the block raises
        nothing is changed.

        Raises
        ------
        DuplicateRecord
            The new row's primary key exists.
        """
        touched = self._managed.get(record)
        if touched is None:
            self._refuse(record)
        if event is None:
            return self._persistor.create_or_update_record(record, where, _NOTHING)
        if not where:
            where = {"aggregate_id": event.aggregate_id}
        return self._persistor.create_or_update_record(
            record,
            where,
            touched(event) if touch else _NOTHING,
        )

    def get_record(self, record: type[R], /, **where: Any) -> R:
        """Return the first row that matches.

        Raises
        ------
        RecordNotFound
            No row matches.
        """
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.get_record(record, where)

    def find_record(self, record: type[R], /, **where: Any) -> R | None:
        """Return the first row that matches; None where none does."""
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.find_record(record, where)

    def find_records(self, record: type[R], /, **where: Any) -> list[R]:
        """Return every row that matches."""
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.find_records(record, where)

    def last_record(self, record: type[R], /, **where: Any) -> R | None:
        """Return the matching row with the highest primary key; None where none matches."""
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.last_record(record, where)

    def update_all_records(
        self, record: type[Record], where: Mapping[str, Any], values: Mapping[str, Any], /
    ) -> int:
        """Set columns of every row that matches and return how many match."""
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.update_all_records(record, where, values)

    def delete_record(self, record: type[R], row: R | None = None, /, **where: Any) -> int:
        """Delete a row by its primary key, or the first that matches the filters; return how many that was: 0 or 1.

        Raises
        ------
        DefinitionError
            Neither a row nor filters were given, or both.
        """
        if record not in self._managed:
            self._refuse(record)
        if (row is None) is not bool(where):
            raise DefinitionError(
                f"delete_record({record.__name__}) takes either a row (not None) or filters.",
                remedy="To delete every row call delete_all_records.",
            )
        if row is None:
            row = self._persistor.find_record(record, where)
        return 0 if row is None else self._persistor.delete_record(record, row)

    def delete_all_records(self, record: type[Record], /, **where: Any) -> int:
        """Delete every row that matches and return how many."""
        if record not in self._managed:
            self._refuse(record)
        return self._persistor.delete_all_records(record, where)

    def _refuse(self, record: Any) -> NoReturn:
        raise RecordNotManaged(type(self).__name__, getattr(record, "__name__", repr(record)))


def touched_columns(record: type[Record]) -> Mapping[str, str]:
    """Return the columns that an update notes of its event, and which attribute of the event each has."""
    shape = record_shape(record)
    columns = {"updated_at": "created_at"} if shape.has_updated_at else {}
    return columns | ({"sequence_number": "sequence_number"} if shape.has_sequence_number else {})


@functools.cache
def _touched_by(record: type[Record]) -> Callable[[Event], Mapping[str, Any]]:
    """Return the function from an event to the columns that an update notes of it."""
    columns = touched_columns(record)
    if not columns:
        return lambda _event: _NOTHING
    values_of = attrgetter(*columns.values())
    if len(columns) == 1:
        (column,) = columns
        return lambda event: {column: values_of(event)}
    return lambda event: dict(zip(columns, values_of(event), strict=True))


@dataclass(frozen=True)
class ProjectorDefinition:
    """What a projector class says, checked. ``handlers`` holds method names by event class, in the order of their definition."""

    projector: type[Projector]
    name: str
    records: tuple[type[Record], ...]
    ordering: Ordering
    event_classes: tuple[type[Event], ...]
    handlers: Mapping[type[Event], tuple[str, ...]]


def projector_definition(cls: type[Projector]) -> ProjectorDefinition:
    """Return what a projector class says; read once per class, because every append asks for it.

    Raises
    ------
    DefinitionError
        It manages no tables or the same one twice, a record cannot work, ``ordering`` is not one of the three, it handles no events, or a
        handler is asynchronous, a generator or takes anything but an event.
    """
    if not (isinstance(cls, type) and issubclass(cls, Projector)):
        raise DefinitionError(f"{cls!r} is not a Projector class.")
    # For the type checker: a class is hashable, whatever its instances are.
    return _definition_of(cast(Any, cls))


@functools.cache
def _definition_of(cls: Any) -> ProjectorDefinition:
    if cls.ordering not in ORDERINGS:
        raise DefinitionError(
            f"{cls.__name__}.ordering is {cls.ordering!r}.",
            remedy=f"Use one of {', '.join(ORDERINGS)}.",
        )
    handlers = _handlers(cls)
    if not handlers:
        raise DefinitionError(f"{cls.__name__} handles no events.", remedy="Mark its handlers with @on(…).")
    return ProjectorDefinition(
        projector=cls,
        name=cls.__name__,
        records=_records(cls),
        ordering=cls.ordering,
        event_classes=tuple(handlers),
        handlers=MappingProxyType({event_class: tuple(names) for event_class, names in handlers.items()}),
    )


def _records(cls: type[Projector]) -> tuple[type[Record], ...]:
    declared = cls.manages_tables
    if not isinstance(declared, tuple | list) or not declared:
        raise DefinitionError(
            f"{cls.__name__} manages no tables.",
            remedy="Set manages_tables = (SomeRecord,) in its class body.",
        )
    tables: dict[str, type[Record]] = {}
    for record in declared:
        table_name = record_shape(record).table_name
        if table_name in tables:
            raise DefinitionError(f"{cls.__name__}.manages_tables names the table {table_name} twice.")
        tables[table_name] = record
    return tuple(declared)


def _handlers(cls: type[Projector]) -> dict[type[Event], list[str]]:
    """Return method names by event class, base classes first; an override without a mark of its own keeps the inherited one."""
    marked: dict[str, tuple[type[Event], ...]] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            event_classes = getattr(member, _MARK, None)
            if event_classes is not None:
                marked[name] = event_classes
    handlers: dict[type[Event], list[str]] = {}
    for name, event_classes in marked.items():
        _check_handler(cls, name)
        for event_class in event_classes:
            names = handlers.setdefault(event_class, [])
            if name not in names:
                names.append(name)
    return handlers


def _check_handler(cls: type[Projector], name: str) -> None:
    handler = inspect.getattr_static(cls, name)
    where = f"{cls.__name__}.{name}"
    if not inspect.isfunction(handler):
        raise DefinitionError(f"{where} handles events but is not a method.")
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        raise DefinitionError(f"{where} is asynchronous; nothing would await it.")
    if inspect.isgeneratorfunction(handler):
        raise DefinitionError(
            f"{where} is a generator; its body would never run.", remedy="Remove the yield."
        )
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError as error:
        raise DefinitionError(f"{where} cannot be called with an event: {error}.") from None


class Dispatcher:
    """Hands events to the handlers of several projectors, projector by projector, in the order given."""

    def __init__(self, projectors: Sequence[Projector]) -> None:
        handlers: dict[type[Event], list[Callable[[Event], None]]] = {}
        for projector in projectors:
            for event_class, names in projector_definition(type(projector)).handlers.items():
                handlers.setdefault(event_class, []).extend(getattr(projector, name) for name in names)
        self.handlers: Mapping[type[Event], tuple[Callable[[Event], None], ...]] = {
            event_class: tuple(methods) for event_class, methods in handlers.items()
        }
        """Bound methods by event class. A tight loop may call them itself and pass what they raise to :meth:`failure`."""

    def dispatch(self, event: Event) -> None:
        """Call every handler of the event's class; none is an event of no interest.

        Raises
        ------
        ProjectionFailed
            A handler raised; names projector, event and cause, which is chained.
        """
        for handler in self.handlers.get(event.__class__, ()):
            try:
                handler(event)
            except Exception as error:
                raise self.failure(handler, event, error) from error

    def failure(self, handler: Callable[[Event], None], event: Event, error: Exception) -> ProjectionFailed:
        """Return the error that says which projector failed on which event."""
        return ProjectionFailed(
            type(handler.__self__).__name__,  # type: ignore[attr-defined]
            type(event).__event_type__,
            _of_envelope(event, "aggregate_id"),
            _of_envelope(event, "sequence_number"),
            f"{type(error).__name__}: {error}",
        )


def _of_envelope(event: Event, name: str) -> Any:
    """Return a part of the envelope; None where a test projects an event that was never recorded."""
    try:
        return getattr(event, name)
    except Exception:
        return None
