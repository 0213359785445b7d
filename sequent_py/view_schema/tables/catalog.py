"""What the system catalogs say about a schema: which objects there are, which this transaction made, and how they are defined.

Reads only, in the caller's transaction. Definitions are free of the objects' schema as long as that schema is on the search path, so that
two schemas can be compared. Nothing here waits for locks on tables other than those whose definitions are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from sequent_py.errors import TableFileError
from sequent_py.view_schema.tables import prepared
from sequent_py.view_schema.tables.blueprints import ON_TABLE_KINDS, RELATION_KINDS, CatalogObject, Key
from sequent_py.view_schema.tables.catalog_queries import (
    DEFINITION_OF,
    DEFINITIONS,
    IS_MADE,
    IS_OWN,
    OBJECTS,
    UNSUPPORTED,
)
from sequent_py.view_schema.tables.script import searching

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What there was before a file ran, but for what came with the server."""

    oids: frozenset[tuple[str, int]]
    relations: Mapping[int, str]
    """The names of the view schema's relations."""


def take_inventory(connection: Connection, view_schema: str) -> Inventory:
    """Read what exists; assigns the transaction its id."""
    connection.execute("SELECT pg_catalog.pg_current_xact_id()")
    query = _objects("SELECT o.kind, o.oid FROM {objects} WHERE {made}")
    rows = prepared.execute(connection, query, ()).fetchall()
    relations = prepared.execute(connection, _RELATIONS, (view_schema,)).fetchall()
    return Inventory(
        oids=frozenset((*rows, *((kind, oid) for kind, oid, _ in _unsupported(connection)))),
        relations={oid: name for oid, name, _ in relations},
    )


def created_since(
    connection: Connection,
    before: Inventory,
    *,
    schema: str,
    view_schema: str,
    source: str,
    tables: Collection[str] = (),
) -> list[CatalogObject]:
    """Return what this transaction created since, in order of creation within each kind.

    ``tables`` names older relations that may be changed and get objects of their own.

    Raises
    ------
    TableFileError
        Something was created outside ``schema``, or of a kind that no swap renames, or this transaction changed or dropped another relation.
    """
    query = _objects(
        "SELECT o.kind, o.oid, o.name, n.nspname, coalesce(t.oid, 0), coalesce(t.relname, ''), o.detail, o.source FROM {joined} WHERE {own} AND {made}"
    )
    new = [
        row
        for row in prepared.execute(connection, query, ()).fetchall()
        if row[:2] not in before.oids and not row[3].startswith("pg_toast")
    ]
    new_relations = {oid for kind, oid, *_ in new if kind in RELATION_KINDS or kind in _NOT_PLAIN}
    for kind, _, name, namespace, table_oid, table, detail, _ in new:
        if namespace.startswith("pg_temp"):
            raise TableFileError(f"{source} creates the temporary {kind} {name}.", remedy="Remove TEMPORARY.")
        if namespace != schema:
            raise TableFileError(
                f"{source} creates the {kind} {name} in the schema {namespace}, which it names itself.",
                remedy="Write names without a schema: the view schema is on the search path.",
            )
        if kind in _NOT_PLAIN or (kind == "type" and detail != "e"):
            raise TableFileError(f"{source} creates the {kind} {name}, which a swap cannot rename.")
        if table_oid and table_oid not in new_relations and table not in tables:
            raise TableFileError(
                f"{source} creates the {kind} {name} on {table}, which it did not create.",
                remedy="Put %SUFFIX% after the name of the table.",
            )
    for kind, oid, name in _unsupported(connection, own=True):
        if (kind, oid) not in before.oids:
            raise TableFileError(
                f"{source} creates the {kind} {name}.", remedy="Create it in a schema migration."
            )
    _refuse_changed_relations(connection, before, view_schema, source, tables)
    return [
        CatalogObject(kind, oid, name, table, detail, text)
        for kind, oid, name, _, _, table, detail, text in new
    ]


def attached_objects(connection: Connection, schema: str, tables: Collection[str]) -> list[CatalogObject]:
    """Return tables and what is on them: indexes, constraints, owned sequences, statistics, triggers, policies, rules."""
    query = _objects(
        "SELECT o.kind, o.oid, o.name, coalesce(t.relname, ''), o.detail, o.source FROM {joined} WHERE n.nspname = %(schema)s AND ("
        "t.relname = ANY (%(tables)s) OR (o.table_oid = 0 AND o.kind = ANY (%(kinds)s) AND o.name = ANY (%(tables)s)))"
    )
    kinds = ["table", *_NOT_PLAIN]
    parameters = {"schema": schema, "tables": list(tables), "kinds": kinds}
    rows = prepared.execute(connection, query, parameters).fetchall()
    return [CatalogObject(*row) for row in rows]


def with_partitions(connection: Connection, schema: str, tables: Collection[str]) -> list[str]:
    """Return those of the tables that exist, and the partitions that they have in the same schema."""
    query = """
        SELECT DISTINCT p.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL pg_catalog.pg_partition_tree(c.oid) x
        JOIN pg_catalog.pg_class p ON p.oid = x.relid AND p.relnamespace = n.oid
        WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
        UNION SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p') ORDER BY 1
    """
    return [
        name for (name,) in connection.execute(query, {"schema": schema, "tables": list(tables)}).fetchall()
    ]


