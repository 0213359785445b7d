"""What the roles of a store may do now, and how that differs from the rules. Reads the catalogs only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from sequent_py.roles.rules import (
    ObjectKind,
    RoleKind,
    RoleNames,
    database_rights,
    is_definer,
    store_rights,
    view_rights,
)

Connection = psycopg.Connection[Any]

PUBLIC = ""
"""The grantee that stands for everybody."""
SAFE_SEARCH_PATH = "search_path=pg_catalog, pg_temp"
"""With it no schema of the caller's is looked into: a function that runs with the owner's rights must not find the caller's operators."""


@dataclass(frozen=True, slots=True)
class SecuredObject:
    """An object that rights are on."""

    kind: ObjectKind
    schema: str
    """Empty for the database."""
    name: str
    arguments: str = ""
    """Of a function, as the server prints them."""
    column: str = ""
    """For rights on one column of a table."""

    def identifier(self) -> sql.Composed:
        """Return how a statement names it, kind included."""
        name = sql.Identifier(self.schema, self.name) if self.schema else sql.Identifier(self.name)
        if self.kind is ObjectKind.FUNCTION:
            return sql.SQL("FUNCTION {}({})").format(name, sql.SQL(self.arguments))
        return sql.SQL("{} {}").format(sql.SQL(self.kind.value.upper()), name)

    def __str__(self) -> str:
        column = f".{self.column}" if self.column else ""
        return f"{self.kind} {self.name}{column}"


@dataclass(frozen=True, slots=True)
class Right:
    """One privilege of one grantee on one object."""

    grantee: str
    privilege: str
    object: SecuredObject

    def __str__(self) -> str:
        return f"{self.privilege} on {self.object}"

    def grant(self) -> sql.Composed:
        """Return the statement that gives it."""
        return sql.SQL("GRANT {} ON {} TO {}").format(
            _privilege(self), self.object.identifier(), _grantee(self.grantee)
        )

    def revoke(self) -> sql.Composed:
        """Return the statement that takes it."""
        return sql.SQL("REVOKE {} ON {} FROM {}").format(
            _privilege(self), self.object.identifier(), _grantee(self.grantee)
        )


@dataclass(frozen=True, slots=True)
class Owned:
    """An object, and who owns it."""

    object: SecuredObject
    owner: str


@dataclass(frozen=True, slots=True)
class Landscape:
    """Everything of a store that rights are on."""

    store: tuple[Owned, ...]
    view: tuple[Owned, ...]
    """The view schema itself, recorded tables and what is theirs."""
    rights: frozenset[Right]
    unsafe_functions: frozenset[SecuredObject]
    """Functions that should run with the owner's rights and a search path of their own, and do not."""


@dataclass(frozen=True, slots=True)
class Differences:
    """What is not as the rules say."""

    misowned: tuple[tuple[Owned, str], ...]
    """With who should own it."""
    missing: tuple[Right, ...]
    excessive: tuple[Right, ...]
    unsafe_functions: tuple[SecuredObject, ...]

    def __bool__(self) -> bool:
        return bool(self.misowned or self.missing or self.excessive or self.unsafe_functions)


def read_landscape(connection: Connection, schema: str, view_schema: str) -> Landscape:
    """Read what there is, and who may do what to it."""
    tables = _recorded_tables(connection, schema)
    parameters = {"schema": schema, "view_schema": view_schema, "tables": tables}
    store: list[Owned] = []
    view: list[Owned] = []
    rights: set[Right] = set()
    unsafe: set[SecuredObject] = set()
    for kind, namespace, name, arguments, owner, is_safe, grants in connection.execute(_OBJECTS, parameters):
        item = SecuredObject(ObjectKind(kind), namespace, name, arguments)
        is_store = (item.name if item.kind is ObjectKind.SCHEMA else namespace) == schema
        if item.kind is not ObjectKind.DATABASE:
            (store if is_store else view).append(Owned(item, owner))
        if item.kind is ObjectKind.FUNCTION and is_store and is_definer(name) and not is_safe:
            unsafe.add(item)
        for column, grantee, privilege in grants:
            rights.add(
                Right(grantee, privilege, SecuredObject(item.kind, namespace, name, arguments, column))
            )
    return Landscape(tuple(store), tuple(view), frozenset(rights), frozenset(unsafe))


