"""Appends on the store's own connections: how few round trips they take, and that nobody can tell."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from shop import (
    LineAdded,
    LineProjector,
    LineRecord,
    OrderCancelled,
    OrderPlaced,
    OrderProjector,
    OrderRecord,
    actual_rows,
    expected_rows,
    shop,
)
from sqlalchemy.pool import QueuePool
from test_callers_connections import Alarm, alarm_at_line, differences

from sequent_py import Migrations, Projector, Sequent, on
from sequent_py.database import create_engine
from sequent_py.errors import DatabaseUnavailable, DuplicateRecord, ProjectionFailed
from sequent_py.event_store.own_connections import OwnConnections
from sequent_py.event_store.store import EventStore
from sequent_py.events import envelope_of
from sequent_py.exchange import SENT_TOGETHER, Exchange, Statement
from sequent_py.kept_connections import MOST_KEPT
from sequent_py.persistors import lookups

Told = list[list[str]]


def await_(is_so: Callable[[], bool]) -> None:
    """Poll until it is so."""
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with live(store_database_url) as app:
        yield app


@contextmanager
def live(url: str, *projectors: Any) -> Iterator[Sequent]:
    """The shop with these projectors live."""

    class Declared(Migrations):
        version = 1
        versions = {1: list(projectors) or [OrderProjector, LineProjector]}

    with shop(url, Declared, as_login=False) as app:
        app.view_schema.online()
        app.view_schema.golive()
        yield app


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What was sent: a list of statements for every round trip, those that were sent ahead included."""
    exchanges: Told = []
    ahead: list[str] = []
    post, send = Exchange.post, Exchange.send

    def sent_ahead(self: Exchange, *asked: tuple[Statement, Any], **how: bool) -> None:
        ahead.extend(statement.text.decode() for statement, _ in asked)
        send(self, *asked, **how)

    def noted(self: Exchange, *asked: tuple[Statement, Any]) -> None:
        exchanges.append([*ahead, *(statement.text.decode() for statement, _ in asked)])
        ahead.clear()
        post(self, *asked)

    monkeypatch.setattr(Exchange, "send", sent_ahead)
    monkeypatch.setattr(Exchange, "post", noted)
    return exchanges


@contextmanager
def own_connection(app: Sequent) -> Iterator[psycopg.Connection]:
    """The connection that the next append goes by."""
    with OwnConnections(app.engine).lend_exchange() as exchange:
        assert exchange is not None
        yield exchange.connection


def line(cents: int = 1) -> LineAdded:
    return LineAdded(product="p", cents=cents)


def placed(app: Sequent, lines: int = 0) -> UUID:
    aggregate_id = uuid4()
    app.store.append(aggregate_id, [OrderPlaced(customer="Ann")], 0)
    for number in range(lines):
        app.store.append(aggregate_id, [line()], number + 1)
    return aggregate_id


def agree(url: str) -> bool:
    return not differences(url)


# Round trips


def test_an_append_that_projects_nothing_is_one_round_trip(store_database_url: str, told: Told) -> None:
    with shop(store_database_url, as_login=False) as app:
        app.install()
        app.store.append(uuid4(), [line()], 0)
        told.clear()
        recorded = app.store.append(uuid4(), [line(), line()], 0)
        assert [len(each) for each in told] == [1]
        assert [envelope_of(event) for event in app.store.load(recorded[0].aggregate_id)] == [
            envelope_of(event) for event in recorded
        ]


def test_what_handlers_look_up_is_learned_and_an_append_with_live_projections_is_two_round_trips(
    app: Sequent, store_database_url: str, told: Told
) -> None:
    aggregate_id = placed(app, lines=lookups.LEARNED_FROM + 1)
    told.clear()
    app.store.append(aggregate_id, [line(7)], lookups.LEARNED_FROM + 2)
    first, second = told
    assert [text.split()[0] for text in first] == ["BEGIN", "SELECT", "SELECT"]
    assert "FOR NO KEY UPDATE" in first[2]
    assert [text.split()[0] for text in second] == ["UPDATE", "INSERT", "COMMIT"]
    assert agree(store_database_url)


