"""Events that are edited or deleted: what is noted of it, and that a replay re-folds exactly what was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from shop import (
    LineAdded,
    OrderPlaced,
    Rows,
    ShopCounting,
    actual_rows,
    expected_rows,
    place_orders,
    shop,
)

from sequent_py import Event, Sequent
from sequent_py.errors import EventsEdited, MaintenanceModeActive
from sequent_py.replay.ledger import Ledger

Connection = psycopg.Connection[Any]


def noted(connection: Connection) -> list[tuple[str, UUID | None]]:
    rows = connection.execute(
        "SELECT operation, aggregate_id FROM sequent_schema.event_edits ORDER BY operation, aggregate_id"
    ).fetchall()
    connection.execute("DELETE FROM sequent_schema.event_edits")
    return rows  # type: ignore[return-value]


def partition_of(connection: Connection, aggregate_id: UUID) -> str:
    row = connection.execute(
        "SELECT tableoid::regclass::text FROM sequent_schema.events WHERE aggregate_id = %s", (aggregate_id,)
    ).fetchone()
    assert row is not None
    return str(row[0])


def refolded(connection: Connection) -> set[UUID]:
    """The special aggregates of the newest pass."""
    rows = connection.execute(
        "SELECT aggregate_id FROM sequent_schema.special_aggregates WHERE pass = (SELECT max(number) FROM sequent_schema.replay_passes)"
    )
    return {row[0] for row in rows}


class TestNotes:
    """Statement triggers fire on the table that a statement names, parent or partition, so each change must be noted once."""

    def test_an_update_or_delete_notes_each_aggregate_once_through_parent_and_partition(
        self, app: Sequent, connection: Connection
    ) -> None:
        one, two = place_orders(app, [1, 2])
        other = partition_of(connection, one)
        for number, table in enumerate(("sequent_schema.events", other)):
            connection.execute(
                f"UPDATE {table} SET metadata = '{{\"x\": {number}}}' WHERE aggregate_id = %s",  # type: ignore[call-overload]  # noqa: S608
                (one,),
            )
            assert noted(connection) == [("UPDATE", one)]
        connection.execute("UPDATE sequent_schema.events SET metadata = '{\"y\": 1}'")
        assert noted(connection) == sorted([("UPDATE", one), ("UPDATE", two)], key=lambda item: item[1])
        connection.execute(f"DELETE FROM {other} WHERE aggregate_id = %s", (one,))  # type: ignore[call-overload]  # noqa: S608
        connection.execute("DELETE FROM sequent_schema.events")
        assert noted(connection) == sorted([("DELETE", one), ("DELETE", two)], key=lambda item: item[1])

    def test_an_event_that_moves_to_another_aggregate_notes_both(
        self, app: Sequent, connection: Connection
    ) -> None:
        [one] = place_orders(app, [1])
        for target in (uuid4() for _ in range(5)):
            connection.execute(
                "UPDATE sequent_schema.events SET aggregate_id = %s WHERE aggregate_id = %s", (target, one)
            )
            assert {item[1] for item in noted(connection)} == {one, target}
            one = target

    def test_an_update_that_changes_nothing_is_no_edit(self, app: Sequent, connection: Connection) -> None:
        place_orders(app, [1])
        connection.execute("UPDATE sequent_schema.events SET payload = payload")
        connection.execute("DELETE FROM sequent_schema.events WHERE false")
        assert noted(connection) == []

    def test_on_conflict_and_merge_are_edits_too(self, app: Sequent, connection: Connection) -> None:
        [one] = place_orders(app, [1])
        connection.execute(
            "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload)"
            ' SELECT aggregate_id, sequence_number, event_type_id, \'{"customer": "x"}\' FROM sequent_schema.events'
            " WHERE sequence_number = 1 ON CONFLICT (aggregate_id, sequence_number) DO UPDATE SET payload = excluded.payload"
        )
        assert noted(connection) == [("UPDATE", one)]
        connection.execute(
            "MERGE INTO sequent_schema.events e USING (SELECT %s::uuid AS id) x ON e.aggregate_id = x.id"
            " WHEN MATCHED AND sequence_number = 4 THEN DELETE WHEN MATCHED AND sequence_number = 3 THEN UPDATE SET metadata = '{\"x\": 1}'",
            (one,),
        )
        assert noted(connection) == [("DELETE", one), ("UPDATE", one)]

    def test_truncate_notes_everything(self, app: Sequent, connection: Connection) -> None:
        place_orders(app, [1])
        connection.execute("TRUNCATE sequent_schema.events_03")
        assert noted(connection) == [("TRUNCATE", None)]

    def test_a_savepoint_that_is_rolled_back_notes_nothing(
        self, app: Sequent, connection: Connection
    ) -> None:
        one, two = place_orders(app, [1, 2])
        with connection.transaction():
            with connection.transaction(force_rollback=True):
                connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (one,))
            with connection.transaction():
                connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (two,))
        assert noted(connection) == [("DELETE", two)]

    def test_the_repair_of_a_restored_store_is_no_edit_but_other_ids_are(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        [one] = place_orders(app, [1])
        connection.execute("UPDATE sequent_schema.events SET xact_id = '99999999999'")
        assert noted(connection) == [("UPDATE", one)]
        with shop(store_database_url, as_login=False) as admin:
            assert admin.view_schema.repair_transaction_ids() == 4
        assert noted(connection) == []

    def test_the_repair_mends_the_notes_as_well(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        [one] = place_orders(app, [1])
        connection.execute("UPDATE sequent_schema.events SET metadata = '{\"x\": 1}'")
        connection.execute("UPDATE sequent_schema.events SET xact_id = '99999999999'")
        connection.execute("UPDATE sequent_schema.event_edits SET xact_id = '99999999999'")
        with shop(store_database_url, as_login=False) as admin:
            admin.view_schema.repair_transaction_ids()
        rows = connection.execute("SELECT DISTINCT xact_id::text FROM sequent_schema.event_edits").fetchall()
        assert rows == [("3",)]
        assert one in {item[1] for item in noted(connection)}


Edit = Callable[[Connection, UUID], object]


class Forgotten(Event):
    """A type that no projector handles."""


def change_a_line(connection: Connection, order: UUID) -> None:
    connection.execute(
        "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '1')"
        " WHERE aggregate_id = %s AND sequence_number = 2",
        (order,),
    )


def erase(connection: Connection, order: UUID) -> None:
    connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (order,))


def delete_a_line(connection: Connection, order: UUID) -> None:
    connection.execute(
        "DELETE FROM sequent_schema.events WHERE aggregate_id = %s AND sequence_number = 3", (order,)
    )


def move(connection: Connection, order: UUID) -> None:
    connection.execute(
        "UPDATE sequent_schema.events SET aggregate_id = %s WHERE aggregate_id = %s", (uuid4(), order)
    )


def change_the_type_to_one_that_nobody_handles(connection: Connection, order: UUID) -> None:
    connection.execute(
        "INSERT INTO sequent_schema.event_types (name) VALUES ('Forgotten') ON CONFLICT DO NOTHING"
    )
    connection.execute(
        "UPDATE sequent_schema.events SET event_type_id = (SELECT id FROM sequent_schema.event_types WHERE name = 'Forgotten')"
        " WHERE aggregate_id = %s AND sequence_number = 4",
        (order,),
    )


EDITS: list[Edit] = [change_a_line, erase, delete_a_line, move, change_the_type_to_one_that_nobody_handles]


def is_equal_to_the_log(connection: Connection, suffix: str = "") -> None:
    expected: Rows = expected_rows(connection)
    assert actual_rows(connection, suffix) == expected


class TestRefolding:
    @pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
    def test_the_next_pass_refolds_what_was_edited_and_nothing_else(
        self, app: Sequent, connection: Connection, edit: Edit
    ) -> None:
        ids = place_orders(app, range(20))
        app.view_schema.online()
        edit(connection, ids[3])
        place_orders(app, range(20, 23))
        app.view_schema.online()
        is_equal_to_the_log(connection, "_1")
        assert ids[3] in refolded(connection)
        assert len(refolded(connection)) == (2 if edit is move else 1)
        edit(connection, ids[4])
        app.store.append(ids[5], [LineAdded(product="after", cents=1)])
        report = app.view_schema.offline()
        is_equal_to_the_log(connection)
        assert report.rows["line_records"] == len(actual_rows(connection)["line_records"])

    def test_many_aggregates_in_many_groups(self, app: Sequent, connection: Connection) -> None:
        ids = place_orders(app, range(60))
        app.view_schema.online(group_target_events=10)
        for order in ids[::3]:
            change_a_line(connection, order)
        for order in ids[1::9]:
            erase(connection, order)
        with shop(app.database_url, group_target_events=7) as small:
            small.view_schema.online()
        is_equal_to_the_log(connection, "_1")
        app.view_schema.offline()
        is_equal_to_the_log(connection)

    def test_a_whole_partition_that_is_emptied(self, app: Sequent, connection: Connection) -> None:
        place_orders(app, range(40))
        app.view_schema.online()
        connection.execute("DELETE FROM sequent_schema.events_03")
        app.view_schema.offline()
        is_equal_to_the_log(connection)

    def test_a_stream_that_was_erased_and_begins_anew(self, app: Sequent, connection: Connection) -> None:
        ids = place_orders(app, range(5))
        app.view_schema.online()
        erase(connection, ids[1])
        app.store.append(ids[1], [OrderPlaced(customer="somebody else")], expected_version=0)
        app.view_schema.offline()
        is_equal_to_the_log(connection)
        assert [row[1] for row in actual_rows(connection)["order_records"] if row[0] == ids[1]] == [
            "somebody else"
        ]

    @pytest.mark.parametrize("is_committed", [True, False])
    def test_an_edit_that_is_open_during_a_pass_belongs_to_the_next(
        self, app: Sequent, connection: Connection, store_database_url: str, is_committed: bool
    ) -> None:
        ids = place_orders(app, range(5))
        app.view_schema.online()
        with psycopg.connect(store_database_url) as editor:
            erase(editor, ids[1])
            app.view_schema.online()
            assert refolded(connection) == set()
            editor.commit() if is_committed else editor.rollback()
        app.view_schema.offline()
        is_equal_to_the_log(connection)

    def test_an_edit_by_a_prepared_transaction_counts_when_it_commits(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        if connection.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
            pytest.skip("max_prepared_transactions is 0")
        ids = place_orders(app, range(5))
        app.view_schema.online()
        name = f"edit {uuid4()}"
        with psycopg.connect(store_database_url) as editor:
            erase(editor, ids[1])
            editor.execute(f"PREPARE TRANSACTION '{name}'")  # type: ignore[call-overload]
        app.view_schema.online()
        assert refolded(connection) == set()
        connection.execute(f"COMMIT PREPARED '{name}'")  # type: ignore[call-overload]
        app.view_schema.offline()
        is_equal_to_the_log(connection)

    def test_edits_before_online_are_simply_history(self, app: Sequent, connection: Connection) -> None:
        ids = place_orders(app, range(5))
        connection.execute("TRUNCATE sequent_schema.events_07")
        erase(connection, ids[0])
        app.view_schema.online()
        assert refolded(connection) == set()
        app.view_schema.offline()
        is_equal_to_the_log(connection)

    def test_edits_are_refused_while_the_gate_is_closed(self, app: Sequent, connection: Connection) -> None:
        ids = place_orders(app, [1])
        app.maintenance.on("moving house")
        with pytest.raises(psycopg.Error, match="moving house"):
            erase(connection, ids[0])
        with pytest.raises(MaintenanceModeActive):
            place_orders(app, [2])

    def test_an_edit_that_broke_the_order_of_positions_is_named(
        self, app: Sequent, connection: Connection
    ) -> None:
        [order] = place_orders(app, [1])
        app.view_schema.online()
        connection.execute(
            "WITH gone AS (DELETE FROM sequent_schema.events WHERE aggregate_id = %s AND sequence_number = 2 RETURNING *)"
            " INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload)"
            " SELECT aggregate_id, sequence_number, event_type_id, payload FROM gone",
            (order,),
        )
        with pytest.raises(EventsEdited, match="positions"):
            app.view_schema.online()
        connection.execute(
            "UPDATE sequent_schema.events e SET position = p.position FROM (SELECT sequence_number,"
            " (SELECT max(position) FROM sequent_schema.events) + sequence_number AS position FROM sequent_schema.events) p"
            " WHERE e.sequence_number = p.sequence_number"
        )
        # The pass that failed leaves the aggregate out, because it was edited since; the next folds it.
        app.view_schema.offline()
        is_equal_to_the_log(connection)

    def test_a_pass_that_was_interrupted_knows_its_special_aggregates(
        self, app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = place_orders(app, range(5))
        app.view_schema.online()
        erase(connection, ids[1])

        def lose(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "finish", lose)
            with pytest.raises(KeyboardInterrupt):
                app.view_schema.online()
        assert refolded(connection) == {ids[1]}
        assert {row[0] for row in actual_rows(connection, "_1")["order_records"]} >= {ids[1]}
        app.view_schema.online()
        is_equal_to_the_log(connection, "_1")

    def test_an_edited_aggregate_is_left_out_of_the_first_pass_and_folded_by_the_next(
        self, app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half of an edit's effect is older than its transaction, the other half newer: the first pass would see an order without its beginning."""
        ids = place_orders(app, range(5))
        created = Ledger.create_pass

        def edit_then_create(*arguments: Any, **options: Any) -> None:
            # After the snapshot was taken, before anything is read.
            connection.execute(
                "WITH gone AS (DELETE FROM sequent_schema.events WHERE aggregate_id = %s AND sequence_number = 1 RETURNING *)"
                " INSERT INTO sequent_schema.events (position, aggregate_id, sequence_number, event_type_id, payload)"
                ' SELECT position, aggregate_id, sequence_number, event_type_id, \'{"customer": "renamed"}\' FROM gone',
                (ids[1],),
            )
            created(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "create_pass", edit_then_create)
            app.view_schema.online()
        assert ids[1] not in {row[0] for row in actual_rows(connection, "_1")["order_records"]}
        app.view_schema.offline()
        is_equal_to_the_log(connection)
        assert "renamed" in {row[1] for row in actual_rows(connection)["order_records"]}


