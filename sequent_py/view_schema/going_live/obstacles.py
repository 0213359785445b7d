"""What is in the way of one cut-over, while it looks for its locks: watched without a lock and in no queue, each transaction for as long as it is open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from sequent_py.errors import SwapLockTimeout
from sequent_py.progress import Progress
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.tables.autovacuum import make_way
from sequent_py.view_schema.tables.blockers import Blocker, blockers, listed, row_holders
from sequent_py.view_schema.tables.outside_tables import OutsideTable

Connection = psycopg.Connection[Any]

LONG_TRANSACTION_SECONDS = 0.1
"""What has been open for longer, and for twice the lock timeout, is waited for without a queue behind us."""
POLL_SECONDS = 0.02


@dataclass
class Obstacles:
    """Those who hold ``tables`` of the view schema, what is needed of ``outside``, the gate, or rows that the cut-over writes."""

    context: Context
    connection: Connection
    progress: Progress
    tables: Sequence[str]
    outside: Sequence[OutsideTable]
    command: str
    """The one to run again, for messages."""
    _first_seen: dict[str, float] = field(default_factory=dict)
    """By transaction; where we may not know how long it has been open, it has been since then."""
    _noted: str = ""

    def wait_for_long_ones(self, lock_timeout_seconds: float, deadline: float) -> list[Blocker]:
        """Wait until those that have been open for long have ended; return those that have not by ``deadline`` (of :func:`time.monotonic`)."""
        make_way(self.connection, self.context.config.view_schema, self.tables)
        threshold = max(LONG_TRANSACTION_SECONDS, 2 * lock_timeout_seconds)
        # Those of now, not those that have become long meanwhile: on a slow machine there would always be one.
        waiting_for = {item.writer.transaction for item in self._holders() if self._age(item) > threshold}
        while long := [item for item in self._holders() if item.writer.transaction in waiting_for]:
            if time.monotonic() > deadline:
                return long
            self.note("Waiting, without holding anybody up, for", long)
            time.sleep(POLL_SECONDS)
        return []

    def found(self) -> list[Blocker]:
        """Return everybody in the way now, those included who may have locked rows that the promotion writes; these are no reason to wait, for it may be others."""
        holders = self._holders()
        return holders + self._seen(row_holders(self.connection, event_store_schema=self.context.schema))

    def note(self, what: str, found: Sequence[Blocker]) -> None:
        """Say what is waited for, once per set of transactions rather than each time that one has grown older."""
        key = ",".join(sorted(self._first_seen))
        if key != self._noted:
            self._noted = key
            self.progress.note(f"{what}: {listed(found)}.")

    def timeout(self, found: Sequence[Blocker], budget_seconds: float, asked_for: str) -> SwapLockTimeout:
        """Return the error that names them, how to end them, and the lock that was asked for last (may be empty)."""
        pids = sorted({item.writer.pid for item in found if item.writer.pid is not None})
        ending = " ".join(f"SELECT pg_terminate_backend({pid});" for pid in pids)
        last = f" The last that was not to be had: {asked_for}." if asked_for else ""
        return SwapLockTimeout(
            f"The locks for the cut-over could not be had within {budget_seconds:g} s; nothing was swapped. In the way: {listed(found)}.{last}",
            remedy=f"Let them finish, or end them{f' ({ending})' if ending else ''}; then: sequent migrate {self.command}."
            f" --lock-timeout and --lock-budget give it more time, at the cost of those who wait behind it.{self._missing_right()}",
        )

    def _holders(self) -> list[Blocker]:
        found = blockers(
            self.connection,
            event_store_schema=self.context.schema,
            view_schema=self.context.config.view_schema,
            tables=self.tables,
            outside=self.outside,
        )
        now_open = {item.writer.transaction for item in found}
        self._first_seen = {key: since for key, since in self._first_seen.items() if key in now_open}
        return self._seen(found)

    def _seen(self, found: list[Blocker]) -> list[Blocker]:
        now = time.monotonic()
        for item in found:
            self._first_seen.setdefault(item.writer.transaction, now)
        return found

    def _age(self, item: Blocker) -> float:
        """For how many seconds a transaction has been open, as the server says, or, where we may not know, since we first saw it."""
        return max(item.writer.open_seconds, time.monotonic() - self._first_seen[item.writer.transaction])

    def _missing_right(self) -> str:
        """Say which tables could only be locked by the swap itself, behind the gate, where it is harder."""
        names = ", ".join(item.described for item in self.outside if not item.may_lock)
        if not names:
            return ""
        right = "MAINTAIN" if self.connection.info.server_version >= 170000 else "UPDATE"
        return f" It is easier for a role that may lock the tables that foreign keys refer to before the gate: GRANT {right} ON {names}."
