"""Crash a command that runs in this process at the n-th thing it sends to the server, as far as the server can tell.

``terminate``: the backend that would run the statement is ended by an administrator; the command has to cope. ``kill``: from that statement on
nothing is sent any more, whatever the command tries while it unwinds, and then every connection is cut: a SIGKILL, as the server sees it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg


class Killed(BaseException):
    """Stands for the death of the process: nothing that handles exceptions may stop it."""


@dataclass
class Crash:
    """A crash to come; ``at`` says where it was, once it has been."""

    after: int
    is_kill: bool
    at: str | None = None
    sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connections: list[psycopg.Connection[Any]] = field(default_factory=list)

    def before(self, connection: psycopg.Connection[Any], generator: Any) -> None:
        with self._lock:
            self._connections.append(connection)
            self.sent += 1
            is_now = self.at is None and self.sent > self.after
            if is_now:
                frame = getattr(generator, "gi_frame", None)
                query = frame.f_locals.get("query") if frame is not None else None
                self.at = f"statement {self.sent}: {query if query is not None else generator}"[:200]
        if self.at is not None and self.is_kill:
            raise Killed(self.at)
        if is_now:
            _terminate(connection)

    def cut(self) -> None:
        """Close every connection that was used, as the death of a process does."""
        if self.at is not None and self.is_kill:
            for connection in self._connections:
                connection.close()


@contextmanager
def crashing(crash: Crash) -> Iterator[Crash]:
    """Let what this thread, or threads that it starts, sends meet the crash; threads that are there already are left alone."""
    exempt = set(threading.enumerate()) - {threading.current_thread()}
    original = psycopg.Connection.wait

    def wait(self: Any, generator: Any, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread() not in exempt:
            crash.before(self, generator)
        return original(self, generator, *arguments, **options)

    psycopg.Connection.wait = wait  # type: ignore[method-assign]
    try:
        yield crash
    finally:
        psycopg.Connection.wait = original  # type: ignore[method-assign]
        crash.cut()


def _terminate(connection: psycopg.Connection[Any]) -> None:
    own = psycopg.pq.PGconn.connect(connection.info.dsn.encode())
    own.exec_(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 10000)".encode())
    own.finish()
