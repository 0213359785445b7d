"""The server that a benchmark runs against: a throw-away one, or that of SEQUENT_DATABASE_URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sequent_py.testing.server import fresh_database, shared_server

SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "jit": "off",
    "listen_addresses": "''",
    "max_connections": "100",
}
"""Checkpoints in the middle of one contender would be charged to it alone; fsync off, because disks here are shared."""
DURABLE_SETTINGS: Mapping[str, str] = {**SETTINGS, "fsync": "on", "synchronous_commit": "on"}


@contextmanager
def server(settings: Mapping[str, str] = SETTINGS) -> Iterator[str]:
    """Yield an administrator's URL; one by one, for servers of one process would be the same."""
    # The command line reads it too, and would take every database of ours for that one.
    named = os.environ.pop("SEQUENT_DATABASE_URL", None)
    if named:
        yield named
        return
    with shared_server(f"bench{os.getpid()}", options=settings) as url:
        yield url


@contextmanager
def database(settings: Mapping[str, str] = SETTINGS) -> Iterator[str]:
    """Yield the URL of a fresh database."""
    with server(settings) as url, fresh_database(url, f"sequent_bench_{os.getpid()}") as fresh:
        yield fresh


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
