"""What append returns is what load returns, whatever the payload; and what is stored badly, by hand, is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sequent_py.database import create_engine
from sequent_py.errors import InvalidEnvelope, InvalidEvent, ReadOnlySession
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.store import EventStore
from sequent_py.events import Event
from sequent_py.schema_migrations.event_store import install_event_store
from sequent_py.testing.server import fresh_database

SCHEMA = "sequent_schema"


class Measured(Event, type_name="AsStoredMeasured"):
    anything: Any = None
    real: float = 0.0
    either: int | float = 0


@pytest.fixture(scope="module")
def url(server_url: str, database_prefix: str) -> Iterator[str]:
    with fresh_database(server_url, f"{database_prefix}_as_stored") as url:
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            install_event_store(connection, SCHEMA)
        yield url


@pytest.fixture(scope="module")
def store(url: str) -> Iterator[EventStore]:
    engine = create_engine(url, "view_schema")
    yield EventStore(engine, SCHEMA, EventTypes([Measured]))
    engine.dispose()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
numbers = (
    st.floats()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from([-0.0, 1e15, 1e16, -1e16, 1.5e16, 9007199254740993.0, 1e-7, 5e-324, 1.7e308])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def shown(event: Event) -> str:
    """Values with their types: 1, 1.0 and True are equal, 0.0 and -0.0 too."""
    return repr((event.model_dump(), event.metadata, event.created_at))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(anything=values, real=st.floats(), either=numbers, noted=values)
@example(anything=1e16, real=-0.0, either=1e16, noted=-0.0)
@example(anything=[-0.0, {"b": 1e300, "a": -1e16}], real=1e22, either=-0.0, noted={"e": 1e17})
@example(anything="-0.0,1e5", real=1e-7, either=1e-9, noted=[":1e16,"])
def test_what_append_returns_is_what_load_returns_types_included(
    store: EventStore, anything: Any, real: float, either: float, noted: Any
) -> None:
    event = Measured(anything=anything, real=real, either=either)
    aggregate_id = uuid4()
    [recorded] = store.append(aggregate_id, [event], 0, metadata={"noted": noted})
    [loaded] = store.load(aggregate_id)
    assert shown(recorded) == shown(loaded)


@pytest.mark.parametrize(
    "created_at",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=3))),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))),
    ],
)
def test_a_moment_that_could_not_be_read_again_is_refused(store: EventStore, created_at: datetime) -> None:
    aggregate_id = uuid4()
    with pytest.raises(InvalidEvent, match="not within the years 1 to 9999 of UTC"):
        store.append(aggregate_id, [Measured()], created_at=created_at)
    assert store.load(aggregate_id) == []


def test_a_moment_is_recorded_in_utc(store: EventStore) -> None:
    odd = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, seconds=7, microseconds=3)))
    [recorded] = store.append(uuid4(), [Measured()], created_at=odd)
    assert recorded.created_at == odd
    assert recorded.created_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("created_at", "infinity", "created_at is no moment"),
        ("created_at", "0044-03-15 12:00:00+00 BC", "created_at is no moment"),
        ("created_at", "12000-01-01 00:00:00+00", "created_at is no moment"),
        ("metadata", "[1]", "metadata is no JSON object"),
        ("metadata", "null", "metadata is no JSON object"),
    ],
)
def test_an_envelope_that_was_spoilt_by_hand_is_named(
    store: EventStore, url: str, column: str, value: str, why: str
) -> None:
    aggregate_id = uuid4()
    recorded = store.append(aggregate_id, [Measured(), Measured()])
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        change = psycopg.sql.SQL(
            "UPDATE {}.events SET {} = %s WHERE aggregate_id = %s AND sequence_number = 2"
        ).format(psycopg.sql.Identifier(SCHEMA), psycopg.sql.Identifier(column))
        connection.execute(change, (value, aggregate_id))
        try:
            for read in (
                lambda: store.load(aggregate_id),
                lambda: store.load_range(after_position=recorded[0].position),
                lambda: list(store.window(None)),
            ):
                with pytest.raises(
                    InvalidEnvelope,
                    match=rf"AsStoredMeasured \(aggregate {aggregate_id}, sequence number 2\).*{why}",
                ):
                    read()
            assert store.load(aggregate_id, until=1) == recorded[:1]
        finally:
            connection.execute(
                psycopg.sql.SQL("DELETE FROM {}.events WHERE aggregate_id = %s").format(
                    psycopg.sql.Identifier(SCHEMA)
                ),
                (aggregate_id,),
            )


def test_a_session_that_may_not_write_is_told_so(store: EventStore, url: str) -> None:
    aggregate_id = uuid4()
    with psycopg.connect(url, options="-c default_transaction_read_only=on") as connection:
        for expected in (0, None):
            with pytest.raises(
                ReadOnlySession, match=r"read-only.*SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"
            ):
                store.append(aggregate_id, [Measured()], expected, connection=connection)
            connection.rollback()
        connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
        connection.commit()
        store.append(aggregate_id, [Measured()], 0, connection=connection)
    assert store.version_of(aggregate_id) == 1