def test_projectors_are_made_while_the_server_records_the_events(
    app: Sequent, monkeypatch: pytest.MonkeyPatch
) -> None:
    aggregate_id = placed(app, lines=6)
    steps: list[str] = []
    post, answers, make = Exchange.post, Exchange.answers, OrderProjector.__init__

    def noted_post(self: Exchange, *asked: tuple[Statement, Any]) -> None:
        post(self, *asked)
        steps.append("on its way")

    def noted_answers(self: Exchange) -> Any:
        steps.append("waiting")
        return answers(self)

    def noted_make(self: Projector, persistor: Any) -> None:
        make(self, persistor)
        steps.append("made")

    monkeypatch.setattr(Exchange, "post", noted_post)
    monkeypatch.setattr(Exchange, "answers", noted_answers)
    monkeypatch.setattr(Projector, "__init__", noted_make)
    app.store.append(aggregate_id, [line()], 7)
    assert steps == ["on its way", "made", "made", "waiting", "on its way", "waiting"]


class ReadsBeforeAnyEvent(OrderProjector):
    """Counts the orders when it is made."""

    def __init__(self, persistor: Any) -> None:
        super().__init__(persistor)
        self.orders = len(self.find_records(OrderRecord))

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        assert self.orders == 1
        super().line_added(event)


def test_a_projector_with_a_constructor_of_its_own_is_made_when_the_events_are_recorded(
    store_database_url: str,
) -> None:
    with live(store_database_url, ReadsBeforeAnyEvent, LineProjector) as app:
        placed(app, lines=6)
        assert agree(store_database_url)


def test_an_append_leaves_nothing_for_the_collector_of_cycles(app: Sequent) -> None:
    aggregate_id = placed(app, lines=20)
    gc.collect()
    gc.disable()
    try:
        app.store.append(aggregate_id, [line()], 21)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_row_that_is_foreseen_and_cannot_be_read_fails_the_handler_that_looks_it_up(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=20)
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        connection.execute("UPDATE view_schema.order_records SET updated_at = 'infinity'")
        with pytest.raises(ProjectionFailed, match="no moment of the years 1 to 9999"):
            app.store.append(aggregate_id, [line()], 21)
        connection.execute("UPDATE view_schema.order_records SET updated_at = now()")
    app.store.append(aggregate_id, [line()], 21)
    assert app.store.version_of(aggregate_id) == 22


def test_a_batch_of_events_sees_what_its_own_events_have_written(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=6)
    app.store.append(
        aggregate_id, [line(2), line(3), OrderCancelled(), OrderPlaced(customer="again"), line(4)], 7
    )
    assert agree(store_database_url)


def test_a_batch_whose_writes_leave_in_many_pieces_is_projected_whole(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=6)
    app.store.append(aggregate_id, [line(cents) for cents in range(3 * SENT_TOGETHER)], 7)
    assert agree(store_database_url)


class WaitsForTheUpdate(LineProjector):
    """Goes on when the server is through with what the handler before has written, and waits for more."""

    url = ""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        super().line_added(event)
        if event.product == "waits":
            with psycopg.connect(self.url, autocommit=True) as looks_on:
                await_(
                    lambda: (
                        looks_on.execute(
                            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                            " AND state = 'idle in transaction' AND query LIKE 'UPDATE%order_records%'"
                        ).fetchone()
                        is not None
                    )
                )


def test_what_a_handler_has_written_is_at_the_server_before_the_next_one_is_through(
    store_database_url: str,
) -> None:
    WaitsForTheUpdate.url = store_database_url
    with live(store_database_url, OrderProjector, WaitsForTheUpdate) as app:
        aggregate_id = placed(app, lines=6)
        app.store.append(aggregate_id, [LineAdded(product="waits", cents=1)], 7)
    assert agree(store_database_url)


