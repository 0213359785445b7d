"""Fixtures of the integration tests: what a test holds beside the application, on the database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest


@pytest.fixture
def connection(store_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The administrator's connection to the test's store, which commits every statement."""
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        yield connection