def compare(
    landscape: Landscape, names: RoleNames, *, schema: str, database: str, reader_events: bool
) -> Differences:
    """Return what is not as the rules say. Pure."""
    wanted = set(_wanted(landscape, names, database=database, reader_events=reader_events))
    ours = {names.migrator, names.application, names.reader, PUBLIC}
    owned = {item.object: item.owner for item in (*landscape.store, *landscape.view)}
    # An owner's own rights are not grants that anybody gave; what others have, and what is on view tables, is the administrator's business.
    excessive = [
        right
        for right in landscape.rights - wanted
        if right.grantee in ours
        and _is_of_store(right.object, schema)
        and owned.get(_whole(right.object)) != right.grantee
    ]
    misowned = [(item, names.owner) for item in landscape.store if item.owner != names.owner]
    misowned += [(item, names.migrator) for item in landscape.view if item.owner != names.migrator]
    return Differences(
        misowned=tuple(misowned),
        missing=tuple(sorted(wanted - landscape.rights, key=_order)),
        excessive=tuple(sorted(excessive, key=_order)),
        unsafe_functions=tuple(sorted(landscape.unsafe_functions, key=str)),
    )


def _wanted(landscape: Landscape, names: RoleNames, *, database: str, reader_events: bool) -> Iterator[Right]:
    for role, name in names.by_kind():
        if role is RoleKind.OWNER:
            continue
        for privilege in database_rights(role):
            yield Right(name, privilege, SecuredObject(ObjectKind.DATABASE, "", database))
        for item in landscape.store:
            rights = store_rights(item.object.kind, item.object.name, role, reader_events=reader_events)
            yield from (Right(name, privilege, item.object) for privilege in rights)
        if role is not RoleKind.MIGRATOR:
            for item in landscape.view:
                rights = view_rights(item.object.kind, role)
                yield from (Right(name, privilege, item.object) for privilege in rights)


def missing_for(connection: Connection, rights: Iterable[Right]) -> list[Right]:
    """Return those of the rights that the present role does not have in effect, by whatever way."""
    missing = []
    for right in rights:
        item = right.object
        target: object = item.name
        if item.kind in (ObjectKind.TABLE, ObjectKind.SEQUENCE):
            target = sql.Identifier(item.schema, item.name).as_string(None)
        elif item.kind is ObjectKind.FUNCTION:
            target = f"{sql.Identifier(item.schema, item.name).as_string(None)}({item.arguments})"
        row = connection.execute(_HAS[item.kind], (target, right.privilege)).fetchone()
        if row is None or not row[0]:
            missing.append(right)
    return missing


def needed_by_migrator(landscape: Landscape, *, database: str) -> list[Right]:
    """Return what the work of a migration takes, whoever does it, ownership of the managed tables aside."""
    names = RoleNames("", "migrator", "", "")
    wanted = _wanted(landscape, names, database=database, reader_events=False)
    return sorted((right for right in wanted if right.grantee == names.migrator), key=_order)


def recorded_roles(connection: Connection, schema: str) -> tuple[RoleNames, bool] | None:
    """Return the store's roles and whether the reader reads events; None where none were set up, or the store is older than they are."""
    table = sql.Identifier(schema, "store_roles")
    row = connection.execute(
        "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = 'store_roles'",
        (schema,),
    ).fetchone()
    if row is None:
        return None
    rows = connection.execute(
        sql.SQL("SELECT kind, name, reads_events FROM {} ORDER BY kind").format(table)
    ).fetchall()
    if not rows:
        return None
    reads_events = any(kind == RoleKind.READER and reads for kind, _, reads in rows)
    return RoleNames(**{kind: name for kind, name, _ in rows}), reads_events