class LooksTwice(OrderProjector):
    """Reads the row that it has just changed, and one that does not follow from the event."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        with self.update_record(OrderRecord, event) as order:
            order.total += event.cents
            order.lines += 1
        assert self.get_record(OrderRecord, aggregate_id=event.aggregate_id).lines == order.lines
        assert self.last_record(OrderRecord) is not None


def test_rows_that_were_read_ahead_are_not_believed_once_they_were_written(store_database_url: str) -> None:
    with live(store_database_url, LooksTwice, LineProjector) as app:
        placed(app, lines=12)
        assert agree(store_database_url)


class LooksSometimes(OrderProjector):
    """Looks the order up for cheap lines only."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        if event.cents < 5:
            super().line_added(event)


def test_a_look_up_that_was_foreseen_in_vain_is_foreseen_no_more(store_database_url: str, told: Told) -> None:
    with live(store_database_url, LooksSometimes, LineProjector) as app:
        aggregate_id = placed(app, lines=6)
        for number, expected in enumerate([3, 2, 2], start=7):
            told.clear()
            app.store.append(aggregate_id, [line(9)], number)
            assert len(told[0]) == expected
        app.store.append(aggregate_id, [line(1)], 10)
        assert app.store.version_of(aggregate_id) == 11


class LooksBack(LineProjector):
    """Looks up the line before, by its number; and of a batch's later events what its earlier ones have written."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        self.find_record(LineRecord, aggregate_id=event.aggregate_id, number=event.sequence_number - 1)
        super().line_added(event)


@pytest.mark.parametrize(("expected_version", "foreseen"), [(7, ["order", "line"]), (None, ["order"])])
def test_without_an_expected_version_only_what_does_not_depend_on_the_number_is_foreseen(
    store_database_url: str, told: Told, expected_version: int | None, foreseen: list[str]
) -> None:
    with live(store_database_url, OrderProjector, LooksBack) as app:
        aggregate_id = placed(app, lines=6)
        told.clear()
        app.store.append(aggregate_id, [line()], expected_version)
        assert [text for text in foreseen if any(f"{text}_records" in sent for sent in told[0])] == foreseen
        assert len(told[0]) == 2 + len(foreseen)
        assert agree(store_database_url)


@pytest.mark.parametrize("expected_version", [7, None])
def test_of_a_batch_the_first_event_s_look_ups_are_foreseen_and_stay_so(
    store_database_url: str, told: Told, expected_version: int | None
) -> None:
    with live(store_database_url, OrderProjector, LooksBack) as app:
        aggregate_id = placed(app, lines=6)
        for version in (expected_version, None, None):
            told.clear()
            app.store.append(aggregate_id, [line(2), line(3)], version)
            assert any("FOR NO KEY UPDATE" in text for text in told[0])
        app.store.append(uuid4(), [OrderPlaced(customer="Bo"), line(2), line(3)], 0)
        app.store.append(uuid4(), [OrderPlaced(customer="Bo"), line(2), line(3)])
        told.clear()
        app.store.append(aggregate_id, [line(4)], 13)
        assert [len(each) for each in told] == [4, 3]
        assert agree(store_database_url)


def test_a_partition_key_with_a_nul_character_is_refused_and_not_cut_short(app: Sequent) -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        app.store.append(uuid4(), [OrderPlaced(customer="Ann")], 0, partition_key="a\0b")


# Triggers


@pytest.fixture
def doubling(store_database_url: str) -> Iterator[Sequent]:
    """A trigger on the lines writes to the orders, and one changes the line."""
    with live(store_database_url, LineProjector, ReadsOrders) as app:
        with psycopg.connect(store_database_url, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION public.doubles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " UPDATE view_schema.order_records SET total = total + 1000 WHERE aggregate_id = NEW.aggregate_id;"
                " NEW.cents := 2 * NEW.cents; RETURN NEW; END $$"
            )
            connection.execute(
                "CREATE TRIGGER doubles BEFORE INSERT ON view_schema.line_records FOR EACH ROW EXECUTE FUNCTION public.doubles()"
            )
        # As a process that starts behind it.
        with shop(store_database_url, app.migrations, as_login=False) as other:
            yield other


class ReadsOrders(OrderProjector):
    seen: list[int] = []

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        self.seen.append(self.get_record(OrderRecord, aggregate_id=event.aggregate_id).total)


def test_what_a_trigger_does_is_seen_by_the_handlers_that_come_later(doubling: Sequent) -> None:
    ReadsOrders.seen.clear()
    placed(doubling, lines=6)
    assert ReadsOrders.seen == [1000 * number for number in range(1, 7)]


# Errors


class Refused(OrderProjector):
    """Makes a row that the table refuses, and goes on."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        super().line_added(event)
        if event.product == "twice":
            self.create_record(
                LineRecord,
                aggregate_id=event.aggregate_id,
                number=event.sequence_number,
                product="x",
                cents=0,
            )

    manages_tables = (OrderRecord, LineRecord)


