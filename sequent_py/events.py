"""Events: what a stored fact looks like in Python.

Pure: no database, no clock, nothing global but the classes themselves.

An event is a frozen pydantic model; its fields are the payload. The *envelope* (aggregate, sequence number, time, position, metadata)
is given when the event is recorded, lives beside the fields, and is never part of the stored payload. Reading it earlier raises
:class:`~sequent_py.errors.EventNotRecorded`.

Constructing an event refuses unknown fields; loading ignores those that were stored by other versions of the class. How a payload becomes JSON and comes
back is in :mod:`sequent_py.event_classes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from uuid import UUID, SafeUUID

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict
from pydantic_core import from_json
from typing_extensions import Format, get_annotations

from sequent_py.errors import (
    DefinitionError,
    EventNotRecorded,
)
from sequent_py.native import IS_NATIVE, native

ENVELOPE_FIELDS = ("aggregate_id", "sequence_number", "created_at", "position", "metadata")
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""PostgreSQL's binary timestamps count microseconds from here."""

E = TypeVar("E", bound="Event")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What recording adds to a payload. ``created_at`` is aware; ``position`` orders all events of the store."""

    aggregate_id: UUID
    sequence_number: int
    created_at: datetime
    position: int
    metadata: Mapping[str, Any]


class Event(BaseModel):
    """A fact. Subclass it; the fields are the payload.

    The stored type is the class's name unless ``class X(Event, type_name="…")`` says otherwise. A renamed class goes on reading its old
    events through ``class New(Event, aliases=("Old",))``. Neither is inherited.

    Two events are equal when class and payload are, recorded or not; :func:`envelope_of` has the rest.

    Raises
    ------
    DefinitionError
        At class creation: a field or member is named like a part of the envelope, a field is excluded from serialization and
        would be lost, or a field's alias is the name of another.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="strings",
    )

    # The envelope. What handlers read most is a slot, read without a call; time and metadata are raw wire values in a replay, which the
    # properties below replace by Python objects when they are first read. Slots that are not set end in __getattr__.
    __slots__ = ("_created_at", "_metadata", "aggregate_id", "position", "sequence_number")

    if TYPE_CHECKING:

        @property
        def aggregate_id(self) -> UUID:
            """The aggregate that the event belongs to."""

        @property
        def sequence_number(self) -> int:
            """The event's number within its aggregate, from 1, without gaps."""

        @property
        def position(self) -> int:
            """The event's place among all events of the store. Unique; agrees with the order within every aggregate; has gaps."""

    __event_type__: ClassVar[str] = "Event"
    __event_aliases__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(
        cls, /, *, type_name: str | None = None, aliases: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        names = (type_name if type_name is not None else cls.__name__, *_as_names(cls, aliases))
        for name in names:
            if not isinstance(name, str) or not name or "\0" in name:
                raise DefinitionError(f"{cls.__qualname__}: {name!r} is not a name for an event type.")
        cls.__event_type__, cls.__event_aliases__ = names[0], names[1:]
        declared = {*vars(cls), *get_annotations(cls, format=Format.FORWARDREF)}
        for name in ENVELOPE_FIELDS:
            if name in declared:
                raise DefinitionError(
                    f"{cls.__qualname__}.{name} would hide the event's own {name}, which is set when it is recorded.",
                    remedy=f"Rename the field {name}.",
                )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, field in cls.model_fields.items():
            if field.exclude:
                raise DefinitionError(
                    f"{cls.__qualname__}.{name} is excluded from serialization: it would be lost when the event is stored.",
                    remedy="Store it, or make it a property.",
                )
            for other in _names_read(field.validation_alias) - {name}:
                if other in cls.model_fields:
                    raise DefinitionError(
                        f"{cls.__qualname__}.{name} has the alias {other!r}, and there is a field of that name: fields are stored under their"
                        f" own names, so that {name} would be read from what {other} has stored.",
                        remedy="Give it another alias, or rename the field.",
                    )

    @property
    def created_at(self) -> datetime:
        """When the event was recorded, in UTC, to the microsecond."""
        value = _get_created_at(self)
        if value.__class__ is int:
            value = moment(value)
            _set_created_at(self, value)
        created_at: datetime = value
        return created_at

    @property
    def metadata(self) -> dict[str, Any]:
        """What the caller of append noted beside the payload."""
        value = _get_metadata(self)
        if value.__class__ is not dict:
            value = from_json(bytes(value))
            _set_metadata(self, value)
        metadata: dict[str, Any] = value
        return metadata

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ENVELOPE_FIELDS:
                raise EventNotRecorded(event_type_of(type(self)), name)
            return super().__getattr__(name)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from super().__repr_args__()
        if is_recorded(self):
            yield None, f"#{self.sequence_number} of {self.aggregate_id}"

    # Copies and pickles keep the envelope; model_copy copies the payload only: it is how a new fact is made from an old one.

    def __copy__(self) -> Event:
        return _with_envelope_of(self, super().__copy__())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Event:
        return _with_envelope_of(self, super().__deepcopy__(memo))

    def model_copy(self: E, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> E:
        """Return an unrecorded copy of the payload. As in pydantic, ``update`` is not validated."""
        copied = super().model_copy(update=update, deep=deep)
        if is_recorded(copied):
            for name in Event.__slots__:
                object.__delattr__(copied, name)
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "envelope": envelope_of(self) if is_recorded(self) else None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        envelope = state.pop("envelope")
        super().__setstate__(state)
        if envelope is not None:
            set_recorded(self, envelope)


_get_created_at, _get_metadata = (vars(Event)[name].__get__ for name in ("_created_at", "_metadata"))
_set_aggregate_id, _set_sequence_number, _set_created_at, _set_position, _set_metadata = (
    vars(Event)[name].__set__
    for name in ("aggregate_id", "sequence_number", "_created_at", "position", "_metadata")
)


def event_type_of(cls: type[Event]) -> str:
    """Return the name under which events of ``cls`` are stored."""
    return cls.__event_type__


def aliases_of(cls: type[Event]) -> tuple[str, ...]:
    """Return the older names whose events ``cls`` reads."""
    return cls.__event_aliases__


def is_recorded_in_python(event: Event) -> bool:
    """Whether the event has its envelope."""
    try:
        _get_metadata(event)
    except AttributeError:
        return False
    return True


def envelope_of(event: Event) -> Envelope:
    """Return the envelope of a recorded event.

    Raises
    ------
    EventNotRecorded
        The event has not been appended.
    """
    return Envelope(
        event.aggregate_id, event.sequence_number, event.created_at, event.position, event.metadata
    )


def recorded(event: E, envelope: Envelope) -> E:
    """Return a copy of the payload with the envelope set; ``event`` itself stays as it is."""
    copied = BaseModel.__copy__(event)
    set_recorded(copied, envelope)
    return copied


def moment_in_python(microseconds: int) -> datetime:
    """Return the moment so many microseconds after 2000-01-01, in UTC.

    Raises
    ------
    OverflowError
        It is outside the years 1 to 9999.
    """
    return POSTGRES_EPOCH + timedelta(0, 0, microseconds)


def set_envelope_in_python(
    event: Event,
    aggregate_id: UUID,
    sequence_number: int,
    created_at_us: int,
    position: int,
    metadata: bytes | memoryview,
) -> None:
    """Give a freshly decoded event its envelope; time and metadata from raw values, which are converted when they are first read.

    For replays. ``created_at_us`` are microseconds since 2000-01-01 UTC, ``metadata`` a JSON object's text. The buffer behind a memoryview
    must outlive the event unchanged.
    """
    _set_aggregate_id(event, aggregate_id)
    _set_sequence_number(event, sequence_number)
    _set_created_at(event, created_at_us)
    _set_position(event, position)
    _set_metadata(event, metadata)


moment: Callable[[int], datetime] = native.moment if IS_NATIVE else moment_in_python
_setter: Any = (
    native.Setter(Event, ("aggregate_id", "sequence_number", "_created_at", "position", "_metadata"))
    if IS_NATIVE
    else None
)
set_envelope: Callable[[Event, UUID, int, int, int, bytes | memoryview], None] = (
    _setter if IS_NATIVE else set_envelope_in_python
)
is_recorded: Callable[[Event], bool] = _setter.has_set if IS_NATIVE else is_recorded_in_python
created_at_in_python = vars(Event)["created_at"]
if IS_NATIVE:
    Event.created_at = native.LazyMoment(Event, "_created_at")  # type: ignore[method-assign]


def set_recorded(event: Event, envelope: Envelope) -> None:
    """Give a freshly decoded event its envelope; :func:`set_envelope` does it from raw values."""
    _set_aggregate_id(event, envelope.aggregate_id)
    _set_sequence_number(event, envelope.sequence_number)
    # Only UTC: two zones of one moment must not make two texts in a record's column.
    _set_created_at(event, envelope.created_at.astimezone(UTC))
    _set_position(event, envelope.position)
    _set_metadata(event, dict(envelope.metadata))


def _with_envelope_of(source: Event, target: Event) -> Event:
    if is_recorded(source):
        for name in Event.__slots__:
            object.__setattr__(target, name, getattr(source, name))
    return target


# UUID(bytes=…) checks its other arguments and costs 0.8 µs; filling the slots of a new one costs 0.3 µs.
_set_uuid_int = vars(UUID)["int"].__set__
_set_uuid_is_safe = vars(UUID)["is_safe"].__set__


def uuid_from_bytes(raw: bytes | memoryview) -> UUID:
    """Return the UUID of its 16 bytes."""
    value: UUID = object.__new__(UUID)
    _set_uuid_int(value, int.from_bytes(raw, "big"))
    _set_uuid_is_safe(value, SafeUUID.unknown)
    return value


def _names_read(alias: str | AliasPath | AliasChoices | None) -> set[str]:
    """Return the keys of a payload that a field is looked for under, besides its name."""
    if isinstance(alias, AliasChoices):
        return set().union(*(_names_read(choice) for choice in alias.choices))
    if isinstance(alias, AliasPath):
        return {str(alias.path[0])}
    return {alias} if alias is not None else set()


def _as_names(cls: type, aliases: Sequence[str]) -> tuple[str, ...]:
    if isinstance(aliases, str):
        raise DefinitionError(
            f"{cls.__qualname__}: aliases is a sequence of names.", remedy=f"Write aliases=({aliases!r},)."
        )
    return tuple(aliases)
