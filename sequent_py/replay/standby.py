"""Reading events from a physical standby, so that the primary only writes.

What a pass reads is fixed by its snapshots, and whether a transaction is visible in a snapshot is arithmetic that any server can do. So a standby gives
the same events as the primary as soon as it has replayed every transaction that ``until`` sees. It has when it shows the pass itself: a pass is
committed after its snapshot was taken, so its commit record comes later in the log than those of all that the snapshot sees. That needs no
position in the log (the primary's may lie beyond a page's header, where no record of an idle server ever ends), and no server but a copy of this one has that row.

Transactions that were in progress at ``until`` are filtered by the window's condition whether the standby has replayed them or not, and what was rolled back is visible nowhere.
An edit of events that is later than ``until`` and its note in ``event_edits`` are one transaction, so one statement sees both or neither: the aggregate
is left out, or is as ``until`` saw it, just as on the primary.

Declared projections are none of this: they are folded by statements that read and write in one, on the primary.

The standby may cancel a query that stands in the way of its replay (SQLSTATE 40001); the group is then begun anew. And it may be promoted: from then
on its events are another history, so whether it still is a standby is asked after a group was read and before it is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.errors import ConfigurationError, WorkerFailed
from sequent_py.replay.ledger import ClaimedGroup

Connection = psycopg.Connection[Any]

PATIENCE_SECONDS = 60.0
"""How long to wait for a standby that does not move at all. One that moves is waited for as long as it takes."""
_POLL_SECONDS = 0.1

READ_FROM_PRIMARY = (
    "Mend the standby, or run the same command without --read-from (standby_url); what is finished is kept."
)


class Standby:
    """The server behind a worker's reader."""

    def __init__(
        self,
        reader: Connection,
        schema: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._reader = reader
        self._passes = for_parameters(sql.Identifier(schema, "replay_passes"))
        self._patience_seconds, self._sleep = patience_seconds, sleep
        self._covered: set[tuple[int, int]] = set()

    def covers(self, claimed: ClaimedGroup) -> bool:
        """Whether every event of the group's pass is there."""
        key = (claimed.migration_id, claimed.pass_number)
        if key not in self._covered:
            row = self._reader.execute(
                sql.SQL("SELECT snapshot_until::text FROM {} WHERE migration_id = %s AND number = %s").format(
                    self._passes
                ),
                key,
            ).fetchone()
            if row is None:
                return False
            if row[0] != claimed.until:
                raise _not_ours("It has another pass of this number.")
            self._covered.add(key)
        return True

    def wait_for(self, claimed: ClaimedGroup) -> None:
        """Wait until the group's pass is there; in no transaction on the primary, so that nothing is held up.

        Raises
        ------
        WorkerFailed
            The standby does not move.
        ConfigurationError
            It is no standby any more.
        """
        moved_at, position = time.monotonic(), self._position()
        while not self.covers(claimed):
            self._sleep(_POLL_SECONDS)
            now = self._position()
            if now != position:
                moved_at, position = time.monotonic(), now
            elif time.monotonic() - moved_at > self._patience_seconds:
                raise WorkerFailed(
                    f"The standby does not have the events of this pass, and has replayed nothing for {self._patience_seconds:g} s"
                    f" (it is at {position}).",
                    remedy=READ_FROM_PRIMARY,
                )

    def require_standby(self) -> None:
        """Refuse a server that is not in recovery.

        Raises
        ------
        ConfigurationError
            It is a primary, or was promoted.
        """
        self._position()

    def _position(self) -> str:
        """Return how far the standby has replayed."""
        row = self._reader.execute(
            "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()::text"
        ).fetchone()
        assert row is not None
        if not row[0]:
            raise _not_ours("It is no standby, or was promoted: what is written there is another history.")
        return str(row[1])


def open_standby(reader: Connection, writer: Connection, schema: str) -> Standby:
    """Return the standby behind ``reader``.

    Raises
    ------
    ConfigurationError
        It is a primary, or not a copy of the writer's server.
    """
    standby = Standby(reader, schema)
    standby.require_standby()
    identifiers = [
        connection.execute("SELECT system_identifier FROM pg_catalog.pg_control_system()").fetchone()
        for connection in (reader, writer)
    ]
    if identifiers[0] != identifiers[1]:
        raise _not_ours("It is a copy of another server.")
    names = [connection.execute("SELECT current_database()").fetchone() for connection in (reader, writer)]
    if names[0] != names[1]:
        raise _not_ours("It is another database.")
    return standby


def _not_ours(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"Events cannot be read from the server that --read-from (standby_url) names. {why}",
        remedy=READ_FROM_PRIMARY,
    )