class Later(LineProjector):
    """Asks the server for something behind whatever waits, and takes every error for an answer."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        with suppress(Exception):
            self.find_records(LineRecord, product="x")


@pytest.mark.parametrize("others", [[LineProjector], [LineProjector, Later]])
def test_a_write_that_is_refused_late_is_its_writer_s_fault_and_nothing_is_recorded(
    store_database_url: str, others: list[type[LineProjector]]
) -> None:
    with live(store_database_url, Refused, *others) as app:
        aggregate_id = placed(app, lines=6)
        with pytest.raises(ProjectionFailed) as caught:
            app.store.append(aggregate_id, [LineAdded(product="twice", cents=1)], 7)
        assert caught.value.projector == "LineProjector"
        assert isinstance(caught.value.__cause__, DuplicateRecord)
        assert app.store.version_of(aggregate_id) == 7
        app.store.append(aggregate_id, [line()], 7)


class Twice(LineProjector):
    """Writes first what the table refuses."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        if event.product == "twice":
            self.create_record(
                LineRecord, aggregate_id=event.aggregate_id, number=2, product="x", cents=event.cents
            )
        super().line_added(event)


@pytest.mark.parametrize("events", [1, SENT_TOGETHER])
def test_a_first_write_that_is_refused_is_what_is_reported_whatever_was_sent_behind_it(
    store_database_url: str, events: int
) -> None:
    with live(store_database_url, Twice, OrderProjector) as app:
        aggregate_id = placed(app, lines=6)
        with pytest.raises(ProjectionFailed) as caught:
            app.store.append(aggregate_id, [LineAdded(product="twice", cents=1)] * events, 7)
        assert (caught.value.projector, caught.value.sequence_number) == ("Twice", 8)
        assert isinstance(caught.value.__cause__, DuplicateRecord)
        assert app.store.version_of(aggregate_id) == 7
        assert agree(store_database_url)


class Raises(LineProjector):
    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        super().line_added(event)
        if event.product == "raises":
            raise RuntimeError


def test_a_handler_that_raises_behind_a_write_costs_no_connection(store_database_url: str) -> None:
    with live(store_database_url, OrderProjector, Raises) as app:
        aggregate_id = placed(app, lines=6)
        before = sessions(store_database_url)
        with pytest.raises(ProjectionFailed, match="Raises"):
            app.store.append(aggregate_id, [LineAdded(product="raises", cents=1)], 7)
        assert app.store.version_of(aggregate_id) == 7
        app.store.append(aggregate_id, [line()], 7)
        assert sessions(store_database_url) == before
        assert agree(store_database_url)


