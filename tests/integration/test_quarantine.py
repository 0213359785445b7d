"""Events that cannot be projected: with a quarantine their aggregates are set aside, tried again, and never promoted unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import psycopg
import pytest
from shop import (
    FailingProjector,
    LineAdded,
    LineProjector,
    OrderPlaced,
    ProductProjector,
    Rows,
    Shop2,
    ShopFailing,
    actual_rows,
    expected_rows,
    place_orders,
    shop,
)

from sequent_py import Migrations, Sequent
from sequent_py.cli.blocks import Items
from sequent_py.cli.descriptions import check as describe_check
from sequent_py.cli.descriptions import online as describe_online
from sequent_py.cli.descriptions import status as describe_status
from sequent_py.doctor import Verdict, examine
from sequent_py.errors import AggregatesQuarantined, InvalidPayload, MigrationError, ProjectionFailed

Connection = psycopg.Connection[Any]


class Failing2(Migrations):
    version = 2
    versions = {2: ShopFailing.versions[1]}


class Orders2(Migrations):
    version = 2
    versions = {1: [LineProjector], 2: [FailingProjector]}


class Products2(Migrations):
    version = 2
    versions = {1: ShopFailing.versions[1], 2: [ProductProjector]}


class Products1(Migrations):
    version = 1
    versions = {1: [*ShopFailing.versions[1], ProductProjector]}


class Both3(Migrations):
    version = 3
    versions = {3: ShopFailing.versions[1]}


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, ShopFailing) as app:
        yield app


def poison(app: Sequent, order: UUID) -> None:
    app.store.append(order, [LineAdded(product="poison", cents=1), LineAdded(product="after", cents=2)])


def without(rows: Rows, *orders: UUID) -> Rows:
    return {table: [row for row in found if row[0] not in orders] for table, found in rows.items()}


def set_aside(app: Sequent) -> list[UUID]:
    return [item.aggregate_id for item in app.view_schema.status().quarantined]


def test_the_poisoned_are_set_aside_the_others_are_folded_and_the_mended_are_released(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place_orders(app, range(20))
    poison(app, ids[3])
    poison(app, ids[5])
    report = app.view_schema.online(quarantine=True, group_target_events=15)
    assert {item.aggregate_id for item in report.quarantined} == {ids[3], ids[5]}
    assert actual_rows(connection, "_1") == without(expected_rows(connection), ids[3], ids[5])
    [first, _] = sorted(report.quarantined, key=lambda item: item.aggregate_id != ids[3])
    assert (first.projector, first.event_type, first.sequence_number, first.snapshot_since) == (
        "FailingProjector",
        "LineAdded",
        5,
        None,
    )
    assert "no poison here" in first.error
    # Later windows leave them out as well.
    app.store.append(ids[3], [LineAdded(product="later", cents=3)])
    place_orders(app, range(20, 22))
    app.view_schema.online()
    assert actual_rows(connection, "_1") == without(expected_rows(connection), ids[3], ids[5])
    with pytest.raises(AggregatesQuarantined, match=str(min(ids[3], ids[5]))):
        app.view_schema.offline()
    monkeypatch.setattr(FailingProjector, "is_mended", True)
    assert app.view_schema.online().quarantined == ()
    assert actual_rows(connection, "_1") == expected_rows(connection)
    app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def test_an_aggregate_that_fails_in_a_window_keeps_the_rows_of_its_good_prefix_and_goes_on_from_there(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place_orders(app, range(5))
    app.view_schema.online(quarantine=True)
    before = actual_rows(connection, "_1")
    poison(app, ids[1])
    app.store.append(ids[2], [LineAdded(product="fine", cents=9)])
    [item] = app.view_schema.online().quarantined
    assert item.aggregate_id == ids[1]
    assert item.snapshot_since is not None
    now = actual_rows(connection, "_1")
    assert [row for row in now["line_records"] if row[0] == ids[1]] == [
        row for row in before["line_records"] if row[0] == ids[1]
    ]
    assert without(now, ids[1]) == without(expected_rows(connection), ids[1])
    app.store.append(ids[1], [LineAdded(product="later", cents=3)])
    app.view_schema.online()
    assert set_aside(app) == [ids[1]]
    monkeypatch.setattr(FailingProjector, "is_mended", True)
    app.view_schema.online()
    assert set_aside(app) == []
    report = app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)
    assert report.rows["line_records"] == len(actual_rows(connection)["line_records"])


def test_rows_of_an_edited_aggregate_go_even_if_it_cannot_be_folded(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place_orders(app, range(5))
    app.view_schema.online(quarantine=True)
    connection.execute(
        "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{product}', '\"poison\"')"
        " WHERE aggregate_id = %s AND sequence_number = 3",
        (ids[1],),
    )
    [item] = app.view_schema.online().quarantined
    assert (item.aggregate_id, item.snapshot_since) == (ids[1], None)
    assert actual_rows(connection, "_1") == without(expected_rows(connection), ids[1])
    monkeypatch.setattr(FailingProjector, "is_mended", True)
    app.view_schema.online()
    assert actual_rows(connection, "_1") == expected_rows(connection)


def test_mending_the_event_instead_of_the_handler_releases_too(app: Sequent, connection: Connection) -> None:
    ids = place_orders(app, range(5))
    poison(app, ids[1])
    app.view_schema.online(quarantine=True)
    connection.execute(
        "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{product}', '\"cure\"') WHERE payload ->> 'product' = 'poison'"
    )
    app.view_schema.online()
    assert set_aside(app) == []
    app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def test_a_payload_that_does_not_validate_is_set_aside(app: Sequent, connection: Connection) -> None:
    ids = place_orders(app, range(5))
    connection.execute(
        "UPDATE sequent_schema.events SET payload = '{}' WHERE aggregate_id = %s AND sequence_number = 2",
        (ids[2],),
    )
    [item] = app.view_schema.online(quarantine=True).quarantined
    assert (item.aggregate_id, item.projector, item.sequence_number) == (ids[2], None, 2)


def test_without_a_quarantine_the_first_failure_stops(app: Sequent) -> None:
    ids = place_orders(app, range(5))
    poison(app, ids[1])
    with pytest.raises(ProjectionFailed):
        app.view_schema.online()
    assert set_aside(app) == []
    # Begun without, gone on with.
    app.view_schema.online(quarantine=True)
    assert set_aside(app) == [ids[1]]


def test_what_comes_next_is_to_mend_and_then_to_accept_by_name(
    app: Sequent, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place_orders(app, range(5))
    poison(app, ids[1])
    report = app.view_schema.online(quarantine=True)
    accepting = f"--accept-quarantined {ids[1]}"
    [item] = [it for it in describe_online(report) if isinstance(it, Items) and it.title == "Next:"]
    assert item.items[0].startswith("mend the handler, then: sequent migrate online")
    assert item.items[1].startswith(f"sequent migrate golive {accepting}")
    status = app.view_schema.status()
    assert status.next_commands == (
        "sequent migrate online",
        f"sequent migrate offline {accepting}",
        f"sequent migrate golive {accepting}",
        "sequent migrate abort",
    )
    [item] = [it for it in describe_status(status) if isinstance(it, Items) and it.title == "Next:"]
    assert item.items[0].startswith("mend the handler, then: sequent migrate online")
    monkeypatch.setattr(FailingProjector, "is_mended", True)
    app.view_schema.online()
    assert "sequent migrate golive" in app.view_schema.status().next_commands


@pytest.mark.parametrize("fails", ["handler", "payload"])
def test_a_quarantine_is_offered_wherever_an_event_fails(
    app: Sequent, connection: Connection, fails: str
) -> None:
    ids = place_orders(app, range(5))
    if fails == "handler":
        poison(app, ids[1])
    else:
        connection.execute("UPDATE sequent_schema.events SET payload = '{}' WHERE sequence_number = 2")
    for command in (app.view_schema.dry_run, app.view_schema.online):
        with pytest.raises((ProjectionFailed, InvalidPayload)) as caught:
            command()
        assert caught.value.remedy.count("sequent migrate online --quarantine") == 1


def test_it_can_be_ended(app: Sequent, connection: Connection) -> None:
    ids = place_orders(app, range(5))
    app.view_schema.online(quarantine=True)
    poison(app, ids[1])
    with pytest.raises(ProjectionFailed):
        app.view_schema.online(quarantine=False)


def test_more_than_the_limit_stops(app: Sequent, connection: Connection) -> None:
    ids = place_orders(app, range(10))
    for order in ids[:3]:
        poison(app, order)
    with pytest.raises(ProjectionFailed, match="quarantine-limit is 2"):
        app.view_schema.online(quarantine=True, quarantine_limit=2)
    assert len(set_aside(app)) == 2
    app.view_schema.online(quarantine=True, quarantine_limit=3)
    assert len(set_aside(app)) == 3


@pytest.mark.parametrize("is_helped", [True, False], ids=["beside the command", "alone"])
def test_workers_of_their_own_do_the_same(
    store_database_url: str, connection: Connection, is_helped: bool
) -> None:
    with shop(store_database_url, ShopFailing, workers=2) as app:
        ids = place_orders(app, range(30))
        for order in ids[3:12:4]:
            poison(app, order)
        patch = pytest.MonkeyPatch()
        with patch.context() as context:
            # A command that is one of the workers checks the orderings meanwhile, and meets those events first.
            context.setattr("sequent_py.replay.replayer.INLINE_EVENTS", int(is_helped))
            context.setattr("sequent_py.replay.replayer.HELPED_TIMES", 1_000_000)
            app.view_schema.online(quarantine=True, group_target_events=20)
        assert set(set_aside(app)) == set(ids[3:12:4])
        assert actual_rows(connection, "_1") == without(expected_rows(connection), *ids[3:12:4])


def test_a_failure_behind_the_closed_gate_promotes_nothing(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place_orders(app, range(5))
    app.view_schema.online(quarantine=True)
    poison(app, ids[1])
    with pytest.raises(AggregatesQuarantined):
        app.view_schema.offline()
    status = app.view_schema.status()
    assert (status.state, status.live_version) == ("online_done", 0)
    place_orders(app, [30])
    monkeypatch.setattr(FailingProjector, "is_mended", True)
    app.view_schema.online()
    app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def test_abort_forgets_them(app: Sequent) -> None:
    [order] = place_orders(app, [1])
    poison(app, order)
    app.view_schema.online(quarantine=True)
    app.view_schema.abort()
    assert set_aside(app) == []


class TestAccepted:
    @pytest.mark.parametrize("fails_in", ["the first pass", "a window"])
    def test_rows_stay_the_good_prefix_appends_go_on_and_refold_makes_them_whole(
        self,
        app: Sequent,
        connection: Connection,
        store_database_url: str,
        monkeypatch: pytest.MonkeyPatch,
        fails_in: str,
    ) -> None:
        ids = place_orders(app, range(5))
        if fails_in == "the first pass":
            poison(app, ids[1])
        app.view_schema.online(quarantine=True)
        prefix = [row for row in actual_rows(connection, "_1")["order_records"] if row[0] == ids[1]]
        assert len(prefix) == (0 if fails_in == "the first pass" else 1)
        if fails_in == "a window":
            poison(app, ids[1])
            app.view_schema.online()
        with pytest.raises(AggregatesQuarantined):
            app.view_schema.offline(accept_quarantined=[ids[0]])
        report = app.view_schema.offline(accept_quarantined=[ids[1]])
        assert [item.aggregate_id for item in report.accepted_quarantined] == [ids[1]]
        [item] = app.view_schema.status().quarantined
        assert item.accepted_at is not None

        def rows_of_it() -> list[tuple[Any, ...]]:
            return [row for row in actual_rows(connection)["order_records"] if row[0] == ids[1]]

        assert rows_of_it() == prefix
        app.store.append(ids[1], [LineAdded(product="live", cents=4)])
        app.store.append(ids[2], [LineAdded(product="live", cents=4)])
        assert rows_of_it() == prefix
        assert without(actual_rows(connection), ids[1]) == without(expected_rows(connection), ids[1])
        with pytest.raises(ProjectionFailed):
            app.aggregates.refold([ids[1]])
        assert rows_of_it() == prefix
        monkeypatch.setattr(FailingProjector, "is_mended", True)
        with shop(store_database_url, ShopFailing) as elsewhere:
            assert elsewhere.aggregates.refold([ids[1]]).released == 1
        assert set_aside(app) == []
        assert actual_rows(connection) == expected_rows(connection)
        # This process read before that the aggregate is left behind.
        app.store.append(ids[1], [LineAdded(product="whole again", cents=4)])
        assert actual_rows(connection) == expected_rows(connection)

    def test_doctor_and_check_name_it_until_it_is_whole(
        self, app: Sequent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = place_orders(app, range(3))
        poison(app, ids[1])
        app.view_schema.online(quarantine=True)
        assert "left behind" not in {it.subject for it in examine(app).findings}
        app.view_schema.offline(accept_quarantined=[ids[1]])
        [finding] = [it for it in examine(app).findings if it.subject == "left behind"]
        assert finding.verdict is Verdict.NOTICE
        assert (
            f"1 aggregate was left behind in line_records, order_records, as was accepted: {ids[1]}"
            in finding.message
        )
        assert finding.remedy.endswith(f"sequent aggregates refold {ids[1]}")
        check = app.view_schema.check()
        assert check.is_current
        assert check.notices == (f"{finding.message} {finding.remedy}",)
        assert check.notices[0] in str(list(describe_check(check)))
        monkeypatch.setattr(FailingProjector, "is_mended", True)
        app.aggregates.refold([ids[1]])
        assert "left behind" not in {it.subject for it in examine(app).findings}
        assert app.view_schema.check().notices == ()

    def test_golive_asks_for_the_name_too(self, app: Sequent, connection: Connection) -> None:
        ids = place_orders(app, range(5))
        app.view_schema.online(quarantine=True)
        poison(app, ids[1])
        with pytest.raises(AggregatesQuarantined, match=str(ids[1])):
            app.view_schema.golive()
        assert app.view_schema.status().state == "online_done"
        report = app.view_schema.golive(accept_quarantined=[ids[1]])
        assert [item.aggregate_id for item in report.accepted_quarantined] == [ids[1]]
        assert without(actual_rows(connection), ids[1]) == without(expected_rows(connection), ids[1])

    def test_after_a_rollback_the_old_tables_still_hold_the_prefix(
        self,
        app: Sequent,
        connection: Connection,
        store_database_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        ids = place_orders(app, range(5))
        app.view_schema.online(quarantine=True)
        poison(app, ids[1])
        app.view_schema.online()
        app.view_schema.offline(accept_quarantined=[ids[1]])
        prefix = [row for row in actual_rows(connection)["order_records"] if row[0] == ids[1]]
        assert len(prefix) == 1
        with shop(store_database_url, Shop2) as newer:
            newer.view_schema.online()
            newer.view_schema.offline()
            newer.store.append(ids[1], [LineAdded(product="newer", cents=2)])
            newer.store.append(ids[2], [LineAdded(product="newer", cents=2)])
        app.view_schema.rollback()
        rows = actual_rows(connection)
        assert [row for row in rows["order_records"] if row[0] == ids[1]] == prefix
        assert without(rows, ids[1]) == without(expected_rows(connection), ids[1])
        monkeypatch.setattr(FailingProjector, "is_mended", True)
        app.aggregates.refold([ids[1]])
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_process_that_starts_later_leaves_it_alone_as_well(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        ids = place_orders(app, range(3))
        poison(app, ids[1])
        app.view_schema.online(quarantine=True)
        app.view_schema.offline(accept_quarantined=[ids[1]])
        with shop(store_database_url, ShopFailing) as later:
            later.store.append(ids[1], [OrderPlaced(customer="again")])
            assert set_aside(later) == [ids[1]]
        assert ids[1] not in {row[0] for row in actual_rows(connection)["order_records"]}

    def test_a_look_that_failed_once_is_repeated(
        self, app: Sequent, connection: Connection, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = place_orders(app, range(3))
        poison(app, ids[1])
        app.view_schema.online(quarantine=True)
        app.view_schema.offline(accept_quarantined=[ids[1]])
        with shop(store_database_url, ShopFailing) as later:
            with monkeypatch.context() as patched:
                patched.setattr("sequent_py.replay.quarantine.Quarantine.unprojected", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    later.store.append(ids[0], [LineAdded(product="first", cents=1)])
            later.store.append(ids[1], [OrderPlaced(customer="again")])
        assert ids[1] not in {row[0] for row in actual_rows(connection)["order_records"]}

    def test_a_version_that_was_built_again_is_looked_at_again(
        self, connection: Connection, store_database_url: str
    ) -> None:
        with (
            shop(store_database_url) as plain,
            shop(store_database_url, Failing2) as process,
            shop(store_database_url, Failing2) as operator,
        ):
            ids = place_orders(plain, range(4))
            for app in (plain, operator):
                app.view_schema.online()
                app.view_schema.golive()
            process.store.append(ids[0], [LineAdded(product="first", cents=1)])
            plain.view_schema.rollback()
            poison(plain, ids[1])
            plain.view_schema.prune(version=2)
            operator.view_schema.online(quarantine=True)
            operator.view_schema.golive(accept_quarantined=[ids[1]])
            # Seen from this process, version 2 has been live all the time.
            process.store.append(ids[1], [OrderPlaced(customer="again")])
            process.store.append(ids[0], [LineAdded(product="second", cents=2)])
        assert ids[1] not in {row[0] for row in actual_rows(connection)["order_records"]}
        assert without(actual_rows(connection), ids[1]) == without(expected_rows(connection), ids[1])


class TestAcceptedBesideTablesThatCannotBeToldApart:
    def test_what_was_left_behind_is_folded_anew_and_the_others_are_named(
        self, app: Sequent, connection: Connection, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = place_orders(app, range(4))
        poison(app, ids[1])
        app.view_schema.online(quarantine=True)
        app.view_schema.golive(accept_quarantined=[ids[1]])
        with shop(store_database_url, Products2) as newer:
            newer.view_schema.online()
            newer.view_schema.golive()
            monkeypatch.setattr(FailingProjector, "is_mended", True)
            report = newer.aggregates.refold([ids[1]])
            assert report.released == 1
            assert [item.projectors for item in report.not_folded] == [("ProductProjector",)]
            assert set_aside(newer) == []
            assert actual_rows(connection) == expected_rows(connection)
            newer.store.append(ids[1], [LineAdded(product="whole again", cents=4)])
            assert actual_rows(connection) == expected_rows(connection)

    def test_what_was_left_behind_in_them_is_refused_and_stays_as_it_was(
        self, connection: Connection, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with shop(store_database_url, Products1) as app:
            ids = place_orders(app, range(4))
            poison(app, ids[1])
            app.view_schema.online(quarantine=True)
            app.view_schema.golive(accept_quarantined=[ids[1]])
            before = actual_rows(connection)
            monkeypatch.setattr(FailingProjector, "is_mended", True)
            with pytest.raises(MigrationError, match=rf"{ids[1]} was left behind in .*product_records"):
                app.aggregates.refold([ids[0], ids[1]])
            assert actual_rows(connection) == before
            assert set_aside(app) == [ids[1]]
            # One that was not left behind: what can be folded anew is.
            assert app.aggregates.refold([ids[0]]).inserted_rows["line_records"] == 3


class TestAcceptedAndRolledBack:
    """Version 1 left an aggregate behind in both tables; version 2 built the orders anew, whole, and version 3 both."""

    @pytest.fixture
    def three(
        self, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[tuple[list[Sequent], UUID]]:
        with ExitStack() as stack:
            apps = [
                stack.enter_context(shop(store_database_url, declared))
                for declared in (ShopFailing, Orders2, Both3)
            ]
            ids = place_orders(apps[0], range(4))
            poison(apps[0], ids[1])
            apps[0].view_schema.online(quarantine=True)
            apps[0].view_schema.golive(accept_quarantined=[ids[1]])
            monkeypatch.setattr(FailingProjector, "is_mended", True)
            yield apps, ids[1]

    def test_a_kept_table_still_lacks_what_was_re_folded_in_those_that_served(
        self, connection: Connection, three: tuple[list[Sequent], UUID]
    ) -> None:
        (first, second, _), order = three
        second.view_schema.online()
        second.view_schema.golive()
        assert second.aggregates.refold([order]).released == 1
        assert actual_rows(connection) == expected_rows(connection)
        assert set_aside(second) == []
        first.view_schema.rollback()
        assert set_aside(first) == [order]
        first.store.append(order, [LineAdded(product="late", cents=3)])
        rows, expected = actual_rows(connection), expected_rows(connection)
        assert rows["line_records"] == expected["line_records"]
        assert rows["order_records"] == without(expected, order)["order_records"]
        assert first.aggregates.refold([order]).released == 1
        assert actual_rows(connection) == expected_rows(connection)
        assert set_aside(first) == []

    def test_what_is_whole_in_one_returning_table_becomes_whole_in_all(
        self, connection: Connection, three: tuple[list[Sequent], UUID]
    ) -> None:
        (_, second, third), order = three
        for app in (second, third):
            app.view_schema.online()
            app.view_schema.golive()
        third.store.append(order, [LineAdded(product="window", cents=5)])
        second.view_schema.rollback()
        assert actual_rows(connection) == expected_rows(connection)
        second.store.append(order, [LineAdded(product="late", cents=3)])
        assert actual_rows(connection) == expected_rows(connection)
        assert set_aside(second) == []


def test_invalid_payload_says_where(app: Sequent, connection: Connection) -> None:
    ids = place_orders(app, [1])
    connection.execute("UPDATE sequent_schema.events SET payload = '{}' WHERE sequence_number = 2")
    with pytest.raises(InvalidPayload, match=str(ids[0])):
        app.view_schema.online()
