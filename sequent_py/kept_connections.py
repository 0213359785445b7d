"""Kept connections: a few that an engine's pool has handed over for good, for appends to be spared its check-out and check-in.

A quarter of the functions that an append runs through would be those. So whoever is through with one may keep it here, up to
:data:`MOST_KEPT`; when none is idle, the pool is asked as ever. They count against no limit of the pool; they are closed when the engine is disposed of.

A forked child leaves alone what it inherited: the sessions are its parent's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

MOST_KEPT = 5
"""As many as the pool keeps."""

C = TypeVar("C")


class KeptConnections(Generic[C]):
    """Connections of one engine that wait for their next user, who has each to himself. Safe for threads."""

    def __init__(self, close: Callable[[C], None]) -> None:
        self._close = close
        self._inherited: list[list[C]] = []
        """Never used and never closed, in a forked child."""
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[C] = []
        self._own: set[int] = set()
        """The ids of all, idle or not, that were kept since the engine was last disposed of."""

    def take(self) -> C | None:
        """Return the one that was used last; None where none is idle."""
        if self._process != os.getpid():
            self._inherited.append(self._idle)
            self._begin()
        with self._lock:
            return self._idle.pop() if self._idle else None

    def adopt(self, connection: C) -> bool:
        """Count a connection among those that are kept, and return whether there was room for it."""
        with self._lock:
            if len(self._own) >= MOST_KEPT:
                return False
            self._own.add(id(connection))
            return True

    def put_back(self, connection: C) -> None:
        """Keep one that was adopted for its next user; closed where the engine was disposed of meanwhile."""
        with self._lock:
            if id(connection) in self._own:
                self._idle.append(connection)
                return
        self._close(connection)

    def drop(self, connection: C) -> None:
        """Count a connection no longer, nor lend it: its user closes it."""
        with self._lock:
            self._own.discard(id(connection))
            if connection in self._idle:
                self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle, and keep none of those that are in use."""
        if self._process != os.getpid():
            return
        with self._lock:
            idle, self._idle = self._idle, []
            self._own.clear()
        for connection in idle:
            self._close(connection)