class Swallows(OrderProjector):
    """Goes on after an error of the server."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        with suppress(Exception):
            self.update_all_records(OrderRecord, {}, {"total": 2**40, "lines": -(2**31)})


@pytest.mark.parametrize("kind", ["own", "caller's", "caller's, autocommit"])
def test_a_handler_that_goes_on_after_an_error_of_the_server_fails_the_append(
    store_database_url: str, kind: str
) -> None:
    with (
        live(store_database_url, Swallows, LineProjector) as app,
        psycopg.connect(store_database_url, autocommit="autocommit" in kind) as given,
    ):
        with psycopg.connect(store_database_url, autocommit=True) as connection:
            connection.execute("ALTER TABLE view_schema.order_records ADD CHECK (lines >= 0)")
        aggregate_id = placed(app)
        with pytest.raises(ProjectionFailed, match="Swallows"):
            app.store.append(aggregate_id, [line()], 1, connection=None if kind == "own" else given)
        given.commit()
        assert app.store.version_of(aggregate_id) == 1


class CutOffAtTheEnd(LineProjector):
    url = ""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        super().line_added(event)
        if event.product == "cut off":
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND state = 'idle in transaction'"
                )


def test_a_connection_that_is_lost_at_commit_leaves_the_outcome_unknown(store_database_url: str) -> None:
    CutOffAtTheEnd.url = store_database_url
    with live(store_database_url, OrderProjector, CutOffAtTheEnd) as app:
        aggregate_id = placed(app)
        with pytest.raises(DatabaseUnavailable, match="is not known"):
            app.store.append(aggregate_id, [LineAdded(product="cut off", cents=1)], 1)
        assert app.store.version_of(aggregate_id) == 1
        app.store.append(aggregate_id, [line()], 1)
        assert agree(store_database_url)


# Statements that get lost


@pytest.mark.parametrize("statement", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_statements_that_somebody_deallocates_are_prepared_again(
    app: Sequent, store_database_url: str, statement: str
) -> None:
    aggregate_id = placed(app, lines=20)
    with own_connection(app) as own:
        own.autocommit = True
        own.execute(statement)
        own.execute("SET search_path = view_schema, public")
        own.autocommit = False
    for number in range(21, 24):
        app.store.append(aggregate_id, [line()], number)
    assert agree(store_database_url)


def test_statements_are_prepared_anew_now_and_then_and_once_each(app: Sequent) -> None:
    placed(app, lines=80)
    with own_connection(app) as own:
        texts = own.execute(
            "SELECT statement FROM pg_prepared_statements WHERE name ~ '^sequent_'"
        ).fetchall()
        [(latest,)] = own.execute(
            "SELECT max(substring(name from '[0-9]+$')::int) FROM pg_prepared_statements WHERE name ~ '^sequent_'"
        ).fetchall()
    assert len(texts) == len(set(texts)) >= 5
    assert latest > len(texts)


# Connections that go by cursors


@pytest.mark.parametrize("options", [{"isolation_level": "SERIALIZABLE"}, {"isolation_level": "AUTOCOMMIT"}])
def test_an_engine_with_an_isolation_level_of_its_own_keeps_it(
    app: Sequent, store_database_url: str, told: Told, options: dict[str, Any]
) -> None:
    engine = create_engine(store_database_url, "view_schema", **options)
    store = EventStore(engine, app.config.event_store_schema, app.event_types, app.store.projection)
    aggregate_id = uuid4()
    store.append(aggregate_id, [OrderPlaced(customer="x"), line()], 0)
    store.append(aggregate_id, [line()], 2)
    assert bool(told) is (options["isolation_level"] == "AUTOCOMMIT")
    engine.dispose()
    assert agree(store_database_url)


# Connections that are kept


def sessions(url: str) -> list[tuple[str, int]]:
    with psycopg.connect(url, autocommit=True, application_name="looks on") as connection:
        return connection.execute(
            "SELECT state, pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sequent'"
        ).fetchall()


def test_an_append_s_connection_is_kept_and_not_the_pool_s_any_more(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=2)
    with own_connection(app) as own:
        pid = own.info.backend_pid
    assert cast(QueuePool, app.engine.pool).checkedout() == 0
    with app.engine.connect() as connection, connection.begin():
        pooled = connection.connection.driver_connection
        assert pooled is not None
        assert pooled.info.backend_pid != pid
        # It has the pool's to itself.
        app.store.append(aggregate_id, [line()], 3)
    with own_connection(app) as own:
        assert own.info.backend_pid == pid
    assert agree(store_database_url)


def test_no_more_connections_are_kept_than_there_is_room_for(app: Sequent) -> None:
    with ExitStack() as stack:
        lent = [stack.enter_context(own_connection(app)) for _ in range(MOST_KEPT + 2)]
        assert len({own.info.backend_pid for own in lent}) == MOST_KEPT + 2
    with ExitStack() as stack:
        again = [stack.enter_context(own_connection(app)) for _ in range(MOST_KEPT + 2)]
        assert len([own for own in again if own in lent]) == MOST_KEPT


def test_kept_connections_are_closed_with_the_engine_whoever_has_them(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=2)
    with own_connection(app) as first:
        with own_connection(app) as second:
            pass
        app.engine.dispose()
        assert second.closed
        assert not first.closed
    assert first.closed
    await_(lambda: not sessions(store_database_url))
    app.store.append(aggregate_id, [line()], 3)
    assert agree(store_database_url)


def test_a_transaction_that_was_left_open_is_rolled_back_before_the_next_append(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=2)
    with own_connection(app) as own:
        own.execute("DELETE FROM view_schema.line_records")
    assert [state for state, _ in sessions(store_database_url)] == ["idle"] * len(
        sessions(store_database_url)
    )
    app.store.append(aggregate_id, [line()], 3)
    assert agree(store_database_url)


def test_when_a_kept_connection_was_cut_off_the_others_are_not_believed_either(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=2)
    with own_connection(app), own_connection(app):
        pass
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sequent'"
        )
    with pytest.raises(DatabaseUnavailable):
        app.store.append(aggregate_id, [line()], 3)
    app.store.append(aggregate_id, [line()], 3)
    assert agree(store_database_url)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_appends_on_connections_of_its_own(app: Sequent, store_database_url: str) -> None:
    aggregate_id = placed(app, lines=2)
    child = os.fork()
    if child == 0:
        try:
            app.engine.dispose(close=False)
            app.store.append(aggregate_id, [line()], 3)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for number in range(4, 12):
        app.store.append(aggregate_id, [line()], number)
    assert agree(store_database_url)


@pytest.mark.parametrize("options", [{"pool_pre_ping": True}, {"pool_size": 1, "max_overflow": 0}])
def test_of_engines_that_pool_in_a_way_of_their_own_none_are_kept(
    app: Sequent, store_database_url: str, options: dict[str, Any]
) -> None:
    engine = create_engine(store_database_url, "view_schema", **options)
    store = EventStore(engine, app.config.event_store_schema, app.event_types, app.store.projection)
    aggregate_id = uuid4()
    store.append(aggregate_id, [OrderPlaced(customer="x"), line()], 0)
    store.append(aggregate_id, [line()], 2)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    engine.dispose()
    assert agree(store_database_url)


# Interruptions


@pytest.mark.slow
def test_wherever_an_append_of_the_store_s_own_is_interrupted_it_is_whole_or_nothing(
    app: Sequent, store_database_url: str
) -> None:
    aggregate_id = placed(app, lines=8)
    places: set[str] = set()
    for number in count(1, 3):
        version = app.store.version_of(aggregate_id)
        with suppress(Alarm), alarm_at_line(number) as reached:
            app.store.append(aggregate_id, [line()], version)
        places.update(reached)
        if not reached:
            break
        with psycopg.connect(store_database_url) as connection:
            # In one snapshot: where COMMIT was on its way, it may come into force now.
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            actual, expected = actual_rows(connection), expected_rows(connection)
        assert actual == expected, reached
    assert any("exchange.py" in place for place in places)
    assert any("lines.py" in place for place in places)
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        stuck = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state ~ 'transaction'"
        ).fetchone()
    assert stuck == (0,)