class TestRefusing:
    def test_a_truncated_store_must_be_replayed_anew(self, app: Sequent, connection: Connection) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        connection.execute("TRUNCATE sequent_schema.events")
        for command in (app.view_schema.offline, app.view_schema.online):
            with pytest.raises(EventsEdited, match="abort"):
                command()
        app.view_schema.abort()
        app.view_schema.online()
        app.view_schema.offline()
        is_equal_to_the_log(connection)

    def test_notes_from_before_the_upgrade_stand_for_everything(
        self, app: Sequent, connection: Connection
    ) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        connection.execute("INSERT INTO sequent_schema.event_edits (operation) VALUES ('DELETE')")
        with pytest.raises(EventsEdited, match="abort"):
            app.view_schema.offline()

    def test_rows_that_belong_to_no_aggregate_cannot_be_told_apart(
        self, store_database_url: str, connection: Connection, tmp_path: Any
    ) -> None:
        with shop(store_database_url, ShopCounting) as counting:
            ids = place_orders(counting, range(5))
            counting.view_schema.online()
            change_a_line(connection, ids[1])
            with pytest.raises(EventsEdited, match=r"product_records.*no aggregate_id"):
                counting.view_schema.online()

    def test_too_large_a_share_is_replayed_anew(
        self, app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.refold.FREE_EVENTS", 5)
        ids = place_orders(app, range(10))
        app.view_schema.online()
        change_a_line(connection, ids[0])
        app.view_schema.online()
        for order in ids[1:6]:
            change_a_line(connection, order)
        with pytest.raises(EventsEdited, match="quarter"):
            app.view_schema.offline()
