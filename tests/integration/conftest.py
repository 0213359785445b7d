"""Fixtures of the integration tests: the shop on the test's store, and the administrator's connection to it. Files have others of these names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from shop import shop

from sequent_py import Sequent


@pytest.fixture
def connection(store_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The administrator's connection to the test's store, which commits every statement."""
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    """The shop on the test's store, in version 1, as it is deployed."""
    with shop(store_database_url) as app:
        yield app


@pytest.fixture
def admin(store_database_url: str) -> Iterator[Sequent]:
    """The same by the administrator's login."""
    with shop(store_database_url, as_login=False) as admin:
        yield admin
