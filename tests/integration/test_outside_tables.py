"""Managed tables with foreign keys to tables that stay: the cut-over comes for those first, and nobody fails for it."""

from __future__ import annotations

import itertools
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from rollback_shop import deployments
from shop import (
    SQL_DIRECTORY,
    LineAdded,
    OrderPlaced,
    Shop1,
    Shop2,
    actual_rows,
    expected_rows,
    order_id,
    shop,
)
from waiting import wait_until

from sequent_py import Sequent
from sequent_py.errors import MigrationError, SwapLockTimeout
from sequent_py.view_schema.tables.outside_tables import outside_tables, referenced_name

Connection = psycopg.Connection[Any]
CUSTOMERS = 4
KEY = (
    ",\n    CONSTRAINT {table}_customer%SUFFIX% FOREIGN KEY ({column}) REFERENCES public.customers (name)\n)"
)


class Both(Shop2):
    also_serves = (Shop1,)


def with_key(file: Path, column: str) -> None:
    """Let the table of a file refer to the customers."""
    text = file.read_text()
    end = text.rindex(")")
    file.write_text(text[:end].rstrip() + KEY.format(table=file.stem, column=column) + text[end + 1 :])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "sql"
    shutil.copytree(SQL_DIRECTORY, directory)
    with_key(directory / "order_records.sql", "customer")
    return directory


@pytest.fixture
def connection(connection: Connection) -> Connection:
    connection.execute("CREATE TABLE public.customers (name text PRIMARY KEY, hits int NOT NULL DEFAULT 0)")
    connection.execute("GRANT SELECT, UPDATE, REFERENCES ON public.customers TO PUBLIC")
    connection.execute("INSERT INTO public.customers SELECT 'c' || n FROM generate_series(0, 9) n")
    return connection


@contextmanager
def two_versions(url: str, directory: Path, *, as_login: bool = False) -> Iterator[tuple[Sequent, Sequent]]:
    """Version 1 live, and the code of version 2, which serves both."""
    with (
        shop(url, Shop1, as_login=as_login, sql_directory=directory) as old,
        shop(url, Both, as_login=as_login, sql_directory=directory) as new,
    ):
        for number in range(20):
            old.store.append(order_id(number), [OrderPlaced(customer=f"c{number % CUSTOMERS}")])
        old.view_schema.online()
        old.view_schema.offline()
        yield old, new


@contextmanager
def writers(url: str, app: Sequent, order: str = "update, append") -> Iterator[list[str]]:
    """Threads that write to the customers and append, in one transaction and in some order; yields their failures."""
    stop = threading.Event()
    failures: list[str] = []
    numbers = itertools.count(1000)
    done = [0] * CUSTOMERS

    def write(customer: int) -> None:
        generator, name = random.Random(customer), f"c{customer}"
        with psycopg.connect(url) as own:
            while not stop.is_set():
                try:
                    for step in order.split(", "):
                        match step:
                            case "read":
                                own.execute("TABLE public.customers")
                            case "update":
                                own.execute(
                                    "UPDATE public.customers SET hits = hits + 1 WHERE name = %s", (name,)
                                )
                            case _:
                                app.store.append(
                                    order_id(next(numbers)),
                                    [OrderPlaced(customer=name), LineAdded(product="p", cents=1)],
                                    connection=own,
                                )
                        stop.wait(generator.random() * 0.005)
                    own.commit()
                    done[customer] += 1
                except Exception as error:
                    failures.append(f"{type(error).__name__}: {error}")
                    own.rollback()
                stop.wait(0.02)

    threads = [threading.Thread(target=write, args=(customer,)) for customer in range(CUSTOMERS)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(done) or failures)
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


@pytest.mark.parametrize(
    ("deadlock_timeout", "order"),
    [
        ("1s", "update, append"),
        ("60ms", "update, append"),
        ("1s", "append, update"),
        ("1s", "read, update, append"),
    ],
)
def test_writers_of_a_table_that_is_referred_to_neither_fail_nor_keep_a_cut_over_out(
    store_database_url: str,
    connection: Connection,
    directory: Path,
    deadlock_timeout: str,
    order: str,
) -> None:
    database = sql.Identifier(connection.info.dbname)
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET deadlock_timeout = {}").format(database, sql.Literal(deadlock_timeout))
    )
    with two_versions(store_database_url, directory) as (old, new):
        with writers(store_database_url, new, order) as failures:
            new.view_schema.online()
            new.view_schema.golive(lock_budget_seconds=15)
            old.view_schema.rollback(lock_budget_seconds=15)
            new.view_schema.rollback(lock_budget_seconds=15)
        assert failures == []
        assert actual_rows(connection) == expected_rows(connection)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute("DELETE FROM public.customers WHERE name = 'c1'")
        connection.execute("DELETE FROM public.customers WHERE name = 'c9'")


def test_a_closed_gate_and_writers_of_a_table_that_is_referred_to(
    store_database_url: str, connection: Connection, directory: Path
) -> None:
    with (
        two_versions(store_database_url, directory) as (_, new),
        writers(store_database_url, new) as failures,
    ):
        new.view_schema.online()
        new.view_schema.offline(lock_budget_seconds=15)
    assert [failure for failure in failures if "MaintenanceModeActive" not in failure] == []


