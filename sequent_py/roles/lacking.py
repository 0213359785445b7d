"""What a login lacks that was refused by the server: which of the store's roles it needs, and the statement that gives it.

Reads the catalogs only, which any login may: those who lack a role may not read ``store_roles``, so who may do what is taken from the grants.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from sequent_py.errors import InsufficientPrivileges

Connection = psycopg.Connection[Any]

PAGE = "docs/roles.md says who may what."


class Deed(Enum):
    """What was refused; the value says it, and which relation or function decides on it by which privilege."""

    APPEND = ("append events", "append_events_%", "EXECUTE")
    READ = ("read events", "events", "SELECT")
    IMPORT = ("import history", "events", "INSERT")
    LOOK = ("look at the event store", "schema_info", "SELECT")
    MIGRATE = ("migrate", "view_migrations", "INSERT")
    PAUSE = ("pause or resume replays", "replay_control", "UPDATE")

    @property
    def described(self) -> str:
        """What the login may not do."""
        return self.value[0]


def lacking(
    connection: Connection, schema: str, deed: Deed, error: psycopg.Error, *, login: str | None = None
) -> InsufficientPrivileges:
    """Return the error that names the role; ``connection`` can be asked, which after a refusal a transaction cannot.

    ``login`` is who was refused, if it is not who asks.
    """
    asking, owner, roles = who_may(connection, schema, deed)
    login = login or asking
    refused = f"{login} may not {deed.described}: {error.diag.message_primary or error}."
    if owner is None or login == owner:
        return InsufficientPrivileges(
            refused, remedy=f"Ask whoever owns the event store {schema!r} in this database. {PAGE}"
        )
    if not roles and deed is Deed.IMPORT:
        roles = [owner]
    if not roles:
        return InsufficientPrivileges(
            f"{refused} Only {owner} may, for the store has no roles.",
            remedy=f"Work as {owner}, or let it run: sequent init --roles, and give one to the login:"
            f" {grant('sequent_application', login)}. {PAGE}",
        )
    reader = (
        " Readers may read events after: sequent init --roles --reader-events." if deed is Deed.READ else ""
    )
    grants = " or ".join(grant(role, login) for role in roles)
    return InsufficientPrivileges(
        f"{refused} It takes the role {' or '.join(roles)}.",
        remedy=f"Name another login in database_url, or give this one the role: {grants}.{reader} {PAGE}",
    )


def lacking_for_tables(connection: Connection, schema: str, error: psycopg.Error) -> InsufficientPrivileges:
    """Return the error for ordinary tables, which are whose they are: the migrator's, where deployments work as the store's migrator."""
    login, _, roles = who_may(connection, schema, Deed.MIGRATE)
    row = connection.execute("SELECT coalesce(pg_catalog.current_schema(), 'public')").fetchone()
    place, role = (
        sql.Identifier(str(row[0]) if row else "public"),
        sql.Identifier(next(iter(roles), "sequent_migrator")),
    )
    statements = sql.SQL(
        "GRANT CREATE ON SCHEMA {} TO {}; GRANT {} TO {}; ALTER ROLE {} SET role = {}"
    ).format(place, role, role, sql.Identifier(login), sql.Identifier(login), role)
    first = "" if roles else "create it: sequent init --roles; then, "
    return InsufficientPrivileges(
        f"{login} may not change or read these tables: {error.diag.message_primary or error}. It takes the role that owns them"
        f", and the right to create tables in their schema; for deployments that is {roles[0] if roles else 'the migrator'}.",
        remedy=f"To have deployments work as that role, {first}as whoever owns the database: {statements.as_string(None)}."
        " See docs/roles.md, Views and ordinary tables.",
    )


def who_may(connection: Connection, schema: str, deed: Deed) -> tuple[str, str | None, list[str]]:
    """Return the login, the owner of the store's schema (None where there is no such schema), and the roles that were given the right, by name."""
    _, name, privilege = deed.value
    row = connection.execute(_WHO_MAY, {"schema": schema, "name": name, "privilege": privilege}).fetchone()
    assert row is not None
    login, owner, roles = row
    return str(login), owner, list(roles)


def grant(role: str, login: str) -> str:
    """Return the statement that makes a login a member."""
    return sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login)).as_string(None)


_WHO_MAY: LiteralString = """
SELECT session_user, (SELECT pg_catalog.pg_get_userbyid(n.nspowner) FROM pg_catalog.pg_namespace n WHERE n.nspname = %(schema)s),
       ARRAY(
    SELECT DISTINCT r.rolname::text
    FROM pg_catalog.pg_namespace n
    JOIN (SELECT c.relnamespace AS namespace, c.relname AS name, c.relowner AS owner, c.relacl AS acl FROM pg_catalog.pg_class c
          UNION ALL SELECT p.pronamespace, p.proname, p.proowner, p.proacl FROM pg_catalog.pg_proc p) o ON o.namespace = n.oid
    CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) a
    JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = %(schema)s AND o.name LIKE %(name)s AND a.privilege_type = %(privilege)s AND a.grantee <> o.owner
    ORDER BY 1)
"""
