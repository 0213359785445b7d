"""The server that test processes share: where its data live, and that nothing of it is left."""

from __future__ import annotations

import os
import uuid
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, LiteralString

import psycopg
import pytest
from standby_server import binaries_from_environment

from sequent_py.testing import server
from sequent_py.testing.server import (
    SERVER_OPTIONS,
    crash_server,
    fresh_database,
    roomy_memory,
    shared_server,
)

Room = namedtuple("Room", "f_bavail f_frsize")
OPTIONS = {**SERVER_OPTIONS, "synchronous_commit": "on", "shared_buffers": "16MB", "max_connections": "10"}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that the server may enter, who is somebody else where the tests run as root."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_data_in_memory_survive_the_servers_crash_and_go_with_their_last_user(memory: Path) -> None:
    binaries, run = binaries_from_environment(), uuid.uuid4().hex[:12]
    with (
        shared_server(run, binaries=binaries, options=OPTIONS, memory=memory) as url,
        shared_server(run, binaries=binaries, options=OPTIONS, memory=memory) as same_url,
        fresh_database(url, "kept") as database,
    ):
        assert same_url == url
        (data,) = memory.iterdir()
        execute(database, "CREATE TABLE t AS SELECT 1 AS a")
        assert Path(execute(database, "SHOW data_directory")).resolve() == data
        crash_server(url)
        assert execute(database, "SELECT a FROM t") == 1
    assert not list(memory.iterdir())
    assert not list(server._short_temporary_directory().glob(f"*{run}"))


def execute(url: str, statement: LiteralString) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None  # type: ignore[index]


@pytest.mark.parametrize("short_of", ["tmpfs", "memory"])
def test_data_go_to_memory_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch, short_of: str) -> None:
    room = server.ROOM_BYTES
    monkeypatch.setattr(os, "access", lambda _path, _mode: True)
    monkeypatch.setattr(os, "statvfs", lambda _path: Room(room // 4096, 4096))
    monkeypatch.setattr(server, "_available_memory_bytes", lambda: room)
    assert roomy_memory() == Path("/dev/shm")
    if short_of == "tmpfs":
        monkeypatch.setattr(os, "statvfs", lambda _path: Room(room // 4096 - 1, 4096))
    else:
        monkeypatch.setattr(server, "_available_memory_bytes", lambda: room - 1)
    assert roomy_memory() is None


def test_data_go_to_disk_where_no_memory_is_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_path: object) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(os, "statvfs", missing)
    assert roomy_memory() is None
