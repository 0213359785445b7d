"""``sequent init --roles``: creates a store's roles, hands everything over to them, grants and revokes. Owns ``store_roles``.

One transaction, under the migration lock, so that no migration meets half of it; whoever fails leaves nothing behind. It compares and does
only what differs, so a second run does nothing, and the run after an upgrade sees to what is new. Handing a table over takes ACCESS EXCLUSIVE on
it for an instant and gives up after :data:`LOCK_TIMEOUT_MILLISECONDS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from sequent_py.errors import (
    ConfigurationError,
    InsufficientPrivileges,
    MigrationError,
    StoreNotInstalled,
)
from sequent_py.replay import fence
from sequent_py.roles.catalog import (
    Connection,
    Differences,
    Owned,
    compare,
    read_landscape,
    recorded_roles,
)
from sequent_py.roles.rules import (
    DEFAULT_PREFIX,
    STATISTICS_ROLE,
    ObjectKind,
    RoleKind,
    RoleNames,
    listed,
    role_names,
    view_rights,
)

LOCK_TIMEOUT_MILLISECONDS = 5_000


@dataclass(frozen=True)
class RolesReport:
    """What setting up the roles did."""

    roles: dict[str, str]
    """Name by kind."""
    created: tuple[str, ...]
    handed_over: tuple[str, ...]
    """Objects that got another owner."""
    granted: int
    revoked: tuple[str, ...]
    reader_events: bool
    warnings: tuple[str, ...]


def set_up_roles(
    connection: Connection,
    *,
    schema: str,
    view_schema: str,
    prefix: str | None = None,
    reader_events: bool | None = None,
) -> RolesReport:
    """Make the roles what the rules say, and everything that belongs to them. For an autocommit connection.

    Raises
    ------
    InsufficientPrivileges
        The present role may not create roles, or does not own what is to be handed over.
    ConfigurationError
        The store has roles of another prefix, or a role of that name is a superuser.
    ConcurrentMigration
        A view migration is at work.
    MigrationError
        A table could not be locked; nothing was changed.
    StoreNotInstalled
        There is no event store yet.
    """
    try:
        fence.become_coordinator(connection, schema)
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction) as error:
        raise StoreNotInstalled(schema) from error
    try:
        with _explained(connection), connection.transaction():
            connection.execute(
                "SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MILLISECONDS}ms",)
            )
            names, reads_events = _settle_names(connection, schema, prefix, reader_events)
            is_first = recorded_roles(connection, schema) is None
            created, warnings = _create_roles(connection, names, is_first=is_first)
            _hand_over_schemas(connection, schema, view_schema, names)
            handed_over = _hand_over(connection, schema, view_schema, names, reads_events)
            found = _differences(connection, schema, view_schema, names, reads_events)
            _grant(connection, found)
            _secure_functions(connection, found)
            _default_privileges(connection, view_schema, names)
            warnings += _let_migrator_see(connection, names)
            _record(connection, schema, names, reads_events)
            return RolesReport(
                roles={kind.value: name for kind, name in names.by_kind()},
                created=created,
                handed_over=handed_over,
                granted=len(found.missing),
                revoked=tuple(f"{right} from {right.grantee or 'PUBLIC'}" for right in found.excessive),
                reader_events=reads_events,
                warnings=tuple(warnings),
            )
    finally:
        fence.resign(connection, schema)


def _settle_names(
    connection: Connection, schema: str, prefix: str | None, reader_events: bool | None
) -> tuple[RoleNames, bool]:
    recorded = recorded_roles(connection, schema)
    if recorded is None:
        return role_names(prefix if prefix is not None else DEFAULT_PREFIX), bool(reader_events)
    names, reads_events = recorded
    if prefix is not None and role_names(prefix) != names:
        raise ConfigurationError(
            f"The store's roles are {', '.join(name for _, name in names.by_kind())} already.",
            remedy="Leave --role-prefix out.",
        )
    return names, reads_events if reader_events is None else reader_events


def _create_roles(
    connection: Connection, names: RoleNames, *, is_first: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Create what is missing, check what is there, and be able to hand things over to the first two."""
    rows = connection.execute(
        "SELECT rolname::text, rolsuper, rolcanlogin, rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication"
        " FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)",
        ([name for _, name in names.by_kind()],),
    ).fetchall()
    present = {
        name: (is_superuser, can_login, is_powerful) for name, is_superuser, can_login, is_powerful in rows
    }
    created: list[str] = []
    warnings: list[str] = []
    for _, name in names.by_kind():
        if name not in present:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
            created.append(name)
            continue
        is_superuser, can_login, is_powerful = present[name]
        if is_superuser:
            raise ConfigurationError(
                f"The role {name} exists and is a superuser: nothing would be kept from it.",
                remedy="Give another --role-prefix.",
            )
        if can_login or is_powerful:
            warnings.append(
                f"The role {name} existed and can {'log in' if can_login else 'do more than its grants say'}."
            )
    if present and is_first:
        warnings.append(
            f"These roles existed and are shared with whatever else uses them: {listed(present)}."
            " Where that is another application, give each a --role-prefix of its own."
        )
    for name in (names.migrator, names.owner):
        _join(connection, name)
    connection.execute(
        sql.SQL("GRANT {} TO {}").format(sql.Identifier(names.migrator), sql.Identifier(names.owner))
    )
    return tuple(created), warnings


def _join(connection: Connection, name: str) -> None:
    """Become a member, where we are neither that nor a superuser: only members may hand things over to a role."""
    how = "SET" if connection.info.server_version >= 160_000 else "MEMBER"
    row = connection.execute("SELECT pg_catalog.pg_has_role(current_user, %s, %s)", (name, how)).fetchone()
    if row is None or not row[0]:
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))


