"""Kept connections: a few that an engine's pool has handed over for good, for appends to be spared its check-out and check-in.

A quarter of the functions that an append runs through would be those. So whoever is through with one may keep it here, up to
:data:`MOST_KEPT`; when none is idle, the pool is asked as ever. They count against no limit of the pool; they are closed when the engine is disposed of.

A forked child leaves alone what it inherited: the sessions are its parent's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MOST_KEPT = 5
"""As many as the pool keeps."""

C = TypeVar("C")


class KeptConnections(Generic[C]):
    """Connections of one engine that wait for their next user, who has each to himself. Safe for threads, and for forks at any moment."""

    def __init__(self, close: Callable[[C], None]) -> None:
        self._close = close
        self._share: _Share[C] = _Share(os.getpid())

    def take(self) -> C | None:
        """Return the one that was used last; None where none is idle."""
        share = self._share_of_process()
        with share.lock:
            return share.idle.pop() if share.idle else None

    def adopt(self, connection: C) -> bool:
        """Count a connection among those that are kept, and return whether there was room for it."""
        share = self._share_of_process()
        with share.lock:
            if len(share.own) >= MOST_KEPT:
                return False
            share.own.add(id(connection))
            return True

    def put_back(self, connection: C) -> None:
        """Keep one that was adopted for its next user; closed where the engine was disposed of meanwhile."""
        share = self._share_of_process()
        with share.lock:
            if id(connection) in share.own:
                share.idle.append(connection)
                return
        self._close(connection)

    def drop(self, connection: C) -> None:
        """Count a connection no longer, nor lend it: its user closes it."""
        share = self._share_of_process()
        with share.lock:
            share.own.discard(id(connection))
            if connection in share.idle:
                share.idle.remove(connection)

    def close(self) -> None:
        """Close what is idle, and keep none of those that are in use."""
        share = self._share_of_process()
        with share.lock:
            idle, share.idle = share.idle, []
            share.own.clear()
        for connection in idle:
            self._close(connection)

    def _share_of_process(self) -> _Share[C]:
        share, process = self._share, os.getpid()
        if share.process != process:
            # One for all threads of the child that come here first: nobody is ever to see the parent's.
            share = self._share = share.heirs.setdefault(process, _Share(process, share))
        return share


@dataclass(slots=True)
class _Share(Generic[C]):
    """What one process keeps."""

    process: int
    inherited: _Share[C] | None = None
    """The parent's: never used and never closed, nor is its lock, which another thread may have held."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: list[C] = field(default_factory=list)
    own: set[int] = field(default_factory=set)
    """The ids of all, idle or not, that were kept since the engine was last disposed of."""
    heirs: dict[int, _Share[C]] = field(default_factory=dict)
    """That of the child which this was copied into, by its process id."""
