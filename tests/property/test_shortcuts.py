"""The short way of a projector's methods to rows in memory is the same as the long one: values, rows, errors and their words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Integer
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Event, Projector, on
from sequent_py.events import Envelope, recorded
from sequent_py.native import IS_NATIVE
from sequent_py.persistors.memory import MemoryTable
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import TableShape
from sequent_py.projectors import _touched_by, touched_columns
from sequent_py.records import Record, record_shape


class SeatRecord(Record):
    """What an update notes of its event is there."""

    __tablename__ = "seat_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    guest: Mapped[str | None]
    sequence_number: Mapped[int]
    updated_at: Mapped[datetime]


class OtherRecord(Record):
    """A table of another projector."""

    __tablename__ = "other_seat_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)


class SeatTaken(Event):
    """Somebody sat down."""


class SeatProjector(Projector):
    """Does nothing by itself."""

    manages_tables = (SeatRecord,)

    @on(SeatTaken)
    def taken(self, event: SeatTaken) -> None:
        """Is called by nobody."""


class OwnCreation(SeatProjector):
    """Creates in its own way."""

    def create_record(self, record: Any, /, **values: Any) -> Any:
        return super().create_record(record, guest="of its own", **values)


def table_of(record: type[Record]) -> TableShape:
    shape = record_shape(record)
    nothing: Mapping[str, Any] = MappingProxyType({})
    return TableShape(
        shape, "view_schema", shape.table_name, nothing, nothing, nothing, frozenset(), frozenset()
    )


def persistor() -> ReplayPersistor:
    return ReplayPersistor(None, {record: table_of(record) for record in (SeatRecord, OtherRecord)})  # type: ignore[arg-type]


def taken(aggregate: int, number: int) -> SeatTaken:
    moment = datetime(2026, 1, 1, number, tzinfo=UTC)
    return recorded(SeatTaken(), Envelope(UUID(int=aggregate), number, moment, number, {}))


KEYS = {
    "aggregate_id": st.sampled_from([UUID(int=1), UUID(int=1), UUID(int=1), UUID(int=2), "text"]),
    "row": st.sampled_from([1, 1, 1, 2, None]),
}
OTHERS = {
    "guest": st.sampled_from(["Ann", None, 5]),
    "sequence_number": st.just(1),
    "updated_at": st.just(datetime(2020, 1, 1, tzinfo=UTC)),
    "touch": st.booleans(),
    "no_column": st.just(1),
}
rows = st.fixed_dictionaries(
    {**KEYS, "sequence_number": OTHERS["sequence_number"], "updated_at": OTHERS["updated_at"]},
    optional={"guest": OTHERS["guest"]},
) | st.fixed_dictionaries({**KEYS, "no_column": OTHERS["no_column"]})
filters = st.one_of(
    st.just({}), st.fixed_dictionaries(KEYS), st.fixed_dictionaries({}, optional={**KEYS, **OTHERS})
)
records = st.sampled_from([*[SeatRecord] * 12, OtherRecord, "SeatRecord", []])
events = st.builds(taken, st.integers(1, 2), st.integers(1, 5))
operations = st.one_of(
    st.tuples(st.just("create_record"), st.tuples(records), rows),
    st.tuples(
        st.sampled_from(["get_record", "find_record"]),
        st.tuples(records) | st.just(()) | st.tuples(records, events),
        filters,
    ),
    st.tuples(st.just("update_record"), st.tuples(records, events) | st.tuples(records), filters),
    st.tuples(
        st.just("create_or_update_record"),
        st.tuples(records, events | st.none()) | st.tuples(records) | st.just(()),
        filters,
    ),
)


def done(projector: Projector, name: str, arguments: tuple[Any, ...], values: dict[str, Any]) -> Any:
    """What comes of it, as text; in the block of an update the guest changes."""
    try:
        found = getattr(projector, name)(*arguments, **values)
        if name in ("update_record", "create_or_update_record"):
            with found as row:
                row.guest = f"{row.guest}, again"
            found = row
        if found is None:
            return None
        return [repr(value) for value in record_shape(SeatRecord).values_of(found)], type(found)
    except Exception as error:
        return type(error), str(error).replace(f"{type(projector).__qualname__}.", "Projector.")


@pytest.mark.skipif(not IS_NATIVE, reason="there is no short way without the C module")
@given(st.lists(operations, max_size=12))
def test_the_short_way_is_the_long_one(script: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
    long, short = persistor(), persistor()
    by_long, by_short = SeatProjector(long), SeatProjector(short)
    short.shorten(by_short)
    for name, arguments, values in script:
        assert done(by_short, name, arguments, dict(values)) == done(by_long, name, arguments, dict(values))
    assert rows_of(short) == rows_of(long)


def rows_of(filled: ReplayPersistor) -> list[str]:
    memory: MemoryTable = filled._tables[SeatRecord]
    return [repr(record_shape(SeatRecord).values_of(row)) for row in memory.rows.values()]


@pytest.mark.skipif(not IS_NATIVE, reason="there is no short way without the C module")
def test_a_method_that_a_projector_has_made_its_own_is_called() -> None:
    into = persistor()
    projector = OwnCreation(into)
    into.shorten(projector)
    made = projector.create_record(
        SeatRecord, aggregate_id=UUID(int=1), row=1, sequence_number=1, updated_at=datetime.now(UTC)
    )
    assert made.guest == "of its own"
    assert "get_record" in vars(projector)
    assert "create_record" not in vars(projector)


def test_a_place_that_creates_rows_notices_that_they_are_looked_up_in_a_new_way() -> None:
    into = persistor()
    projector = SeatProjector(into)
    into.shorten(projector)

    def sit_down(row: int) -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        projector.create_record(
            SeatRecord, aggregate_id=UUID(int=1), row=row, guest="Ann", sequence_number=1, updated_at=moment
        )

    # The first makes what creates such rows, the second remembers it.
    sit_down(0)
    sit_down(1)
    projector.delete_all_records(SeatRecord, guest="Ann")
    sit_down(2)
    found = projector.find_record(SeatRecord, guest="Ann")
    assert found is not None
    assert found.row == 2


@pytest.mark.parametrize("record", [SeatRecord, OtherRecord])
def test_what_an_update_notes_is_said_alike_for_both_ways(record: type[Record]) -> None:
    event = taken(1, 3)
    assert dict(_touched_by(record)(event)) == {
        column: getattr(event, attribute) for column, attribute in touched_columns(record).items()
    }
