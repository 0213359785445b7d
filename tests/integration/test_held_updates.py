"""Batches whose events change the same row: it is written once, and nobody can tell."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest
from shop import LineAdded, LineProjector, OrderProjector, OrderRecord, shop
from test_own_appends import Told, agree, app, line, live, placed, told

from sequent_py import Event, Sequent, on
from sequent_py.errors import ConstraintViolated, ProjectionFailed
from sequent_py.persistors.holding import holdable_columns
from sequent_py.persistors.lines import MOST_UNANSWERED
from sequent_py.persistors.tables import read_table_shape
from sequent_py.records import record_shape

__all__ = ["app", "told"]


class NothingHappened(Event):
    """What no projector handles."""


def batch(cents: Sequence[int]) -> list[LineAdded]:
    return [line(each) for each in cents]


def changed(url: str, statement: str) -> None:
    """Change a live table. Processes that start behind it know."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def written(told: Told) -> list[str]:
    return [" ".join(text.split()[:3]) for each in told for text in each if not text.startswith("SELECT")]


def test_the_events_of_a_batch_change_their_row_by_one_update_in_two_round_trips(
    app: Sequent, store_database_url: str, told: Told
) -> None:
    aggregate_id = placed(app, lines=6)
    told.clear()
    app.store.append(aggregate_id, batch(range(30)), 7)
    # The last event's, with what was held of the others'.
    assert [text for text in written(told) if text.startswith("UPDATE")] == [
        'UPDATE "view_schema"."order_records" SET'
    ]
    assert len(told) == 2
    assert agree(store_database_url)


def test_more_writes_than_are_sent_ahead_of_their_answers_are_projected_whole(
    app: Sequent, store_database_url: str, told: Told
) -> None:
    aggregate_id = placed(app, lines=6)
    told.clear()
    app.store.append(aggregate_id, batch(range(MOST_UNANSWERED + 10)), 7)
    assert len(told) == 3
    assert agree(store_database_url)


class LooksAround(OrderProjector):
    """Reads the row that was just changed in every way that there is."""

    seen: list[tuple[int, ...]] = []

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        with self.update_record(OrderRecord, event) as order:
            order.total += event.cents
            order.lines += 1
        by_aggregate = self.get_record(OrderRecord, aggregate_id=event.aggregate_id)
        by_key = self.get_record(OrderRecord, id=order.id)
        found = self.find_records(OrderRecord, lines=order.lines)
        last = self.last_record(OrderRecord)
        assert last is not None
        self.seen.append(
            (order.total, by_aggregate.total, by_key.total, *(row.total for row in found), last.total)
        )


def test_whatever_asks_for_a_row_sees_what_is_held(store_database_url: str) -> None:
    LooksAround.seen.clear()
    with live(store_database_url, LooksAround, LineProjector) as app:
        aggregate_id = placed(app)
        app.store.append(aggregate_id, batch([1, 2, 3]), 1)
    assert LooksAround.seen == [(total,) * 5 for total in (1, 3, 6)]
    assert agree(store_database_url)


def test_a_row_that_a_check_refuses_between_two_events_of_a_batch_is_refused(store_database_url: str) -> None:
    with live(store_database_url) as app:
        aggregate_id = placed(app, lines=6)
        changed(store_database_url, "ALTER TABLE view_schema.order_records ADD CHECK (total >= 0)")
        with shop(store_database_url, app.migrations, as_login=False) as other:
            with pytest.raises(ConstraintViolated) as caught:
                other.store.append(aggregate_id, batch([-100, 200, 1]), 7)
            assert caught.value.sequence_number == 8
            assert other.store.version_of(aggregate_id) == 7
            other.store.append(aggregate_id, batch([200, -100, 1]), 7)
    assert agree(store_database_url)


def test_a_held_update_that_fails_is_the_fault_of_the_handler_that_made_it(store_database_url: str) -> None:
    with live(store_database_url) as app:
        aggregate_id = placed(app, lines=6)
        changed(
            store_database_url,
            "ALTER TABLE view_schema.order_records ADD share bigint GENERATED ALWAYS AS (100 / (total + 1000)) STORED",
        )
        with shop(store_database_url, app.migrations, as_login=False) as other:
            with pytest.raises(ProjectionFailed) as caught:
                other.store.append(aggregate_id, [*batch([1, -1007]), NothingHappened()], 7)
            assert (caught.value.projector, caught.value.sequence_number) == ("OrderProjector", 9)
            assert other.store.version_of(aggregate_id) == 7


CHANGES = {
    "a CHECK": ("ALTER TABLE {} ADD CHECK (total > lines)", {"total", "lines"}),
    "a unique index": ("CREATE UNIQUE INDEX ON {} (total)", {"total"}),
    "an exclusion constraint": ("ALTER TABLE {} ADD EXCLUDE (total WITH =)", {"total"}),
    "an index": ("CREATE INDEX ON {} (total)", set()),
    "a length": ("ALTER TABLE {} ALTER customer TYPE varchar(9)", {"customer"}),
    "a domain": ("CREATE DOMAIN public.amount AS bigint CHECK (value > 0); ALTER TABLE {} ALTER total TYPE public.amount", {"total"}),
    "a key that refers to it": ("CREATE TABLE public.other (id bigint REFERENCES {})", set()),
    "a key that it refers by": ("CREATE TABLE public.other (id bigint PRIMARY KEY); ALTER TABLE {} ADD other bigint REFERENCES public.other", None),
    "an index by an expression": ("CREATE INDEX ON {} ((100 / total))", None),
    "a policy": ("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", None),
    "a default of one's own": ("CREATE FUNCTION public.one() RETURNS bigint LANGUAGE sql AS 'SELECT 1'; ALTER TABLE {} ALTER total SET DEFAULT public.one()", None),
    "descendants": ("CREATE TABLE public.descendants () INHERITS ({})", None),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_updates_are_held_of_columns_that_the_server_has_nothing_to_say_about(
    app: Sequent, store_database_url: str, change: str
) -> None:
    statement, taken = CHANGES[change]
    changed(store_database_url, statement.format("view_schema.order_records"))
    free = {"aggregate_id", "customer", "total", "lines", "updated_at", "sequence_number"}
    with psycopg.connect(store_database_url) as connection:
        shape = record_shape(OrderRecord)
        table = read_table_shape(connection, shape, "view_schema", shape.table_name)
        found = holdable_columns(connection, "view_schema", [table])
        assert holdable_columns(connection, "view_schema", [table, table]) == {}
    assert {name: columns & free for name, columns in found.items()} == (
        {} if taken is None else {"order_records": free - {"aggregate_id"} - taken}
    )
