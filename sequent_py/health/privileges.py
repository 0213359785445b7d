"""Privileges: what the present role lacks for a migration, and whether the store's roles are what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.health.findings import Finding, notice, ok, problem
from sequent_py.roles.catalog import (
    Landscape,
    compare,
    missing_for,
    needed_by_migrator,
    read_landscape,
    recorded_roles,
)
from sequent_py.roles.rules import ObjectKind, RoleKind, RoleNames, listed

Connection = psycopg.Connection[Any]


def check_privileges(connection: Connection, schema: str, view_schema: str) -> Finding:
    """Find what the present role lacks for the phases of a migration, whichever way it would have it."""
    row = connection.execute("SELECT current_user, session_user, current_database()").fetchone()
    assert row is not None
    user, login, database = row
    try:
        with connection.transaction():
            landscape = read_landscape(connection, schema, view_schema)
            recorded = recorded_roles(connection, schema)
    except psycopg.errors.InsufficientPrivilege as error:
        return problem(
            "privileges",
            f"{user} cannot run a migration: {error.diag.message_primary}.",
            _remedy(None, login),
        )
    lacking = [
        str(right) for right in missing_for(connection, needed_by_migrator(landscape, database=database))
    ]
    lacking += _not_owned(connection, landscape, view_schema)
    if not lacking:
        return ok("privileges", f"{user} may do everything that a migration takes.")
    return problem(
        "privileges",
        f"{user} cannot run a migration; it lacks {listed(lacking)}.",
        _remedy(recorded[0] if recorded else None, login),
    )


def check_ownership(connection: Connection, schema: str) -> Finding:
    """Find out whether the present role owns the events, or belongs to who does."""
    row = connection.execute(
        "SELECT current_user, pg_catalog.pg_get_userbyid(c.relowner)::text, pg_catalog.pg_has_role(c.relowner, 'USAGE'), session_user"
        " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = 'events'",
        (schema,),
    ).fetchone()
    if row is None or row[2]:
        return ok("privileges", "The store is this role's to mend.")
    user, owner, _, login = row
    return problem(
        "privileges",
        f"{user} does not own the event store; {owner} does.",
        _sql("Run it as a login with that role: GRANT {} TO {}", owner, login),
    )


def check_roles(connection: Connection, schema: str, view_schema: str) -> Iterator[Finding]:
    """Compare what the store's roles may do with what they should."""
    recorded = recorded_roles(connection, schema)
    if recorded is None:
        yield notice(
            "roles",
            "This store has no roles: whoever may append may also edit events and open the gate.",
            "Run: sequent init --roles",
        )
        return
    names, reads_events = recorded
    row = connection.execute("SELECT current_database()").fetchone()
    assert row is not None
    absent = _absent(connection, names)
    if absent:
        yield problem("roles", f"There is no role {listed(absent)}.", "Run: sequent init --roles")
        return
    landscape = read_landscape(connection, schema, view_schema)
    found = compare(landscape, names, schema=schema, database=row[0], reader_events=reads_events)
    troubles: list[str] = []
    everybody = "PUBLIC"
    if found.missing:
        troubles.append(f"too little: {listed(f'{right.grantee} lacks {right}' for right in found.missing)}")
    if found.excessive:
        troubles.append(
            f"too much: {listed(f'{right.grantee or everybody} has {right}' for right in found.excessive)}"
        )
    if found.misowned:
        troubles.append(
            f"not theirs: {listed(f'{item.object} belongs to {item.owner}, not {owner}' for item, owner in found.misowned)}"
        )
    if found.unsafe_functions:
        troubles.append(
            f"not run with the owner's rights and a search path of their own: {listed(map(str, found.unsafe_functions))}"
        )
    if troubles:
        yield problem("roles", f"The roles have {'; '.join(troubles)}.", "Run: sequent init --roles")
    yield from _powers(connection, names)
    if not troubles:
        yield ok(
            "roles", f"{', '.join(name for _, name in names.by_kind())} have what they should, and no more."
        )


def _powers(connection: Connection, names: RoleNames) -> Iterator[Finding]:
    """Find what no grant shows: attributes of the roles, and memberships of one in another."""
    rows = connection.execute(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY (%s) AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolreplication)",
        ([name for _, name in names.by_kind()],),
    ).fetchall()
    for (name,) in rows:
        yield problem(
            "roles",
            f"{name} is a superuser, or may create roles, replicate or bypass row security: its grants keep nothing from it.",
            _sql("ALTER ROLE {} NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS", name),
        )
    allowed = {(RoleKind.OWNER, RoleKind.MIGRATOR)}
    for member, member_name in names.by_kind():
        for group, group_name in names.by_kind():
            if member is group or (member, group) in allowed:
                continue
            row = connection.execute(
                "SELECT pg_catalog.pg_has_role(%s, %s, 'MEMBER') AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = %s)",
                (member_name, group_name, member_name),
            ).fetchone()
            if row is not None and row[0]:
                yield problem(
                    "roles",
                    f"{member_name} is a member of {group_name}, and has its rights as well.",
                    _sql("REVOKE {} FROM {}", group_name, member_name),
                )


def _not_owned(connection: Connection, landscape: Landscape, view_schema: str) -> list[str]:
    """Return what a migration renames and drops, and the present role does not own; or that it cannot create the view schema's tables."""
    lacking = []
    for item in landscape.view:
        if item.object.kind is ObjectKind.SCHEMA:
            row = connection.execute(
                "SELECT has_schema_privilege(%s, 'USAGE') AND has_schema_privilege(%s, 'CREATE')",
                (view_schema, view_schema),
            ).fetchone()
            if row is not None and not row[0]:
                lacking.append(f"CREATE on {item.object}")
            continue
        row = connection.execute("SELECT pg_catalog.pg_has_role(%s, 'USAGE')", (item.owner,)).fetchone()
        if row is not None and not row[0]:
            lacking.append(f"ownership of {item.object} ({item.owner}'s)")
    return lacking


def _absent(connection: Connection, names: RoleNames) -> list[str]:
    wanted = [name for _, name in names.by_kind()]
    present = {
        name
        for (name,) in connection.execute(
            "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)", (wanted,)
        )
    }
    return [name for name in wanted if name not in present]


def _remedy(names: RoleNames | None, login: str) -> str:
    if names is None:
        return "Run it as the role that installed the store, or set up roles: sequent init --roles"
    return _sql(
        "Have its owner run: sequent init --roles, and give the login the role: GRANT {} TO {}",
        names.migrator,
        login,
    )


def _sql(text: str, *names: str) -> str:
    return sql.SQL(text).format(*map(sql.Identifier, names)).as_string(None)
