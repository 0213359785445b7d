"""The server: its version, whether it takes writes, settings that matter, and the connections that are left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

from sequent_py.health.findings import Finding, notice, ok, problem

Connection = psycopg.Connection[Any]

NEWEST_TRIED_SERVER_VERSION = 18
"""The newest major version of PostgreSQL that the tests run on."""
CONNECTIONS_PER_WORKER = 2
"""A reader and a writer."""
CONNECTIONS_OF_THE_COORDINATOR = 3
"""Its own, one for looking around, and one to spare for whoever has to end something."""


def check_server(connection: Connection) -> Iterator[Finding]:
    """Say what the server is, and what about its settings matters to an event store."""
    major, minor = divmod(connection.info.server_version, 10_000)
    if major > NEWEST_TRIED_SERVER_VERSION:
        yield notice(
            "server",
            f"PostgreSQL {major}.{minor}; newer than this library has been tried on ({NEWEST_TRIED_SERVER_VERSION}).",
            "Look for a newer release: pip install -U sequent-py",
        )
    else:
        yield ok("server", f"PostgreSQL {major}.{minor}")
    yield from check_writable(connection)
    yield from _settings(connection)


def check_writable(connection: Connection) -> Iterator[Finding]:
    """Find a standby, and sessions that begin as ``replica``, which the guards of the events would let through."""
    row = connection.execute(
        "SELECT pg_is_in_recovery(), current_setting('session_replication_role'), current_user"
    ).fetchone()
    assert row is not None
    in_recovery, replication_role, user = row
    if in_recovery:
        yield problem(
            "server",
            "This is a standby: it takes no writes.",
            "Point database_url at the primary (target_session_attrs=read-write lets libpq choose).",
        )
    if replication_role == "replica":
        yield problem(
            "settings",
            f"Sessions of {user} begin with session_replication_role = replica: foreign keys and ordinary triggers do not fire in them.",
            "Take it back: ALTER ROLE … RESET session_replication_role, ALTER DATABASE … RESET session_replication_role",
        )


def check_connections(connection: Connection, *, workers: int) -> Iterator[Finding]:
    """Find out whether a phase with this many workers gets its connections."""
    needed = CONNECTIONS_PER_WORKER * workers + CONNECTIONS_OF_THE_COORDINATOR
    row = connection.execute(_CONNECTIONS).fetchone()
    assert row is not None
    limit, used, scope = int(row[0]), int(row[1]), str(row[2])
    free = max(limit - used, 0)
    if free < needed:
        fewer = max((free - CONNECTIONS_OF_THE_COORDINATOR) // CONNECTIONS_PER_WORKER, 0)
        yield problem(
            "connections",
            f"{workers} workers need {needed} connections, and of the {limit} that {scope} allows {free} are free.",
            f"Give --workers {fewer} (or workers in [tool.sequent]), close connections, or raise the limit.",
        )
    else:
        yield ok("connections", f"{free} of {limit} are free; {workers} workers need {needed}.")


def _settings(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        # What sessions begin with: this one has set some for itself.
        "SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name = ANY (%s)",
        [
            [
                "fsync",
                "full_page_writes",
                "synchronous_commit",
                "default_transaction_isolation",
                "default_transaction_read_only",
            ]
        ],
    ).fetchall()
    settings = dict(rows)
    if settings["fsync"] == "off" or settings["full_page_writes"] == "off":
        yield notice(
            "settings",
            "fsync or full_page_writes is off: a crash of the machine can damage events that were acknowledged.",
            "Turn both on, unless this is a throw-away server.",
        )
    if settings["synchronous_commit"] == "off":
        yield notice(
            "settings",
            "synchronous_commit is off: a crash of the server can lose the events that were acknowledged last.",
            "Turn it on for the logins that append, unless that is meant: ALTER ROLE … SET synchronous_commit = on",
        )
    if settings["default_transaction_isolation"] in ("repeatable read", "serializable"):
        yield notice(
            "settings",
            f"Transactions are {settings['default_transaction_isolation']} by default: appends without an expected_version that meet"
            " another one fail instead of trying again.",
            "ALTER ROLE … SET default_transaction_isolation = 'read committed' for the logins that append",
        )
    if settings["default_transaction_read_only"] == "on":
        yield problem(
            "settings",
            "Transactions are read-only by default: nothing can be appended.",
            "ALTER ROLE … RESET default_transaction_read_only, ALTER DATABASE … RESET default_transaction_read_only",
        )


# The tightest of three limits: the server's, the database's and the role's; -1 is none. What is reserved for superusers is left to them.
_CONNECTIONS = """
WITH used AS (
    SELECT count(*) AS server, count(*) FILTER (WHERE datname = current_database()) AS database,
           count(*) FILTER (WHERE usename = session_user) AS role
    FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'
), limits AS (
    SELECT (SELECT sum(setting::int * CASE name WHEN 'max_connections' THEN 1 ELSE -1 END) FROM pg_catalog.pg_settings
            WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')) AS amount, used.server, 'the server' AS scope FROM used
    UNION ALL
    SELECT d.datconnlimit, used.database, 'the database' FROM used, pg_catalog.pg_database d WHERE d.datname = current_database() AND d.datconnlimit >= 0
    UNION ALL
    SELECT r.rolconnlimit, used.role, 'the role' FROM used, pg_catalog.pg_roles r WHERE r.rolname = session_user AND r.rolconnlimit >= 0
)
SELECT amount, server, scope FROM limits ORDER BY amount - server LIMIT 1
"""
