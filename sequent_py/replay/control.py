"""Pause, limits and code of replays: owns ``replay_control``, one row. And the readings that limits are compared with.

Every function runs in the caller's transaction and commits nothing. Writers lock the row for an instant; those who begin a run do so in the
transaction that raises its epoch, so that limits and code are never another run's. A pause belongs to no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from sequent_py.database import for_parameters
from sequent_py.errors import InsufficientPrivileges
from sequent_py.replay.limits import UNLIMITED, LagHistory, Limits, Pause, Readings, Standing
from sequent_py.roles.rules import STATISTICS_ROLE

Connection = psycopg.Connection[Any]

_READINGS = """
    SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8,
        (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_catalog.pg_backend_pid()
           AND application_name NOT LIKE 'sequent %'),
        (pg_catalog.pg_current_wal_lsn() - '0/0')::bigint,
        (SELECT coalesce(pg_catalog.jsonb_object_agg(
             application_name || ' (backend ' || pid || ')',
             pg_catalog.jsonb_build_array((replay_lsn - '0/0')::bigint, extract(epoch FROM replay_lag)::float8)
         ), '{}') FROM pg_catalog.pg_stat_replication WHERE replay_lsn IS NOT NULL)
"""
"""The application's own sessions are called ``sequent``, commands and workers ``sequent …``. Backups have no ``replay_lsn``."""


class Control:
    """The row in one event store schema. Holds the schema's name and nothing else."""

    def __init__(self, schema: str) -> None:
        # For statements with parameters: each is given some, if only none.
        self._table = for_parameters(sql.Identifier(schema, "replay_control"))

    def _sql(self, template: LiteralString) -> sql.Composed:
        return sql.SQL(template).format(control=self._table)

    def read(self, connection: Connection) -> Standing:
        """Return what stands written."""
        row = connection.execute(
            self._sql(
                "SELECT paused_at, paused_by, pause_reason, rate, max_load, max_replica_lag_seconds, migration_id, epoch, code"
                " FROM {control}"
            ),
            (),
        ).fetchone()
        if row is None:
            return Standing()
        paused_at, paused_by, reason, rate, load, lag, migration_id, epoch, code = row
        pause = None if paused_at is None else Pause(paused_at, paused_by, reason)
        return Standing(pause, Limits(rate, load, lag), migration_id, epoch, code)

    def pause(self, connection: Connection, by: str, reason: str | None) -> Pause:
        """Let no group be begun from now on, by any worker; return the pause. One that there is stays as it is."""
        connection.execute(
            self._sql(
                "INSERT INTO {control} AS c (paused_at, paused_by, pause_reason) VALUES (clock_timestamp(), %s, %s)"
                " ON CONFLICT (id) DO UPDATE SET paused_at = excluded.paused_at, paused_by = excluded.paused_by,"
                " pause_reason = excluded.pause_reason WHERE c.paused_at IS NULL"
            ),
            (by, reason),
        )
        pause = self.read(connection).pause
        assert pause is not None
        return pause

    def resume(self, connection: Connection) -> Pause | None:
        """Let groups be begun again; return the pause that was, None when there was none."""
        before = self.read(connection).pause
        connection.execute(
            self._sql(
                "UPDATE {control} SET paused_at = NULL, paused_by = NULL, pause_reason = NULL WHERE paused_at IS NOT NULL"
            ),
            (),
        )
        return before

    def begin_run(
        self,
        connection: Connection,
        migration_id: int,
        epoch: int,
        *,
        limits: Limits = UNLIMITED,
        code: Mapping[str, object],
    ) -> None:
        """Write down the limits and the code of a run, in the transaction that makes it the current one."""
        values = (
            migration_id,
            epoch,
            limits.rate,
            limits.max_load,
            limits.max_replica_lag_seconds,
            Jsonb(code),
        )
        connection.execute(
            self._sql(
                "INSERT INTO {control} (migration_id, epoch, rate, max_load, max_replica_lag_seconds, code)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET migration_id = excluded.migration_id,"
                " epoch = excluded.epoch, rate = excluded.rate, max_load = excluded.max_load,"
                " max_replica_lag_seconds = excluded.max_replica_lag_seconds, code = excluded.code, free_at = NULL"
            ),
            values,
        )

    def reserve(self, connection: Connection, seconds: float) -> float:
        """Take a place in the line of the rate, ``seconds`` long; return how many seconds from now it begins."""
        row = connection.execute(
            self._sql(
                "UPDATE {control} SET free_at = greatest(free_at, clock_timestamp()) + make_interval(secs => %s)"
                " RETURNING extract(epoch FROM free_at - clock_timestamp())::float8 - %s"
            ),
            (seconds, seconds),
        ).fetchone()
        return 0.0 if row is None else max(float(row[0]), 0.0)

    def correct(self, connection: Connection, seconds: float) -> None:
        """Make a place longer, or shorter, by what its group turned out to be."""
        connection.execute(
            self._sql("UPDATE {control} SET free_at = free_at + make_interval(secs => %s)"), (seconds,)
        )


def take_readings(connection: Connection, limits: Limits, history: LagHistory) -> Readings:
    """Measure what the limits ask for, if anything."""
    if not limits.needs_statistics:
        return Readings()
    row = connection.execute(_READINGS).fetchone()
    assert row is not None
    now, active, written, replicas = row
    lags = history.look(now, written, {name: (lsn, lag) for name, (lsn, lag) in replicas.items()})
    return Readings(active, lags)


def require_statistics(connection: Connection) -> None:
    """Refuse limits that could not be watched: without the right, other logins' sessions look idle and replicas have no position.

    Raises
    ------
    InsufficientPrivileges
        With the GRANT.
    """
    row = connection.execute(
        "SELECT pg_catalog.pg_has_role(%s, 'USAGE'), current_user", (STATISTICS_ROLE,)
    ).fetchone()
    assert row is not None
    if not row[0]:
        login = sql.Identifier(row[1]).as_string(connection)
        raise InsufficientPrivileges(
            f"--max-load and --max-replica-lag need to see other logins' sessions, which {row[1]} may not.",
            remedy=f"Have a superuser run: GRANT {STATISTICS_ROLE} TO {login}",
        )