@pytest.mark.parametrize("command", ["golive", "offline"])
@pytest.mark.parametrize("statement", ["UPDATE public.customers SET hits = 0", "TABLE public.customers"])
def test_who_holds_a_table_that_is_referred_to_is_named_with_it(
    store_database_url: str, connection: Connection, directory: Path, command: str, statement: str
) -> None:
    with (
        two_versions(store_database_url, directory) as (_, new),
        psycopg.connect(store_database_url, application_name="by hand") as holder,
    ):
        new.view_schema.online()
        holder.execute(statement.encode())
        with pytest.raises(SwapLockTimeout) as caught:
            getattr(new.view_schema, command)(lock_budget_seconds=0.5)
        assert "public.customers held by" in str(caught.value)
        assert f"pid {holder.info.backend_pid}" in str(caught.value)
        assert "by hand" in str(caught.value)
        holder.rollback()
        getattr(new.view_schema, command)()


def test_a_role_that_may_not_lock_what_it_refers_to_is_told_of_the_right(
    store_database_url: str, connection: Connection, directory: Path
) -> None:
    connection.execute("REVOKE UPDATE ON public.customers FROM PUBLIC")
    with (
        two_versions(store_database_url, directory, as_login=True) as (_, new),
        psycopg.connect(store_database_url) as holder,
    ):
        new.view_schema.online()
        # No writer, whom the trial of the table files would meet first.
        holder.execute("TABLE public.customers")
        with pytest.raises(SwapLockTimeout, match=r"public.customers") as caught:
            new.view_schema.golive(lock_budget_seconds=0.5)
        assert "ON public.customers" in caught.value.remedy
        holder.rollback()
        new.view_schema.golive()


def test_a_last_window_that_is_written_in_place_is_not_kept_from_the_table_that_it_refers_to(
    store_database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """The lines, which nobody manages in version 2, serve again under their own name; the orders are swapped."""
    connection.execute("INSERT INTO public.customers VALUES ('p0')")
    with deployments(store_database_url, tmp_path) as deployed, ExitStack() as stack:
        with_key(tmp_path / "old_sql" / "line_records.sql", "product")
        for name in ("old_sql", "new_sql"):
            with_key(tmp_path / name / "order_records.sql", "customer")

        def write(version: int, numbers: range) -> None:
            for number in numbers:
                events = [OrderPlaced(customer="c1"), LineAdded(product="p0", cents=1)]
                deployed[version].store.append(order_id(number), events)

        deployed.migrate(1)
        write(1, range(5))
        deployed.migrate(2)
        write(2, range(5, 10))
        plan = deployed[1].view_schema.rollback_plan()
        assert plan.in_place == ("line_records",)
        stop = threading.Event()
        failures: list[str] = []

        def go_on() -> None:
            for number in itertools.count(100):
                if stop.is_set():
                    return
                try:
                    write(2, range(number, number + 1))
                except Exception as error:
                    failures.append(type(error).__name__)
                    return

        thread = threading.Thread(target=go_on)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        deployed[1].view_schema.rollback(lock_budget_seconds=20)
        stop.set()
        thread.join(20)
        # The code of version 2 ends with the cut-over, and by nothing else.
        assert failures in ([], ["VersionMismatch"])
        deployed.check(1)


def test_dropping_a_table_makes_nobody_wait_for_long_who_uses_what_it_refers_to(
    store_database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """The lines still serve readers in version 2, which does not manage them any more; their foreign key goes with them."""
    with (
        deployments(store_database_url, tmp_path) as deployed,
        psycopg.connect(store_database_url, application_name="by hand") as holder,
        psycopg.connect(store_database_url, autocommit=True) as reader,
    ):
        with_key(tmp_path / "old_sql" / "line_records.sql", "product")
        deployed.migrate(1)
        deployed.migrate(2)
        holder.execute("TABLE public.customers")
        failures: list[str] = []

        def prune() -> None:
            with pytest.raises(MigrationError) as caught:
                deployed[2].view_schema.prune(keep=0, orphaned=True)
            failures.append(str(caught.value))

        thread = threading.Thread(target=prune)
        thread.start()
        longest = 0.0
        while thread.is_alive():
            begun = time.monotonic()
            reader.execute("TABLE public.customers")
            longest = max(longest, time.monotonic() - begun)
            thread.join(0.01)
        assert 0 < longest < 2, "the drop itself waits for 5 s in all"
        [failure] = failures
        assert f"backend {holder.info.backend_pid}" in failure
        assert "on public.customers, which they refer to" in failure
        holder.rollback()
        assert "line_records" in deployed[2].view_schema.prune(keep=0, orphaned=True).dropped_tables


HOSTILE = ("plain", "Up Per", 'q"uote', "REFERENCES x(", "p.oint", "%s", "ünï")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_key_refers_to_is_read_from_its_definition_whatever_it_is_called(
    store_database_url: str, name: str
) -> None:
    with psycopg.connect(store_database_url) as connection:
        for schema in ("stays", name):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            connection.execute(
                sql.SQL("CREATE TABLE {} ({} int PRIMARY KEY)").format(
                    sql.Identifier(schema, name), sql.Identifier(name)
                )
            )
        connection.execute(
            sql.SQL(
                "CREATE TABLE t ({0} int, n int REFERENCES {1}, FOREIGN KEY ({0}) REFERENCES {2})"
            ).format(sql.Identifier(name), sql.Identifier("stays", name), sql.Identifier(name, name))
        )
        connection.execute("SET search_path = ''")
        rows = connection.execute(
            "SELECT pg_get_constraintdef(oid), confrelid FROM pg_constraint WHERE conrelid = 'public.t'::regclass AND contype = 'f'"
        ).fetchall()
        for definition, oid in rows:
            assert connection.execute(
                "SELECT to_regclass(%s)::oid", (referenced_name(definition),)
            ).fetchone() == (oid,)
        found = outside_tables(connection, "public", leaving=["t"], replaced=["t"], managed=[], suspended=[])
        assert sorted((item.schema, item.name, item.is_left) for item in found) == sorted(
            (schema, name, True) for schema in ("stays", name)
        )
