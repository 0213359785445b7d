"""A primary and a physical standby of it, made by pg_basebackup; servers of their own, because a standby copies all databases."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from urllib.parse import parse_qs, quote, urlsplit

from sequent_py.testing.server import SERVER_OPTIONS, _Runner, roomy_memory, shared_server


@dataclass(frozen=True)
class Pair:
    """The administrator's URLs of both."""

    primary: str
    standby: str


@contextmanager
def primary_and_standby(binaries: Path | None = None) -> Iterator[Pair]:
    """Run both; the standby streams, and serves reads."""
    # Small: several of these may run beside one another. Commits are streamed at once.
    options = {
        **SERVER_OPTIONS,
        "shared_buffers": "32MB",
        "max_connections": "60",
        "wal_level": "replica",
        "wal_writer_delay": "10ms",
        "max_wal_size": "512MB",
    }
    name = uuid.uuid4().hex[:12]
    with shared_server(name, binaries=binaries, options=options, memory=roomy_memory()) as primary:
        home = Path(parse_qs(urlsplit(primary).query)["host"][0]).parent
        run = _Runner(home, Path((home / "started").read_text(encoding="utf-8")))
        data, socket = home / "standby", home / "standby-socket"
        for directory in (data, socket):
            directory.mkdir(mode=0o700 if directory == data else 0o755)
            run.give(directory)
        # The slot keeps what the standby has not got while a test holds it back.
        run(
            "pg_basebackup", "-h", home / "socket", "-U", "postgres", "-D", data, "-R", "-X", "stream",
            "-C", "-S", "standby", "-c", "fast", "--no-sync",
        )  # fmt: skip
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"unix_socket_directories = '{socket}'\n")
            file.write("max_standby_streaming_delay = 0\nwal_receiver_status_interval = 1s\n")
        run("pg_ctl", "-D", data, "-l", data / "log", "-w", "-t", 60, "start")
        try:
            yield Pair(primary, f"postgresql://postgres@/postgres?host={quote(str(socket), safe='')}")
        finally:
            with suppress(CalledProcessError):
                run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
            shutil.rmtree(data, ignore_errors=True)


def binaries_from_environment() -> Path | None:
    """Return the programs that the run was told to use, None for the wheel's."""
    named = os.environ.get("POSTGRES_BINARIES")
    return Path(named) if named else None
