"""Whatever is appended, edited, erased or rolled back between and during the passes, the tables end as the fold of the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from shop import (
    LineAdded,
    OrderCancelled,
    OrderPlaced,
    OrderProjector,
    ProductProjector,
    actual_rows,
    expected_rows,
    shop,
)
from stores import Stores

from sequent_py import Sequent
from sequent_py.errors import EventsEdited
from sequent_py.projectors import projector_definition
from sequent_py.replay.ledger import Ledger
from sequent_py.replay.refold import Edits, SpecialAggregate, find_obstacles, special_aggregates

ORDERS = [UUID(int=number << 120 | number) for number in range(1, 9)]

orders = st.sampled_from(ORDERS)
append = st.tuples(st.just("append"), orders, st.integers(1, 3))
cancel = st.tuples(st.just("cancel"), orders, st.just(0))
change = st.tuples(st.just("change"), orders, st.integers(0, 99))
erase = st.tuples(st.just("erase"), orders, st.just(0))
cut = st.tuples(st.just("cut"), orders, st.integers(1, 3))
replace = st.tuples(st.just("replace"), orders, st.integers(0, 99))
swap = st.tuples(st.just("swap"), orders, orders.map(ORDERS.index))
action = st.one_of(append, append, append, cancel, change, erase, cut, replace, swap)
batch = st.lists(action, max_size=4)
step = st.one_of(
    batch.map(lambda actions: ("now", actions)),
    # In a transaction that is open while the next pass runs: it takes its id before, and ends, well or not, while that pass is being made or after it.
    st.tuples(batch, st.sampled_from(["during", "after", "rolled back"])).map(
        lambda item: (item[1], item[0])
    ),
    st.just(("pass", [])),
    st.just(("pass", [])),
    # The pass is interrupted in its last group and finished by the next command.
    st.just(("interrupted", [])),
)


def act(app: Sequent, connection: psycopg.Connection[Any], kind: str, order: UUID, number: int) -> None:
    """One change of the log that leaves every order something that its handlers accept."""

    def execute(query: str, *parameters: object) -> None:
        connection.execute(query, parameters)  # type: ignore[call-overload]

    events = "sequent_schema.events"
    last = connection.execute(
        "SELECT t.name, e.sequence_number FROM sequent_schema.events e JOIN sequent_schema.event_types t ON t.id = e.event_type_id"
        " WHERE aggregate_id = %s ORDER BY sequence_number DESC LIMIT 1",
        (order,),
    ).fetchone()
    if kind == "append" and (last is None or last[0] != "OrderCancelled"):
        lines = [LineAdded(product=f"p{n}", cents=n) for n in range(number)]
        app.store.append(order, lines if last else [OrderPlaced(customer="c"), *lines], connection=connection)
    elif kind == "cancel" and last is not None and last[0] != "OrderCancelled":
        app.store.append(order, [OrderCancelled()], connection=connection)
    elif kind == "change":
        execute(f"UPDATE {events} SET payload = jsonb_set(payload, '{{cents}}', to_jsonb(%s::int)) WHERE aggregate_id = %s AND payload ? 'cents'", number, order)  # fmt: skip  # noqa: S608
    elif kind == "erase":
        execute(f"DELETE FROM {events} WHERE aggregate_id = %s", order)  # noqa: S608
    elif kind == "cut":
        execute(f"DELETE FROM {events} WHERE aggregate_id = %s AND sequence_number > %s", order, number)  # noqa: S608
    elif kind == "replace":
        # As careful as one must be: the new event has the position of the old one.
        execute(
            f"WITH gone AS (DELETE FROM {events} WHERE aggregate_id = %s AND payload ? 'customer' RETURNING *)"  # noqa: S608
            f" INSERT INTO {events} (position, aggregate_id, sequence_number, event_type_id, payload)"
            " SELECT position, aggregate_id, sequence_number, event_type_id, jsonb_build_object('customer', %s::text) FROM gone",
            order,
            f"replaced {number}",
        )
    elif kind == "swap":
        other, between = ORDERS[number], uuid4()
        for before, after in ((order, between), (other, order), (between, other)):
            execute(f"UPDATE {events} SET aggregate_id = %s WHERE aggregate_id = %s", after, before)  # noqa: S608


@contextmanager
def patched(name: str, function: Any) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(Ledger, name, function)
        yield


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(step, min_size=2, max_size=8), group=st.sampled_from([2, 1000]))
def test_the_tables_end_as_the_fold_of_the_log(stores: Stores, steps: list[Any], group: int) -> None:
    with (
        stores.fresh() as url,
        shop(url, group_target_events=group, as_login=False) as app,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        for order in ORDERS[::2]:
            app.store.append(order, [OrderPlaced(customer="c"), LineAdded(product="p", cents=1)])
        for kind, actions in steps:
            note(f"{kind} {actions}")
            run_step(app, connection, url, kind, actions)
        app.view_schema.online()
        report = app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)
        assert report.rows == {table: len(rows) for table, rows in actual_rows(connection).items()}


def run_step(
    app: Sequent, connection: psycopg.Connection[Any], url: str, kind: str, actions: list[Any]
) -> None:
    if kind == "now":
        with connection.transaction():
            for item in actions:
                act(app, connection, *item)
    elif kind == "pass":
        app.view_schema.online()
    elif kind == "interrupted":

        def lose(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        # A pass without groups has nothing to interrupt.
        with patched("finish", lose), suppress(KeyboardInterrupt):
            app.view_schema.online()
    else:
        with psycopg.connect(url) as other:
            for item in actions:
                act(app, other, *item)
            created = Ledger.create_pass

            def commit_then_create(*arguments: Any, **options: Any) -> None:
                # The pass's snapshot has been taken, and nothing of it has been read.
                if kind == "during":
                    other.commit()
                created(*arguments, **options)

            with patched("create_pass", commit_then_create):
                app.view_schema.online()
            other.commit() if kind == "after" else other.rollback()


ids = st.sampled_from(ORDERS)


@given(
    edited=st.frozensets(ids),
    quarantined=st.dictionaries(ids, st.none() | st.just("1:1:")),
)
def test_special_aggregates_are_the_edited_from_the_beginning_and_the_others_from_where_they_stand(
    edited: frozenset[UUID], quarantined: dict[UUID, str | None]
) -> None:
    tried = [SpecialAggregate(order, since, False) for order, since in quarantined.items()]
    found = {item.aggregate_id: item for item in special_aggregates(Edits(edited), tried, ())}
    assert found.keys() == edited | quarantined.keys()
    for order, item in found.items():
        assert item == SpecialAggregate(
            order, None if order in edited else quarantined[order], order in edited
        )


@given(edited=st.frozensets(ids), boundless=st.integers(0, 2), is_blocked=st.booleans())
def test_what_cannot_be_told_apart_is_refused(
    edited: frozenset[UUID], boundless: int, is_blocked: bool
) -> None:
    obstacles = ("nobody can say",) if is_blocked else ()
    if boundless or (edited and is_blocked):
        with pytest.raises(EventsEdited, match="abort"):
            special_aggregates(Edits(edited, boundless), (), obstacles)
    else:
        assert len(special_aggregates(Edits(edited, boundless), (), obstacles)) == len(edited)


def test_obstacles_name_tables_and_projectors() -> None:
    assert find_obstacles([projector_definition(OrderProjector)]) == ()
    [obstacle] = find_obstacles([projector_definition(ProductProjector)])
    assert "product_records" in obstacle
