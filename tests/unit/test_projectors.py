"""Projectors: what they declare, what they pass on, and how events reach their handlers."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.errors import DefinitionError, ProjectionFailed, RecordNotManaged
from sequent_py.events import Envelope, Event, recorded
from sequent_py.projectors import Dispatcher, Projector, on, projector_definition
from sequent_py.records import Record

AGGREGATE = UUID(int=7)
MOMENT = datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


class NoteRecord(Record):
    __tablename__ = "note_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    updated_at: Mapped[datetime]
    sequence_number: Mapped[int]


class LineRecord(Record):
    __tablename__ = "numbered_line_records"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence_number: Mapped[int] = mapped_column(primary_key=True)
    updated_at: Mapped[datetime]


class PlainRecord(Record):
    __tablename__ = "plain_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    event: Mapped[str]
    record: Mapped[str]
    self: Mapped[str]
    where: Mapped[str]


class Opened(Event):
    pass


class OpenedSpecially(Opened):
    pass


class Closed(Event):
    pass


class Recorder:
    """A persistor that writes down what it is asked."""

    def __init__(self, found: Any = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.found = found

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return self.found

        return note


class NoteProjector(Projector):
    manages_tables = (NoteRecord, LineRecord, PlainRecord)

    @on(Opened)
    def opened(self, event: Opened) -> None:
        self.create_record(NoteRecord, aggregate_id=event.aggregate_id)

    @on(Closed, Opened)
    def noted(self, event: Event) -> None:
        self.delete_all_records(NoteRecord, aggregate_id=event.aggregate_id)


def happened(event: Event) -> Event:
    return recorded(event, Envelope(AGGREGATE, 3, MOMENT, 99, {}))


def projector(found: Any = None) -> tuple[Any, list[tuple[Any, ...]]]:
    recorder = Recorder(found)
    return NoteProjector(recorder), recorder.calls


def test_a_definition_says_what_the_class_says() -> None:
    definition = projector_definition(NoteProjector)

    assert (definition.projector, definition.name, definition.ordering) == (
        NoteProjector,
        "NoteProjector",
        "aggregate",
    )
    assert definition.records == (NoteRecord, LineRecord, PlainRecord)
    assert definition.event_classes == (Opened, Closed)
    assert definition.handlers == {Opened: ("opened", "noted"), Closed: ("noted",)}


def test_handlers_are_inherited_and_overridden() -> None:
    class Derived(NoteProjector):
        def opened(self, event: Opened) -> None:
            """Handles what the overridden method is marked for."""

        @on(Closed)
        def noted(self, event: Event) -> None:
            """Marked anew: handles only this."""

        @on(OpenedSpecially)
        def special(self, event: Event) -> None:
            pass

    assert projector_definition(Derived).handlers == {
        Opened: ("opened",),
        Closed: ("noted",),
        OpenedSpecially: ("special",),
    }


def body(**members: Any) -> type[Projector]:
    @on(Opened)
    def opened(self: Projector, event: Opened) -> None:
        pass

    return type("Wrong", (Projector,), {"manages_tables": (NoteRecord,), "opened": opened, **members})


async def asynchronous(self: Any, event: Any) -> Any:
    pass


def generator(self: Any, event: Any) -> Any:
    yield


def two_arguments(self: Any, event: Any, more: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"manages_tables": ()}, "manages no tables"),
        ({"manages_tables": NoteRecord}, "manages no tables"),
        ({"manages_tables": (NoteRecord, NoteRecord)}, "names the table note_records twice"),
        ({"manages_tables": (int,)}, "not a Record class"),
        ({"ordering": "none"}, "ordering is 'none'"),
        ({"opened": None}, "handles no events"),
        ({"opened": on(Opened)(cast(Any, asynchronous))}, "is asynchronous"),
        ({"opened": on(Opened)(generator)}, "is a generator"),
        ({"opened": on(Opened)(two_arguments)}, "cannot be called with an event"),
    ],
)
def test_projectors_that_cannot_work_are_refused(members: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        projector_definition(body(**members))


def test_only_projectors_have_definitions() -> None:
    with pytest.raises(DefinitionError, match="not a Projector class"):
        projector_definition(int)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [(), (int,), ("Opened",), (Event,), (Opened(),)])
def test_on_takes_event_classes(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(DefinitionError, match="@on"):
        on(*wrong)


def test_on_marks_functions() -> None:
    with pytest.raises(DefinitionError, match="@on marks methods"):
        on(Opened)(staticmethod(generator))


def test_methods_pass_on_to_the_persistor() -> None:
    subject, calls = projector(found="row")
    subject.create_record(PlainRecord, id=1, record="r", self="s", event="e", where="w")
    subject.create_records(PlainRecord, [{"id": 1}])
    subject.get_record(PlainRecord, record="r", self="s")
    subject.find_record(PlainRecord, id=[1, 2])
    subject.find_records(PlainRecord)
    subject.last_record(PlainRecord, where="w")
    subject.update_all_records(PlainRecord, {"id": 1}, {"event": "x"})
    subject.delete_all_records(PlainRecord, event="e")

    assert calls == [
        ("create_record", PlainRecord, {"id": 1, "record": "r", "self": "s", "event": "e", "where": "w"}),
        ("create_records", PlainRecord, [{"id": 1}]),
        ("get_record", PlainRecord, {"record": "r", "self": "s"}),
        ("find_record", PlainRecord, {"id": [1, 2]}),
        ("find_records", PlainRecord, {}),
        ("last_record", PlainRecord, {"where": "w"}),
        ("update_all_records", PlainRecord, {"id": 1}, {"event": "x"}),
        ("delete_all_records", PlainRecord, {"event": "e"}),
    ]


@pytest.mark.parametrize("method", ["update_record", "create_or_update_record"])
def test_updates_note_the_event_in_the_columns_there_are(method: str) -> None:
    subject, calls = projector()
    update, event = getattr(subject, method), happened(Opened())
    update(NoteRecord, event)
    update(NoteRecord, event, id=1, sequence_number=2)
    update(NoteRecord, event, touch=False)
    update(PlainRecord, event, event="e")
    update(LineRecord, event, sequence_number=2)

    noted = {"updated_at": MOMENT, "sequence_number": 3}
    assert [call[1:] for call in calls] == [
        (NoteRecord, {"aggregate_id": AGGREGATE}, noted),
        (NoteRecord, {"id": 1, "sequence_number": 2}, noted),
        (NoteRecord, {"aggregate_id": AGGREGATE}, {}),
        (PlainRecord, {"event": "e"}, {}),
        # A number that is part of the key says which row it is.
        (LineRecord, {"sequence_number": 2}, {"updated_at": MOMENT}),
    ]


def test_create_or_update_does_without_an_event() -> None:
    subject, calls = projector()
    subject.create_or_update_record(NoteRecord, id=1)
    subject.create_or_update_record(NoteRecord)

    assert [call[2:] for call in calls] == [({"id": 1}, {}), ({}, {})]


def test_delete_record_takes_a_row_or_filters() -> None:
    subject, calls = projector(found="row")
    subject.delete_record(NoteRecord, "given")
    subject.delete_record(NoteRecord, id=1)
    assert calls == [
        ("delete_record", NoteRecord, "given"),
        ("find_record", NoteRecord, {"id": 1}),
        ("delete_record", NoteRecord, "row"),
    ]
    for arguments, filters in ((("row",), {"id": 1}), ((), {}), ((None,), {})):
        with pytest.raises(DefinitionError, match="either a row"):
            subject.delete_record(NoteRecord, *arguments, **filters)

    nothing, calls = projector(found=None)
    assert nothing.delete_record(NoteRecord, id=1) == 0
    assert [call[0] for call in calls] == ["find_record"]


@pytest.mark.parametrize(
    "call",
    [
        lambda subject, record: subject.create_record(record),
        lambda subject, record: subject.create_records(record, []),
        lambda subject, record: subject.update_record(record, happened(Opened())),
        lambda subject, record: subject.create_or_update_record(record, happened(Opened())),
        lambda subject, record: subject.create_or_update_record(record),
        lambda subject, record: subject.get_record(record),
        lambda subject, record: subject.find_record(record),
        lambda subject, record: subject.find_records(record),
        lambda subject, record: subject.last_record(record),
        lambda subject, record: subject.update_all_records(record, {}, {}),
        lambda subject, record: subject.delete_record(record, id=1),
        lambda subject, record: subject.delete_all_records(record),
    ],
)
def test_records_of_others_are_refused(call: Any) -> None:
    class ForeignRecord(Record):
        __tablename__ = "foreign_records"
        id: Mapped[int] = mapped_column(primary_key=True)

    subject, calls = projector()
    with pytest.raises(RecordNotManaged, match="NoteProjector does not manage ForeignRecord"):
        call(subject, ForeignRecord)
    assert calls == []


def test_events_reach_the_handlers_of_their_exact_class_in_order() -> None:
    subject, calls = projector()
    dispatcher = Dispatcher([subject])
    for event in (Opened(), OpenedSpecially(), Closed()):
        dispatcher.dispatch(happened(event))

    assert [call[0] for call in calls] == ["create_record", "delete_all_records", "delete_all_records"]
    assert set(dispatcher.handlers) == {Opened, Closed}


def test_what_a_handler_raises_names_projector_event_and_cause() -> None:
    class Broken(NoteProjector):
        def opened(self, event: Opened) -> None:
            raise KeyError("x")

    dispatcher = Dispatcher([Broken(Recorder())])
    with pytest.raises(ProjectionFailed) as raised:
        dispatcher.dispatch(happened(Opened()))

    error = raised.value
    assert str(error) == f"Broken failed on Opened (aggregate {AGGREGATE}, sequence number 3): KeyError: 'x'"
    assert isinstance(error.__cause__, KeyError)
    assert (error.projector, error.event_type, error.aggregate_id, error.sequence_number) == ("Broken", "Opened", AGGREGATE, 3)  # fmt: skip
    with pytest.raises(ProjectionFailed, match="aggregate None"):
        dispatcher.dispatch(Opened())


def test_interrupts_pass_through() -> None:
    class Stopped(NoteProjector):
        def opened(self, event: Opened) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Dispatcher([Stopped(Recorder())]).dispatch(happened(Opened()))


def test_handlers_see_records_as_their_type() -> None:
    """Read by mypy: rows are typed as their record."""
    subject, _ = projector(found=nullcontext(NoteRecord(id=5)))
    typed: NoteProjector = subject
    with typed.update_record(NoteRecord, happened(Opened())) as note:
        number: int = note.id
    assert number == 5
