"""The event classes of an application: by the names that are stored, and how their payloads become JSON and come back.

Pure, as :mod:`sequent_py.events` is. Guarantees of encoding:

* ``decode(encode(event))`` is what every reader gets, now and after any number of rebuilds: fields are stored under their own names,
  never under aliases, bytes as base64, ``nan`` and infinities as strings; computed fields are not stored.
* What PostgreSQL's ``jsonb`` cannot hold (NUL characters, lone surrogates) is refused by name before anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from sequent_py.errors import DefinitionError, InvalidEvent, InvalidPayload, UnknownEventType
from sequent_py.events import Envelope, Event, aliases_of, event_type_of, set_recorded
from sequent_py.upcasting import upcasters_of


class EventTypes:
    """The event classes of one application by stored name and alias.

    A name that was not registered is looked for among all imported subclasses of :class:`Event`: it is found when exactly one class
    has it, or exactly one class in ``preferred_package``.
    """

    def __init__(self, classes: Iterable[type[Event]] = (), *, preferred_package: str | None = None) -> None:
        self.preferred_package = preferred_package
        self._registered: dict[str, type[Event]] = {}
        self._found: dict[str, type[Event]] = {}
        self._decoders: dict[type[Event], Callable[[bytes | memoryview], Event]] = {}
        for cls in classes:
            self.register(cls)

    def register(self, cls: type[Event]) -> None:
        """Register a class under its name and aliases; a second time changes nothing.

        Raises
        ------
        DefinitionError
            It is not an event class, or another class has one of its names.
        """
        if not (isinstance(cls, type) and issubclass(cls, Event)):
            raise DefinitionError(f"{cls!r} is not an Event class.")
        names = (event_type_of(cls), *aliases_of(cls))
        for name in names:
            other = self._registered.get(name, cls)
            if other is not cls:
                raise DefinitionError(
                    f"{_full_name(other)} and {_full_name(cls)} are both stored as {name!r}.",
                    remedy="Give one of them a name of its own: class …(Event, type_name=…).",
                )
        self._registered.update(dict.fromkeys(names, cls))

    def resolve(self, name: str) -> type[Event]:
        """Return the class of a stored type.

        Raises
        ------
        UnknownEventType
            No class has the name, or several have and none is preferred; lists them.
        """
        cls, why = self._look_up(name)
        if cls is None:
            raise UnknownEventType(name, why=why)
        return cls

    def encode(self, event: Event) -> bytes:
        """Return the payload as JSON; registers the event's class if it is new.

        Raises
        ------
        InvalidEvent
            The payload cannot be stored; names the type and the field or cause.
        DefinitionError
            Another class is registered under the event's type.
        """
        cls = type(event)
        if self._registered.get(event_type_of(cls)) is not cls:
            self.register(cls)
        try:
            payload = cls.__pydantic_serializer__.to_json(event, by_alias=False, round_trip=True)
        except (PydanticSerializationError, UnicodeError, ValueError, RecursionError) as error:
            field = _unencodable_field(event)
            where = f"{event_type_of(cls)}.{field}" if field else event_type_of(cls)
            raise InvalidEvent(f"{where} cannot be stored: {error}.") from error
        # The six bytes are also in the JSON of a text that spells a backslash, "u" and zeros: only a real NUL is refused.
        if b"\\u0000" in payload and (path := _path_of_nul(json.loads(payload))) is not None:
            raise InvalidEvent(
                f"{event_type_of(cls)}{path} holds a NUL character, which PostgreSQL cannot store."
            )
        return payload

    def decode(self, name: str, payload: bytes | memoryview, envelope: Envelope) -> Event:
        """Return the recorded event of a stored payload.

        Raises
        ------
        UnknownEventType
            No class is known under ``name``.
        InvalidPayload
            The payload does not validate, or an upcaster failed. Both name type, aggregate and sequence number.
        """
        cls, why = self._look_up(name)
        if cls is None:
            raise UnknownEventType(name, envelope.aggregate_id, envelope.sequence_number, why)
        try:
            event = self._decoder_of(cls)(payload)
        except Exception as error:
            raise InvalidPayload(
                name, envelope.aggregate_id, envelope.sequence_number, describe_cause(error)
            ) from error
        set_recorded(event, envelope)
        return event

    def decoder(self, name: str) -> Callable[[bytes | memoryview], Event]:
        """Return the function that turns payloads of one type into events *without* an envelope.

        It raises what pydantic and the upcasters raise; callers add the names.

        Raises
        ------
        UnknownEventType
            No class is known under ``name``.
        """
        return self._decoder_of(self._registered.get(name) or self.resolve(name))

    def _decoder_of(self, cls: type[Event]) -> Callable[[bytes | memoryview], Event]:
        decode = self._decoders.get(cls)
        if decode is None:
            decode = self._decoders[cls] = _build_decoder(cls)
        return decode

    def _look_up(self, name: str) -> tuple[type[Event] | None, str]:
        """Return the class, or None and why there is none."""
        cls = self._registered.get(name) or self._found.get(name)
        if cls is not None:
            return cls, ""
        found = sorted(
            {cls for cls in _subclasses(Event) if name == event_type_of(cls) or name in aliases_of(cls)},
            key=_full_name,
        )
        preferred = [cls for cls in found if self._is_preferred(cls)]
        for candidates in (found, preferred):
            if len(candidates) == 1:
                self._found[name] = candidates[0]
                return candidates[0], ""
        return None, f"several classes have it: {', '.join(map(_full_name, found))}" if found else ""

    def _is_preferred(self, cls: type[Event]) -> bool:
        package = self.preferred_package
        return package is not None and (cls.__module__ == package or cls.__module__.startswith(package + "."))


def describe_cause(error: BaseException) -> str:
    """Say in one line why a payload was not accepted, without its values, which may be personal."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False, include_context=False)
        )
    return f"{type(error).__name__}: {error}"


def _build_decoder(cls: type[Event]) -> Callable[[bytes | memoryview], Event]:
    if not cls.__pydantic_complete__:
        cls.model_rebuild()
    validate = cls.__pydantic_validator__.validate_json
    upcasters = upcasters_of(cls)

    def decode(payload: bytes | memoryview) -> Event:
        # bytes(…) of what is bytes already costs a quarter of a small event's decoding.
        text = payload if payload.__class__ is bytes else bytes(payload)
        event: Event = validate(text, extra="ignore", by_alias=True, by_name=True)
        return event

    def upcast_and_decode(payload: bytes | memoryview) -> Event:
        values = from_json(bytes(payload))
        if not isinstance(values, dict):
            return decode(payload)
        for upcast in upcasters:
            values = upcast(values)
            if not isinstance(values, dict):
                raise TypeError(f"upcaster {upcast.__name__} returned {type(values).__name__}, not a dict")
        # Through JSON again: pydantic takes base64, dates and the like from JSON by other rules than from Python objects.
        return decode(to_json(values))

    return upcast_and_decode if upcasters else decode


def _subclasses(cls: type[Event]) -> Iterator[type[Event]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _full_name(cls: type[Event]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _unencodable_field(event: Event) -> str | None:
    for name in type(event).model_fields:
        try:
            to_json(getattr(event, name), bytes_mode="base64")
        except (PydanticSerializationError, UnicodeError, ValueError, RecursionError):
            return name
    return None


def _path_of_nul(value: Any, path: str = "") -> str | None:
    if isinstance(value, str):
        return path if "\0" in value else None
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        if any("\0" in key for key in value):
            return f"{path} (in a key)"
        items = ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, list):
        items = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    return next((found for at, item in items if (found := _path_of_nul(item, at)) is not None), None)
