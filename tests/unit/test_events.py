"""Events as values: definition, envelope, equality, encoding, types, upcasting."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import AliasChoices, AliasPath, Field, ValidationError, computed_field

from sequent_py.errors import (
    DefinitionError,
    EventNotRecorded,
    InvalidEvent,
    InvalidPayload,
    StoreError,
    UnknownEventType,
)
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.encoding import as_jsonb_reads, checked_time, encode_batch, encode_metadata
from sequent_py.events import (
    ENVELOPE_FIELDS,
    POSTGRES_EPOCH,
    Envelope,
    Event,
    aliases_of,
    envelope_of,
    event_type_of,
    is_recorded,
    recorded,
    set_envelope,
)
from sequent_py.upcasting import upcaster


class Opened(Event):
    owner: str
    currency: str = "EUR"


class Blob(Event, type_name="blob.v1", aliases=("OldBlob", "OlderBlob")):
    data: bytes = b""
    anything: Any = None
    number: float = 0.0


class Renamed(Event):
    amount: int

    @upcaster
    @staticmethod
    def value_became_amount(payload: dict[str, Any]) -> dict[str, Any]:
        if "value" in payload:
            payload["amount"] = payload.pop("value")
        return payload

    @classmethod
    @upcaster
    def amount_in_cents(cls, payload: dict[str, Any]) -> dict[str, Any]:
        if payload.pop("unit", None) == "euro":
            payload["amount"] *= 100
        return payload


class RenamedAgain(Renamed):
    note: str = ""

    @upcaster
    @staticmethod
    def note_was_comment(payload: dict[str, Any]) -> dict[str, Any]:
        payload.setdefault("note", f"{payload.pop('comment', '')}/{payload['amount']}")
        return payload


def define(*arguments: Any, **keywords: Any) -> Any:
    """Define an event class by a call."""
    metaclass: Any = type(Event)
    return metaclass(*arguments, **keywords)


ENVELOPE = Envelope(
    UUID("01234567-89ab-cdef-0123-456789abcdef"),
    3,
    datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC),
    17,
    {"user": "ann"},
)


def test_an_envelope_is_known_only_once_recorded() -> None:
    event = Opened(owner="Ann")
    assert not is_recorded(event)
    for attribute in ENVELOPE_FIELDS:
        with pytest.raises(
            EventNotRecorded, match=rf"Opened\.{attribute} is known only once .* append\(\) returns"
        ):
            getattr(event, attribute)


def test_recorded_copies_and_leaves_the_original() -> None:
    event = Opened(owner="Ann")
    stored = recorded(event, ENVELOPE)
    assert (
        stored.aggregate_id,
        stored.sequence_number,
        stored.created_at,
        stored.position,
        stored.metadata,
    ) == (
        ENVELOPE.aggregate_id,
        3,
        ENVELOPE.created_at,
        17,
        {"user": "ann"},
    )
    assert stored.model_dump() == event.model_dump()
    assert not is_recorded(event)
    assert stored == event, "the payload is what events are compared by"
    assert "#3 of 01234567" in repr(stored)


def test_times_are_in_utc_whatever_they_came_in() -> None:
    there = ENVELOPE.created_at.astimezone(timezone(timedelta(hours=5)))
    stored = recorded(Opened(owner="A"), Envelope(uuid4(), 1, there, 1, {}))
    assert stored.created_at.tzinfo is UTC
    assert stored.created_at == there


@pytest.mark.parametrize(
    "moment",
    [
        POSTGRES_EPOCH,
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 11, 21, 1, 2, 3, 999999, tzinfo=UTC),
    ],
)
def test_raw_envelopes_are_converted_exactly(moment: datetime) -> None:
    aggregate_id = uuid4()
    event = Opened(owner="A")
    microseconds = (moment - POSTGRES_EPOCH) // timedelta(microseconds=1)
    set_envelope(event, aggregate_id, 4, microseconds, 9, memoryview(b'{"a": [1]}'))
    assert event == Opened(owner="A")
    assert envelope_of(event) == Envelope(aggregate_id, 4, moment, 9, {"a": [1]})
    assert event.aggregate_id is event.aggregate_id
    assert event.metadata is event.metadata
    assert hash(event.aggregate_id) == hash(aggregate_id)
    assert str(event.aggregate_id) == str(aggregate_id)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]
)
def test_copies_keep_the_envelope(duplicate: Any) -> None:
    for event in (Opened(owner="A"), recorded(Opened(owner="A"), ENVELOPE)):
        assert duplicate(event) == event


def test_model_copy_makes_an_unrecorded_event() -> None:
    stored = recorded(Opened(owner="A"), ENVELOPE)
    assert stored.model_copy() == Opened(owner="A")
    assert stored.model_copy(update={"owner": "B"}) == Opened(owner="B")
    assert is_recorded(stored)


def test_events_are_frozen_and_refuse_unknown_fields() -> None:
    event = Opened(owner="A")
    with pytest.raises(ValidationError):
        event.owner = "B"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="balance"):
        Opened(owner="A", balance=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ENVELOPE_FIELDS)
def test_a_field_named_like_the_envelope_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"Bad\.{name} would hide .*Rename the field {name}\."):
        type("Bad", (Event,), {"__annotations__": {name: int}, "__module__": __name__})
    with pytest.raises(DefinitionError, match=name):
        type("Bad", (Event,), {name: property(lambda self: 1), "__module__": __name__})


def test_a_field_that_would_not_be_stored_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"Bad\.secret is excluded"):

        class Bad(Event):
            secret: str = Field(exclude=True)


@pytest.mark.parametrize("name", ["", "a\0b", 3])
def test_a_type_name_must_be_a_name(name: Any) -> None:
    with pytest.raises(DefinitionError, match="not a name for an event type"):
        define("Bad", (Event,), {"__module__": __name__}, type_name=name)


def test_aliases_must_not_be_a_single_text() -> None:
    with pytest.raises(DefinitionError, match=r"aliases=\('Old',\)"):

        class Bad(Event, aliases="Old"):
            pass


def test_names_are_not_inherited() -> None:
    class Blob2(Blob):
        pass

    assert (event_type_of(Blob), aliases_of(Blob)) == ("blob.v1", ("OldBlob", "OlderBlob"))
    assert (event_type_of(Blob2), aliases_of(Blob2)) == ("Blob2", ())


# Registry


def test_names_and_aliases_resolve_to_the_class() -> None:
    types = EventTypes([Opened, Blob])
    types.register(Blob)
    assert [types.resolve(name) for name in ("Opened", "blob.v1", "OldBlob", "OlderBlob")] == [
        Opened,
        Blob,
        Blob,
        Blob,
    ]


def test_two_classes_under_one_name_are_refused() -> None:
    other = define("Opened", (Event,), {"__module__": "elsewhere"})
    alias = define("Other", (Event,), {"__module__": "elsewhere"}, aliases=("Opened",))
    types = EventTypes([Opened])
    for cls in (other, alias):
        with pytest.raises(
            DefinitionError, match=r"test_events\.Opened and elsewhere\..* both stored as 'Opened'"
        ):
            types.register(cls)
    with pytest.raises(DefinitionError, match="both stored as"):
        types.encode(other())
    with pytest.raises(DefinitionError, match="not an Event class"):
        types.register(int)  # type: ignore[arg-type]


def test_unregistered_names_are_found_among_all_subclasses() -> None:
    only = define("FoundOnlyOnce", (Event,), {"__module__": "somewhere"}, aliases=("FoundByAlias",))
    assert EventTypes().resolve("FoundOnlyOnce") is only
    assert EventTypes().resolve("FoundByAlias") is only


def test_an_ambiguous_name_is_found_in_the_preferred_package_or_not_at_all() -> None:
    mine = define("FoundTwice", (Event,), {"__module__": "mine.events"})
    theirs = define("FoundTwice", (Event,), {"__module__": "mineral.events"})
    assert EventTypes(preferred_package="mine").resolve("FoundTwice") is mine
    for package in (None, "other"):
        with pytest.raises(UnknownEventType, match=r"mine\.events\.FoundTwice, mineral\.events\.FoundTwice"):
            EventTypes(preferred_package=package).resolve("FoundTwice")
    types = EventTypes([theirs], preferred_package="mine")
    assert types.resolve("FoundTwice") is theirs


def test_an_unknown_type_is_named_with_its_event() -> None:
    with pytest.raises(
        UnknownEventType, match=rf"'Gone' \(aggregate {ENVELOPE.aggregate_id}, sequence number 3\)"
    ):
        EventTypes().decode("Gone", b"{}", ENVELOPE)
    with pytest.raises(UnknownEventType, match="'Gone'"):
        EventTypes().decoder("Gone")


# Encoding


def test_loading_ignores_fields_that_are_no_longer_known() -> None:
    event = EventTypes([Opened]).decode("Opened", b'{"owner": "A", "gone": {"deep": 1}}', ENVELOPE)
    assert event == Opened(owner="A")
    assert envelope_of(event) == ENVELOPE


def test_an_invalid_payload_names_type_event_and_cause_but_no_value() -> None:
    with pytest.raises(InvalidPayload) as caught:
        EventTypes([Opened]).decode("Opened", b'{"owner": 4711, "currency": "x"}', ENVELOPE)
    message = str(caught.value)
    assert f"The payload of Opened (aggregate {ENVELOPE.aggregate_id}, sequence number 3)" in message
    assert "owner: Input should be a valid string" in message
    assert "4711" not in message


@pytest.mark.parametrize("payload", [b"[]", b"3", b"null", b"", b"{"])
def test_a_payload_that_is_no_object_is_invalid(payload: bytes) -> None:
    for cls in (Opened, Renamed):
        with pytest.raises(InvalidPayload):
            EventTypes([cls]).decode(cls.__name__, payload, ENVELOPE)


def test_decoders_take_memoryviews_and_set_no_envelope() -> None:
    event = EventTypes([Opened]).decoder("Opened")(memoryview(b'{"owner": "A"}'))
    assert event == Opened(owner="A")


@pytest.mark.parametrize("text", ["\0", "a\0b", "\\\0", "\\u0000\0"])
def test_nul_is_refused_by_name(text: str) -> None:
    types = EventTypes()
    with pytest.raises(InvalidEvent, match=r"Opened\.owner holds a NUL"):
        types.encode(Opened(owner=text))
    with pytest.raises(InvalidEvent, match=r"blob\.v1\.anything\.a\[1\] holds a NUL"):
        types.encode(Blob(anything={"a": ["", text]}))
    with pytest.raises(InvalidEvent, match=r"blob\.v1\.anything \(in a key\) holds a NUL"):
        types.encode(Blob(anything={text: 1}))


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "\\", "\"'$$%s\n\u2028😀"])
def test_text_that_only_looks_dangerous_is_kept(text: str) -> None:
    types = EventTypes([Opened])
    assert types.decoder("Opened")(types.encode(Opened(owner=text))) == Opened(owner=text)


def test_lone_surrogates_and_foreign_objects_are_refused_by_field() -> None:
    with pytest.raises(InvalidEvent, match=r"Opened\.owner cannot be stored: .*surrogates"):
        EventTypes().encode(Opened(owner="\ud800"))
    with pytest.raises(InvalidEvent, match=r"blob\.v1\.anything cannot be stored"):
        EventTypes().encode(Blob(anything=object()))
    circular: list[Any] = []
    circular.append(circular)
    with pytest.raises(InvalidEvent, match=r"blob\.v1\.anything cannot be stored"):
        EventTypes().encode(Blob(anything=circular))


@pytest.mark.parametrize(
    "alias",
    [
        {"alias": "other"},
        {"validation_alias": AliasChoices("amountInCents", "other")},
        {"validation_alias": AliasPath("other", 0)},
    ],
)
def test_an_alias_that_is_another_field_s_name_is_refused(alias: dict[str, Any]) -> None:
    with pytest.raises(
        DefinitionError, match=r"amount has the alias 'other', and there is a field of that name"
    ):

        class Crossed(Event):
            amount: int = Field(**alias)
            other: int = Field(alias="amount_then")


def test_field_aliases_and_computed_fields_are_not_stored() -> None:
    class Aliased(Event):
        amount: int = Field(alias="amountInCents")

        @computed_field  # type: ignore[prop-decorator]
        @property
        def euros(self) -> float:
            return self.amount / 100

    types = EventTypes([Aliased])
    event = Aliased(amountInCents=250)
    assert types.encode(event) == b'{"amount":250}'
    assert types.decoder("Aliased")(b'{"amount":250}') == event
    assert types.decoder("Aliased")(b'{"amountInCents":250}') == event


# Upcasting


def test_upcasters_run_in_definition_order_base_classes_first() -> None:
    types = EventTypes([Renamed, RenamedAgain])
    assert types.decoder("Renamed")(b'{"value": 3, "unit": "euro"}') == Renamed(amount=300)
    assert types.decoder("Renamed")(b'{"amount": 3}') == Renamed(amount=3)
    assert types.decoder("RenamedAgain")(b'{"value": 3, "unit": "euro", "comment": "c"}') == RenamedAgain(
        amount=300, note="c/300"
    )


def test_an_overridden_upcaster_is_replaced_or_switched_off() -> None:
    class Replaced(Renamed, type_name="Replaced"):
        @upcaster
        @staticmethod
        def value_became_amount(payload: dict[str, Any]) -> dict[str, Any]:
            return {"amount": 7}

    class Off(Renamed, type_name="Off"):
        @staticmethod
        def value_became_amount(payload: dict[str, Any]) -> dict[str, Any]:
            raise AssertionError

    types = EventTypes([Replaced, Off])
    assert types.decoder("Replaced")(b'{"value": 3}') == Replaced(amount=7)
    assert types.decoder("Off")(b'{"amount": 3}') == Off(amount=3)


def test_upcasting_works_like_json() -> None:
    class Picture(Event):
        data: bytes
        when: datetime
        price: Decimal

        @upcaster
        @staticmethod
        def same(payload: dict[str, Any]) -> dict[str, Any]:
            return payload

    types = EventTypes([Picture])
    event = Picture(data=b"\xff\0", when=datetime(2024, 1, 1, tzinfo=UTC), price=Decimal("1.10"))
    assert types.decoder("Picture")(types.encode(event)) == event


def test_a_failing_upcaster_names_the_event() -> None:
    class Broken(Event):
        @upcaster
        @staticmethod
        def breaks(payload: dict[str, Any]) -> dict[str, Any]:
            if "none" in payload:
                return None  # type: ignore[return-value]
            raise KeyError("gone")

    types = EventTypes([Broken])
    with pytest.raises(
        InvalidPayload, match=r"Broken \(aggregate .*, sequence number 3\) .*KeyError: 'gone'"
    ):
        types.decode("Broken", b"{}", ENVELOPE)
    with pytest.raises(InvalidPayload, match="upcaster breaks returned NoneType, not a dict"):
        types.decode("Broken", b'{"none": 1}', ENVELOPE)
    with pytest.raises(InvalidEvent, match="Broken would not load again: KeyError"):
        encode_batch(types, uuid4(), [Broken()], None, None)


# Batches


def test_a_batch_holds_what_will_be_read_again() -> None:
    day = datetime(2024, 1, 1, tzinfo=UTC)
    batch = encode_batch(
        EventTypes(), uuid4(), [Blob(anything={"bb": day, "a": (1, 2)})], {"bb": 1, "a": day}, None
    )
    (event,) = batch.recorded(5, [17], ENVELOPE.created_at)
    assert isinstance(event, Blob)
    assert event.anything == {"a": [1, 2], "bb": "2024-01-01T00:00:00Z"}
    assert list(event.anything) == ["a", "bb"]
    assert (event.sequence_number, event.position) == (5, 17)
    assert list(event.metadata.items()) == [("a", "2024-01-01T00:00:00Z"), ("bb", 1)]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "list of events is empty"),
        (Opened(owner="A"), "as a list"),
        (iter([Opened(owner="A")]), "as a list"),
        ([Opened], "Opened is not an event"),
        ([{"owner": "A"}], "dict is not an event"),
        ([recorded(Opened(owner="A"), ENVELOPE)], "already recorded as number 3"),
    ],
)
def test_what_is_no_list_of_new_events_is_refused(events: Any, message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        encode_batch(EventTypes(), uuid4(), events, None, None)


def test_what_is_no_aggregate_metadata_or_time_is_refused() -> None:
    with pytest.raises(StoreError, match="aggregate_id is a UUID, not str"):
        encode_batch(EventTypes(), "x", [Opened(owner="A")], None, None)  # type: ignore[arg-type]
    for no_mapping in ([1], "x", 3):
        with pytest.raises(InvalidEvent, match="Metadata is a mapping"):
            encode_metadata(no_mapping)  # type: ignore[arg-type]
    unstorable: list[dict[str, Any]] = [{"a": object()}, {"a": "\ud800"}, {"a": ["\0"]}, {"\0": 1}]
    for metadata in unstorable:
        with pytest.raises(InvalidEvent, match="metadata"):
            encode_metadata(metadata)
    for moment in (datetime(2024, 1, 1), "2024-01-01", 5):
        with pytest.raises(InvalidEvent, match="created_at is an aware datetime"):
            checked_time(moment)  # type: ignore[arg-type]


def test_keys_are_ordered_as_jsonb_does() -> None:
    assert as_jsonb_reads(
        b'{"x": {"bb": 1, "b": {"\xc3\xa9": 1, "zz": 2, "aa": 3}, "a": [{"d": 1, "c": 2}]}}'
    ) == (b'{"x":{"a":[{"c":2,"d":1}],"b":{"aa":3,"zz":2,"\xc3\xa9":1},"bb":1}}')