def _hand_over_schemas(connection: Connection, schema: str, view_schema: str, names: RoleNames) -> None:
    owners = connection.execute(
        "SELECT nspname::text, pg_catalog.pg_get_userbyid(nspowner)::text FROM pg_catalog.pg_namespace WHERE nspname IN (%s, %s)",
        (schema, view_schema),
    )
    present = dict(owners.fetchall())
    for name, owner in ((schema, names.owner), (view_schema, names.migrator)):
        if name not in present:
            statement = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}")
        elif present[name] != owner:
            statement = sql.SQL("ALTER SCHEMA {} OWNER TO {}")
        else:
            continue
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(owner)))


def _hand_over(
    connection: Connection, schema: str, view_schema: str, names: RoleNames, reads_events: bool
) -> tuple[str, ...]:
    """Give objects to who should own them; what is left afterwards are sequences that stand by themselves."""
    done: list[str] = []
    for kinds in ((ObjectKind.TABLE, ObjectKind.FUNCTION), (ObjectKind.SEQUENCE,)):
        # Read again for the second round: a table takes its sequences with it, and refuses to have them given away alone.
        found = _differences(connection, schema, view_schema, names, reads_events)
        for item, owner in found.misowned:
            if item.object.kind in kinds:
                _give(connection, item, owner)
                done.append(str(item.object))
    return tuple(done)


def _give(connection: Connection, item: Owned, owner: str) -> None:
    statement = sql.SQL("ALTER {} OWNER TO {}").format(item.object.identifier(), sql.Identifier(owner))
    connection.execute(statement)


def _differences(
    connection: Connection, schema: str, view_schema: str, names: RoleNames, reads_events: bool
) -> Differences:
    row = connection.execute("SELECT current_database()").fetchone()
    assert row is not None
    landscape = read_landscape(connection, schema, view_schema)
    return compare(landscape, names, schema=schema, database=row[0], reader_events=reads_events)


def _grant(connection: Connection, found: Differences) -> None:
    for right in found.missing:
        connection.execute(right.grant())
    for right in found.excessive:
        connection.execute(right.revoke())


def _secure_functions(connection: Connection, found: Differences) -> None:
    """Let the append function and its like run with the owner's rights, and look nowhere but into the system's own schema."""
    for function in found.unsafe_functions:
        connection.execute(
            sql.SQL("ALTER {} SECURITY DEFINER SET search_path = pg_catalog, pg_temp").format(
                function.identifier()
            )
        )


def _default_privileges(connection: Connection, view_schema: str, names: RoleNames) -> None:
    """Let what the migrator creates in the view schema be used by the others: shadow tables that will be live."""
    for role in (RoleKind.APPLICATION, RoleKind.READER):
        for kind in (ObjectKind.TABLE, ObjectKind.SEQUENCE):
            rights = view_rights(kind, role)
            if rights:
                connection.execute(
                    sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT {} ON {} TO {}").format(
                        sql.Identifier(names.migrator),
                        sql.Identifier(view_schema),
                        sql.SQL(", ").join(map(sql.SQL, sorted(rights))),
                        sql.SQL(f"{kind.value.upper()}S"),
                        sql.Identifier(names.of(role)),
                    )
                )


def _let_migrator_see(connection: Connection, names: RoleNames) -> list[str]:
    row = connection.execute(
        "SELECT pg_catalog.pg_has_role(%s, %s, 'USAGE')", (names.migrator, STATISTICS_ROLE)
    ).fetchone()
    if row is not None and row[0]:
        return []
    statement = sql.SQL("GRANT {} TO {}").format(
        sql.Identifier(STATISTICS_ROLE), sql.Identifier(names.migrator)
    )
    try:
        with connection.transaction():
            connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return [
            f"The migrator cannot see what other logins' transactions do, or since when; have a superuser run: {statement.as_string(None)}"
        ]
    return []


def _record(connection: Connection, schema: str, names: RoleNames, reads_events: bool) -> None:
    table = sql.SQL("{}.store_roles").format(sql.Identifier(schema))
    with connection.cursor() as cursor:
        for kind, name in names.by_kind():
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {} AS r (kind, name, reads_events) VALUES ({}, {}, {}) ON CONFLICT (kind) DO UPDATE SET"
                    " name = excluded.name, reads_events = excluded.reads_events"
                    " WHERE (r.name, r.reads_events) IS DISTINCT FROM (excluded.name, excluded.reads_events)"
                ).format(
                    table,
                    sql.Literal(kind.value),
                    sql.Literal(name),
                    sql.Literal(reads_events and kind is RoleKind.READER),
                )
            )


@contextmanager
def _explained(connection: Connection) -> Iterator[None]:
    row = connection.execute("SELECT current_user").fetchone()
    user = row[0] if row is not None else "?"
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise InsufficientPrivileges(
            f"The roles were not set up, nothing was changed: {user} may not do all of it ({_primary(error)}).",
            remedy="Run it as a superuser, or as a role with CREATEROLE that owns the database, the store and the managed tables.",
        ) from error
    except psycopg.errors.ReservedName as error:
        raise ConfigurationError(
            f"The roles were not set up: {_primary(error)}.", remedy="Give another --role-prefix."
        ) from error
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise MigrationError(
            f"The roles were not set up, nothing was changed: a table of the store is in use ({_primary(error)}).",
            remedy="Run it again when fewer transactions are open: sequent init --roles",
        ) from error


def _primary(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