def _recorded_tables(connection: Connection, schema: str) -> list[str]:
    row = connection.execute(
        "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = 'view_tables'",
        (schema,),
    ).fetchone()
    if row is None:
        return []
    query = sql.SQL("SELECT physical_name FROM {}").format(sql.Identifier(schema, "view_tables"))
    return [name for (name,) in connection.execute(query)]


def _is_of_store(item: SecuredObject, schema: str) -> bool:
    return (item.name if item.kind is ObjectKind.SCHEMA else item.schema) == schema


def _whole(item: SecuredObject) -> SecuredObject:
    return SecuredObject(item.kind, item.schema, item.name, item.arguments)


def _order(right: Right) -> tuple[str, ...]:
    item = right.object
    return right.grantee, item.kind, item.schema, item.name, item.column, right.privilege


def _privilege(right: Right) -> sql.Composable:
    if not right.privilege.isalpha():
        raise ValueError(f"unknown privilege {right.privilege!r}")
    word = sql.SQL(right.privilege)
    if not right.object.column:
        return word
    return sql.SQL("{} ({})").format(word, sql.Identifier(right.object.column))


def _grantee(name: str) -> sql.Composable:
    return sql.SQL("PUBLIC") if name == PUBLIC else sql.Identifier(name)


_HAS: dict[ObjectKind, LiteralString] = {
    ObjectKind.DATABASE: "SELECT has_database_privilege(%s, %s)",
    ObjectKind.SCHEMA: "SELECT has_schema_privilege(%s, %s)",
    ObjectKind.TABLE: "SELECT has_table_privilege(%s, %s)",
    ObjectKind.SEQUENCE: "SELECT has_sequence_privilege(%s, %s)",
    ObjectKind.FUNCTION: "SELECT has_function_privilege(%s, %s)",
}

# Kind, schema, name, arguments, owner, whether a function is safe to run with its owner's rights, and grants as [column, grantee, privilege].
# What has no access list has the default one, which is the owner's and, for functions and databases, PUBLIC's.
_OBJECTS = """
WITH objects AS (
    SELECT 'database' AS kind, '' AS schema, d.datname::text AS name, '' AS arguments, d.datdba AS owner, true AS is_safe, 0::oid AS relation,
           coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba)) AS acl
    FROM pg_catalog.pg_database d WHERE d.datname = current_database()
    UNION ALL
    SELECT 'schema', '', n.nspname::text, '', n.nspowner, true, 0, coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))
    FROM pg_catalog.pg_namespace n WHERE n.nspname IN (%(schema)s, %(view_schema)s)
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, n.nspname::text, c.relname::text, '', c.relowner, true, c.oid,
           coalesce(c.relacl, pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S') AND (n.nspname = %(schema)s OR (n.nspname = %(view_schema)s AND (
        c.relname = ANY (%(tables)s)
        OR EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class t ON t.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_class'::regclass
            WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S'
              AND t.relnamespace = n.oid AND t.relname = ANY (%(tables)s))
        OR EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a JOIN pg_catalog.pg_class t ON t.oid = a.relid
            WHERE c.relkind IN ('r', 'p') AND c.relispartition AND t.relnamespace = n.oid AND t.relname = ANY (%(tables)s)))))
    UNION ALL
    SELECT 'function', n.nspname::text, p.proname::text, pg_catalog.oidvectortypes(p.proargtypes), p.proowner,
           p.prosecdef AND coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false), 0,
           coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %(schema)s
)
SELECT o.kind, o.schema, o.name, o.arguments, pg_catalog.pg_get_userbyid(o.owner)::text, o.is_safe, ARRAY(
    SELECT ARRAY['', CASE x.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END, x.privilege_type]
    FROM pg_catalog.aclexplode(o.acl) x
    UNION ALL
    SELECT ARRAY[a.attname::text, CASE x.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END, x.privilege_type]
    FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x WHERE o.relation <> 0 AND a.attrelid = o.relation AND NOT a.attisdropped
)
FROM objects o ORDER BY o.kind, o.schema, o.name, o.arguments
"""
