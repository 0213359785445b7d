"""Which of a store's roles a connection works as.

Whatever a migration creates must belong to the migrator role and not to the login that happened to run it: the next login could not rename or
drop it. So connections of view migrations take the migrator's role for their session where the store has roles and the login may; the owner's
for repairs of the store itself. Where there are no roles, or the login is none of their members, nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.roles.catalog import recorded_roles
from sequent_py.roles.rules import RoleKind

Connection = psycopg.Connection[Any]


def assume(connection: Connection, schema: str, kind: RoleKind) -> str | None:
    """Take one of the store's roles for the session, if it has roles and the login may; return its name. For autocommit connections."""
    try:
        recorded = recorded_roles(connection, schema)
    except psycopg.errors.InsufficientPrivilege:
        # The command itself will say what is missing.
        return None
    if recorded is None:
        return None
    name = recorded[0].of(kind)
    # From 16 on a membership may come without the right to SET ROLE.
    how = "SET" if connection.info.server_version >= 160_000 else "MEMBER"
    row = connection.execute(
        "SELECT pg_catalog.pg_has_role(session_user, oid, %s) FROM pg_catalog.pg_roles WHERE rolname = %s",
        (how, name),
    ).fetchone()
    if row is None or not row[0]:
        return None
    connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(name)))
    return name


@contextmanager
def as_login(connection: Connection) -> Iterator[None]:
    """Work as the login itself for the block: a backend may be ended by the login that it belongs to, and not by its role."""
    row = connection.execute("SELECT pg_catalog.current_setting('role')").fetchone()
    previous = row[0] if row is not None else "none"
    connection.execute("SET ROLE NONE")
    try:
        yield
    finally:
        with suppress(psycopg.Error):
            connection.execute("SELECT pg_catalog.set_config('role', %s, false)", (previous,))
