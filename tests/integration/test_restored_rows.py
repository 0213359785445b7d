"""The gate's row and that of ``append_order``: who misses them, and ``sequent init``, which puts them back."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from login_roles import login_url
from shop import (
    LineAdded,
    Shop2,
    actual_rows,
    expected_rows,
    live_shop,
    order_id,
    place_orders,
    shop,
)
from wallets import open_wallets, wallets

from sequent_py import Sequent
from sequent_py.doctor import Finding, Verdict, examine
from sequent_py.errors import (
    InsufficientPrivileges,
    InvalidTransition,
    LostRow,
    MaintenanceModeActive,
    StoreNotInstalled,
)
from sequent_py.view_schema.going_live import golive as golive_module

Connection = psycopg.Connection[Any]
pytestmark = pytest.mark.store(made_by=live_shop(4))
GATE = "SELECT live_version, serial_appends, maintenance FROM sequent_schema.gate"
DELETE_LINE = "DELETE FROM sequent_schema.append_order"


def problem(app: Sequent, subject: str) -> Finding:
    found = {it.subject: it for it in examine(app).findings if it.verdict is Verdict.PROBLEM}
    return found[subject]


class TestGate:
    def test_it_is_put_back_closed_with_the_version_that_is_live(
        self, store_database_url: str, app: Sequent, admin: Sequent, connection: Connection
    ) -> None:
        with shop(store_database_url, Shop2) as second:
            second.view_schema.online()
            second.view_schema.offline()
        app.view_schema.rollback()
        before = connection.execute("SELECT cut_overs FROM sequent_schema.gate").fetchone()
        assert before is not None
        connection.execute("DELETE FROM sequent_schema.gate")
        with pytest.raises(StoreNotInstalled, match="lost the row of its gate"):
            place_orders(app, [10])
        assert "sequent init" in problem(app, "gate").remedy
        [said] = admin.restore_lost_rows()
        assert "version 1 is live" in said
        assert "sequent maintenance off" in said
        assert connection.execute(GATE).fetchone() == (1, False, True)
        after = connection.execute("SELECT cut_overs FROM sequent_schema.gate").fetchone()
        assert after is not None
        assert after[0] > before[0], "no process takes it for a count that it has seen"
        with pytest.raises(MaintenanceModeActive, match="lost its row"):
            place_orders(app, [10])
        admin.maintenance.off()
        place_orders(app, [10])
        assert actual_rows(connection) == expected_rows(connection)
        assert admin.restore_lost_rows() == ()

    @pytest.mark.store(made_by=None)
    def test_before_the_first_migration_it_is_version_0(
        self, store_database_url: str, admin: Sequent, connection: Connection
    ) -> None:
        connection.execute("DELETE FROM sequent_schema.gate")
        admin.restore_lost_rows()
        assert connection.execute(GATE).fetchone() == (0, False, True)

    @pytest.mark.store(made_by=None)
    def test_appends_are_serial_where_the_live_version_needs_it(
        self, store_database_url: str, connection: Connection
    ) -> None:
        with wallets(store_database_url) as app:
            app.view_schema.online()
            app.view_schema.offline()
            connection.execute("DELETE FROM sequent_schema.gate")
            with shop(store_database_url, as_login=False) as admin:
                admin.restore_lost_rows()
            assert connection.execute(GATE).fetchone() == (1, True, True)

    def test_without_the_history_nobody_knows_the_version(
        self, app: Sequent, admin: Sequent, connection: Connection
    ) -> None:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM sequent_schema.gate")
        connection.execute("DELETE FROM sequent_schema.view_migrations")
        with pytest.raises(LostRow, match="view_migrations has no row"):
            admin.restore_lost_rows()
        assert connection.execute(GATE).fetchone() is None

    def test_only_the_owner_puts_it_back(
        self, store_database_url: str, app: Sequent, connection: Connection
    ) -> None:
        connection.execute("DELETE FROM sequent_schema.gate")
        with pytest.raises(InsufficientPrivileges):
            app.restore_lost_rows()
        with shop(login_url(store_database_url, "web"), as_login=False) as web:
            assert web.restore_lost_rows() == (), "it may not even look"
        with shop(login_url(store_database_url, "admin"), as_login=False) as owner:
            assert len(owner.restore_lost_rows()) == 1

    def test_a_cut_over_during_which_it_goes_does_not_commit(
        self,
        store_database_url: str,
        app: Sequent,
        admin: Sequent,
        connection: Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        replay = golive_module._Golive._replay

        def replayed(self: Any, window: Any) -> None:
            replay(self, window)
            connection.execute("DELETE FROM sequent_schema.gate")

        monkeypatch.setattr(golive_module._Golive, "_replay", replayed)
        with shop(store_database_url, Shop2) as second:
            second.view_schema.online()
            with pytest.raises(StoreNotInstalled, match="lost the row of its gate"):
                second.view_schema.golive()
            admin.restore_lost_rows()
            admin.maintenance.off()
            assert second.view_schema.status().live_version == 1
            app.store.append(order_id(1), [LineAdded(product="p", cents=1)])
            monkeypatch.undo()
            second.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)


class TestAppendOrder:
    def test_doctor_finds_it_and_the_phases_are_refused_until_it_is_back(
        self, store_database_url: str, app: Sequent, admin: Sequent, connection: Connection
    ) -> None:
        connection.execute(DELETE_LINE)
        assert "sequent init" in problem(app, "append order").remedy
        with shop(store_database_url, Shop2) as second:
            for act in (
                second.view_schema.online,
                second.view_schema.offline,
                second.view_schema.golive,
                app.view_schema.rollback,
            ):
                with pytest.raises(LostRow, match="append_order has no row") as caught:
                    act()
                assert "sequent init" in caught.value.remedy
            [said] = admin.restore_lost_rows()
            assert "append_order" in said
            assert "verify" not in said
            second.view_schema.online()
        assert connection.execute("SELECT count(*) FROM sequent_schema.append_order").fetchone() == (1,)

    def test_a_swap_is_refused_where_it_went_meanwhile(
        self, store_database_url: str, app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        approach = golive_module._Golive._approach

        def approached(self: Any, window: Any) -> None:
            approach(self, window)
            connection.execute(DELETE_LINE)

        monkeypatch.setattr(golive_module._Golive, "_approach", approached)
        with shop(store_database_url, Shop2) as second:
            second.view_schema.online()
            with pytest.raises(LostRow, match="append_order"):
                second.view_schema.golive()
            status = second.view_schema.status()
        assert (status.state, status.live_version) == ("online_done", 1)

    @pytest.mark.store(made_by=None)
    def test_where_a_migration_needs_the_line_that_is_given_up_first(
        self, store_database_url: str, admin: Sequent, connection: Connection
    ) -> None:
        with wallets(store_database_url) as app:
            open_wallets(app, ["Ann"])
            app.view_schema.online()
            connection.execute(DELETE_LINE)
            with pytest.raises(InvalidTransition, match="may have missed events") as caught:
                admin.restore_lost_rows()
            assert "sequent migrate abort" in caught.value.remedy
            app.view_schema.abort()
            admin.restore_lost_rows()
            app.view_schema.online()
            app.view_schema.offline()
            connection.execute(DELETE_LINE)
            found = problem(app, "append order")
            assert "form no line" in found.message
            assert "sequent migrate verify --all" in found.remedy
            [said] = admin.restore_lost_rows()
            assert "sequent migrate verify --all" in said
