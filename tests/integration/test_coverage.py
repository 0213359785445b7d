"""Event types that nobody knows, payloads that do not decode: found before a replay begins, by a sample or by reading everything."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from shop import LineAdded, LineProjector, OrderProjector, Shop1, place_orders, shop

from sequent_py import Migrations, Sequent
from sequent_py.doctor import Finding, Verdict, examine
from sequent_py.errors import DefinitionError, InvalidPayload, UnknownEventTypes
from sequent_py.health import coverage
from sequent_py.view_schema.migrations import definition


class ShopIgnoring(Migrations):
    version = 1
    versions = {1: [OrderProjector, LineProjector]}
    ignored_event_types = ('Renamed "é%',)


def append_raw(connection: psycopg.Connection[Any], name: str, payload: str = "{}") -> UUID:
    """As code of another time wrote it."""
    connection.execute("SELECT sequent_schema.register_event_types_v1(ARRAY[%s])", [name])
    aggregate_id = uuid4()
    connection.execute(
        "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload)"
        " SELECT %s, 1, id, %s::jsonb FROM sequent_schema.event_types WHERE name = %s",
        [aggregate_id, payload, name],
    )
    return aggregate_id


def problems(app: Sequent, **options: Any) -> dict[str, Finding]:
    return {it.subject: it for it in examine(app, **options).findings if it.verdict is Verdict.PROBLEM}


class TestUnknownTypes:
    def test_a_renamed_class_without_an_alias_is_refused_before_online_and_offline(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(3))
        first = append_raw(connection, 'Renamed "é%')
        last = append_raw(connection, 'Renamed "é%')
        with pytest.raises(UnknownEventTypes) as caught:
            app.view_schema.online()
        text = str(caught.value)
        for part in (
            'Renamed "é%',
            "2 events",
            f"aggregate {first}, sequence number 1",
            str(last),
            "aliases=",
            "ignored_event_types",
        ):
            assert part in text
        assert app.view_schema.status().state is None, "nothing was begun"
        assert any("Renamed" in warning for warning in app.view_schema.plan().warnings)
        assert "Renamed" in problems(app)["event types"].message

    def test_what_the_application_ignores_is_passed_over_and_said_so(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url, ShopIgnoring) as app:
            place_orders(app, range(3))
            append_raw(connection, 'Renamed "é%')
            app.view_schema.online()
            app.view_schema.offline()
            assert problems(app) == {}
            assert any("Passed over" in it.message for it in examine(app).findings)

    def test_a_type_that_comes_after_online_is_refused_by_offline_and_work_is_kept(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        append_raw(connection, 'Renamed "é%')
        with pytest.raises(UnknownEventTypes):
            app.view_schema.offline()
        with shop(store_database_url, ShopIgnoring) as ignoring:
            ignoring.view_schema.offline()
            assert ignoring.view_schema.current_version() == 1

    def test_a_name_without_events_is_no_trouble(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute("SELECT sequent_schema.register_event_types_v1(ARRAY['NeverAppended'])")
        app.view_schema.online()

    def test_counting_gives_up_in_time_and_still_refuses(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A name of its own: other tests define an event class Forgotten, which would be found.
        append_raw(connection, "ForgottenAndUncounted")

        def times_out(*_: Any) -> Any:
            ids = [row[0] for row in connection.execute("SELECT id FROM sequent_schema.event_types")]
            return dict.fromkeys(ids, (None, None, None))

        monkeypatch.setattr(coverage, "_count", times_out)
        with pytest.raises(UnknownEventTypes, match=r"ForgottenAndUncounted \(uncounted\)"):
            app.view_schema.online()

    @pytest.mark.parametrize("bad", ["OrderPlaced", ("OrderPlaced",), (LineAdded,), 7])
    def test_declarations_that_make_no_sense_are_refused(self, bad: Any) -> None:
        class Wrong(Shop1):
            ignored_event_types = bad

        with pytest.raises(DefinitionError, match="ignored_event_types"):
            definition(Wrong)


class TestPayloads:
    def test_one_that_does_not_decode_is_refused_before_any_work(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(3))
        bad = append_raw(connection, "LineAdded", '{"product": "p", "cents": "many"}')
        append_raw(connection, "LineAdded", '{"product": "p"}')
        append_raw(connection, "OrderPlaced", '{"customer": 7}')
        with pytest.raises(InvalidPayload) as caught:
            app.view_schema.online()
        for part in (
            "LineAdded",
            str(bad),
            "sequence number 1",
            "cents",
            "2 more",
            "1 of OrderPlaced",
            "@upcaster",
        ):
            assert part in str(caught.value)
        assert "many" not in str(caught.value), "payloads may be personal"
        assert app.view_schema.status().state is None
        assert any("LineAdded" in warning for warning in app.view_schema.plan().warnings)
        connection.execute(
            "DELETE FROM sequent_schema.events WHERE sequence_number = 1 AND (payload ->> 'customer' = '7' OR payload ? 'product')"
        )
        app.view_schema.online()

    def test_the_sample_sees_both_ends_of_a_long_log_and_the_complete_reading_all_of_it(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(coverage, "SAMPLED_EVENTS", 50)
        monkeypatch.setattr(coverage, "SAMPLED_PAGES", 1_000_000)
        place_orders(app, range(30))
        append_raw(connection, "LineAdded", '{"product": "middle"}')
        place_orders(app, range(30, 60))
        assert "payloads" not in problems(app)
        found = problems(app, reads_all_events=True)["payloads"]
        assert "1 of LineAdded" in found.message
        append_raw(connection, "LineAdded", '{"product": "newest"}')
        assert "1 of LineAdded" in problems(app)["payloads"].message

    def test_no_more_than_a_few_of_each_type_are_sampled(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(coverage, "EVENTS_PER_TYPE", 5)
        place_orders(app, range(30))
        with app.view_schema._context.connect("test") as own:
            sampled = coverage.sample(own, "sequent_schema", app.event_types, ignored=())
        assert {it.name: it.events for it in sampled.types if it.name == "LineAdded"} == {"LineAdded": 10}

    def test_a_complete_reading_counts_and_names_first_and_last(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        ids = place_orders(app, range(3), lines=1)
        with app.view_schema._context.connect("test") as own:
            found = coverage.read_all(own, "sequent_schema", app.event_types, ignored=())
        [placed] = [it for it in found.types if it.name == "OrderPlaced"]
        assert (found.events, found.is_complete, placed.events) == (6, True, 3)
        assert placed.first == coverage.EventName(ids[0], 1)
        assert placed.last == coverage.EventName(ids[2], 1)

    def test_a_type_id_that_is_not_stored_is_said_so(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute(
            "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload) VALUES (gen_random_uuid(), 1, 4711, '{}')"
        )
        assert "4711" in problems(app, reads_all_events=True)["event types"].message