def standing_objects(
    connection: Connection, schema: str, names: Collection[tuple[str, str]]
) -> list[CatalogObject]:
    """Return what stands by itself under these kinds and names."""
    query = _objects(
        "SELECT o.kind, o.oid, o.name, '', o.detail, o.source FROM {joined} "
        "WHERE n.nspname = %s AND o.table_oid = 0 AND o.name = ANY (%s)"
    )
    rows = prepared.execute(connection, query, (schema, [name for _, name in names])).fetchall()
    return [item for item in (CatalogObject(*row) for row in rows) if (item.kind, item.name) in names]


def taken_names(connection: Connection, schema: str) -> frozenset[str]:
    """Return every name of the schema that a relation, a type or a statistics object has; the server keeps some of them apart, we don't."""
    query = _objects("SELECT o.name FROM {joined} WHERE n.nspname = %s AND o.kind <> ALL (%s)")
    kinds = sorted([*ON_TABLE_KINDS - {"key"}, "function"])
    rows = prepared.execute(connection, query, (schema, kinds)).fetchall()
    return frozenset(name for (name,) in rows)


def definitions(connection: Connection, schema: str, objects: Iterable[CatalogObject]) -> dict[Key, str]:
    """Return how objects are defined, by (kind, table, name), as JSON text that does not mention the schema."""
    by_query: dict[str, dict[int, CatalogObject]] = {}
    for item in objects:
        by_query.setdefault(DEFINITION_OF.get(item.kind, "relation"), {})[item.oid] = item
    found: dict[Key, str] = {}
    with searching(connection, [schema]):
        for query, items in by_query.items():
            rows = connection.execute(DEFINITIONS[query], {"oids": list(items)}).fetchall()
            for oid, document in rows:
                item = items[oid]
                found[item.kind, item.table, item.name] = json.dumps(
                    document, sort_keys=True, ensure_ascii=False
                )
    return found


def fingerprint(defined: Mapping[Key, str]) -> str:
    """Return a SHA-256 over definitions."""
    text = json.dumps(sorted([*key, value] for key, value in defined.items()), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def ensure_schema(connection: Connection, schema: str) -> None:
    """Create the schema unless it exists."""
    # CREATE SCHEMA IF NOT EXISTS asks for the privilege to create even where nothing is to be created.
    if (
        connection.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (schema,)).fetchone()
        is None
    ):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))


def _objects(query: LiteralString) -> sql.Composed:
    """Compose a query over all objects, by creation."""
    objects = sql.SQL("({}) o").format(sql.SQL(OBJECTS))
    joined = sql.SQL(
        "{} JOIN pg_catalog.pg_namespace n ON n.oid = o.namespace LEFT JOIN pg_catalog.pg_class t ON t.oid = o.table_oid"
    ).format(objects)
    own = sql.SQL(IS_OWN).format(xmin=sql.SQL("o.xid"))
    made = sql.SQL(IS_MADE).format(oid=sql.SQL("o.oid"))
    return sql.SQL("{} ORDER BY o.oid").format(
        sql.SQL(query).format(objects=objects, joined=joined, own=own, made=made)
    )


def _unsupported(connection: Connection, *, own: bool = False) -> list[tuple[str, int, str]]:
    condition = sql.SQL(IS_MADE).format(oid=sql.SQL("x.oid"))
    if own:
        condition = sql.SQL("{} AND {}").format(condition, sql.SQL(IS_OWN).format(xmin=sql.SQL("x.xmin")))
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {kind}, x.oid, x.{name}::text FROM pg_catalog.{catalog} x WHERE {condition}").format(
            kind=sql.Literal(kind),
            name=sql.Identifier(column),
            catalog=sql.Identifier(catalog),
            condition=condition,
        )
        for kind, (catalog, column) in UNSUPPORTED.items()
    )
    return prepared.execute(connection, query, ()).fetchall()


_NOT_PLAIN = frozenset({"foreign table"})

_RELATIONS = sql.SQL("""
    SELECT c.oid, c.relname, EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND {is_own})
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s
""").format(is_own=sql.SQL(IS_OWN).format(xmin=sql.SQL("a.xmin")))


def _refuse_changed_relations(
    connection: Connection, before: Inventory, view_schema: str, source: str, tables: Collection[str]
) -> None:
    changed = {
        oid: is_changed
        for oid, _, is_changed in prepared.execute(connection, _RELATIONS, (view_schema,)).fetchall()
    }
    gone = [oid for oid, name in before.relations.items() if oid not in changed and name not in tables]
    dropped = _locked_exclusively(connection, gone) if gone else frozenset[int]()
    for oid, name in before.relations.items():
        if name not in tables and (changed.get(oid) or oid in dropped):
            raise TableFileError(
                f"{source} {'changes' if oid in changed else 'drops'} {name}, which it did not create.",
                remedy="A table file only creates, and puts %SUFFIX% after all names.",
            )


def _locked_exclusively(connection: Connection, oids: Collection[int]) -> frozenset[int]:
    """Return those of the relations that this transaction has locked as whoever drops or moves one must.

    A relation that is gone has been dropped by us exactly if we hold that lock: it is kept until the transaction ends, and while we hold it
    nobody else can drop the relation. Building indexes takes hours; what others drop meanwhile is no business of the file's.
    """
    rows = connection.execute(
        "SELECT l.relation FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted"
        " AND l.mode = 'AccessExclusiveLock' AND l.pid = pg_catalog.pg_backend_pid() AND l.relation = ANY (%s::oid[])"
        " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())",
        (list(oids),),
    ).fetchall()
    return frozenset(oid for (oid,) in rows)
