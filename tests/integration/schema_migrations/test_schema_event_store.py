"""The event store's own schema, installed and upgraded by the integer migrator."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import psycopg
import pytest

from sequent_py.errors import SchemaMigrationError
from sequent_py.schema_migrations import choice, event_store
from sequent_py.schema_migrations.integer import IntegerMigrator

HOSTILE = 'we"ird %s sch:ema ü'


def test_installing_is_idempotent_and_asking_writes_nothing(db):
    before = db.dump()
    assert event_store.event_store_version(db.engine, "store") is None
    assert not event_store.is_installed(db.engine, "store")
    assert db.dump() == before
    applied = event_store.install_event_store(db.engine, "store")
    assert applied[0] == "001_event_store.py"
    assert (
        event_store.event_store_version(db.engine, "store")
        == event_store.latest_event_store_version()
        == len(applied)
    )
    assert event_store.is_installed(db.engine, "store")
    installed = db.dump()
    assert event_store.install_event_store(db.engine, "store") == []
    assert db.dump() == installed


@pytest.mark.parametrize("schema", ["store", HOSTILE])
def test_every_migration_can_be_taken_back_to_what_was_before(db, schema):
    migrator = IntegerMigrator(
        db.engine,
        event_store.event_store_migrations(),
        schema=schema,
        search_path=(schema, "pg_catalog"),
        create_schema=True,
    )
    dumps = {}
    for version in range(1, event_store.latest_event_store_version() + 1):
        migrator.migrate(version)
        dumps[version] = db.dump()
    for version in reversed(list(dumps)[:-1]):
        migrator.migrate(version)
        assert db.dump() == dumps[version], f"after taking {version + 1} back"


def test_the_schema_may_have_any_name_and_there_may_be_several(db):
    with psycopg.connect(db.url) as connection:
        assert event_store.install_event_store(connection, HOSTILE)
        assert event_store.install_event_store(connection, "plain")
        assert event_store.is_installed(connection, HOSTILE)
    counts = dict(
        db.sql("SELECT schemaname, count(*) FROM pg_tables WHERE schemaname NOT LIKE 'pg%' GROUP BY 1")
    )
    assert counts[HOSTILE] == counts["plain"] > 3
    assert db.all_tables == set()


def test_an_older_store_is_upgraded_in_place(db, files, monkeypatch: pytest.MonkeyPatch):
    files.write({"001_x": "def up(op):\n    op.run('CREATE TABLE kept AS SELECT 1 AS one')\n"})
    monkeypatch.setattr(event_store, "event_store_migrations", lambda: files.path)
    assert event_store.install_event_store(db.engine, "store") == ["001_x.py"]
    files.write(
        {
            "002_y": "def up(op):\n    op.run(f'CREATE VIEW seen AS SELECT one FROM {op.event_store_schema}.kept')\n"
        }
    )
    assert not event_store.is_installed(db.engine, "store")
    assert event_store.event_store_version(db.engine, "store") == 1
    assert event_store.install_event_store(db.engine, "store") == ["002_y.py"]
    assert db.sql("SELECT one FROM store.seen") == [(1,)]


def test_a_newer_store_is_refused(db, files, monkeypatch: pytest.MonkeyPatch):
    files.write({"001_x": "def up(op):\n    pass\n", "002_y": "def up(op):\n    pass\n"})
    monkeypatch.setattr(event_store, "event_store_migrations", lambda: files.path)
    event_store.install_event_store(db.engine, "store")
    files.remove("002_y")
    assert not event_store.is_installed(db.engine, "store")
    with pytest.raises(
        SchemaMigrationError, match=r"made by a newer version of sequent-py.*Upgrade sequent-py"
    ):
        event_store.install_event_store(db.engine, "store")


def test_a_failing_installation_leaves_the_version_it_reached(db, files, monkeypatch: pytest.MonkeyPatch):
    files.write(
        {
            "001_x": "def up(op):\n    op.run('CREATE TABLE x ()')\n",
            "002_y": "def up(op):\n    raise ArithmeticError\n",
        }
    )
    monkeypatch.setattr(event_store, "event_store_migrations", lambda: files.path)
    with pytest.raises(ArithmeticError):
        event_store.install_event_store(db.engine, "store")
    assert event_store.event_store_version(db.engine, "store") == 1


def test_it_is_tracked_apart_from_the_projects_own_migrations(db, files):
    choice.run(db.engine, files.tables("001_a"))
    event_store.install_event_store(db.engine, "store")
    assert db.version == 1
    choice.run(db.engine, files.path, 0)
    assert event_store.is_installed(db.engine, "store")


def test_inside_a_callers_transaction_the_caller_commits(db):
    with psycopg.connect(db.url) as connection:
        connection.execute("SELECT 1")
        event_store.install_event_store(connection, "store")
        assert event_store.is_installed(connection, "store")
        connection.rollback()
        assert not event_store.is_installed(connection, "store")


def _install(url: str, results: multiprocessing.Queue[int]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        results.put(len(event_store.install_event_store(connection, "store")))


def test_two_processes_that_install_at_once_take_turns(db):
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=_install, args=(db.url, results)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert counts == [0, event_store.latest_event_store_version()]


def test_the_packages_migrations_are_found():
    assert (event_store.event_store_migrations() / "001_event_store.py").is_file()
    assert isinstance(event_store.event_store_migrations(), Path)
