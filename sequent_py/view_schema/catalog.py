"""What the system catalogs say about a schema: which objects there are, which this transaction made, and how they are defined.

Reads only, in the caller's transaction. Definitions are free of the objects' schema as long as that schema is on the search path, so that
two schemas can be compared. Nothing here waits for locks on tables other than those whose definitions are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.errors import DefinitionError
from sequent_py.view_schema.blueprints import CatalogObject
from sequent_py.view_schema.catalog_queries import DEFINITION_OF, DEFINITIONS, IS_OWN, OBJECTS, UNSUPPORTED
from sequent_py.view_schema.script import searching

Connection = psycopg.Connection[Any]

@dataclass(frozen=True, slots=True)
class Inventory:
    """What there was before a file ran."""

    oids: frozenset[tuple[str, int]]
    relations: Mapping[int, str]
    """The names of the view schema's relations."""


def take_inventory(connection: Connection, view_schema: str) -> Inventory:
    """Read what exists; assigns the transaction its id."""
    connection.execute("SELECT pg_catalog.pg_current_xact_id()")
    rows = connection.execute(f"SELECT o.kind, o.oid FROM ({_OBJECTS}) o").fetchall()  # noqa: S608
    others = connection.execute(_unsupported_query()).fetchall()
    relations = connection.execute(
        "SELECT c.oid, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s",
        (view_schema,),
    ).fetchall()
    oids = frozenset((kind, oid) for kind, oid, *_ in (*rows, *others))
    return Inventory(oids, dict(relations))


def created_since(connection: Connection, before: Inventory, *, schema: str, view_schema: str, source: str) -> list[CatalogObject]:
    """Return what this transaction created since, in order of creation within each kind.

    Raises
    ------
    DefinitionError
        Something was created outside ``schema``, or of a kind that no swap renames, or an existing relation was changed or dropped.
    """
    rows = connection.execute(
        f"SELECT o.kind, o.oid, o.name, n.nspname, o.table_oid, coalesce(t.relname, ''), o.detail, o.source FROM ({_OBJECTS}) o "  # noqa: S608
        "JOIN pg_catalog.pg_namespace n ON n.oid = o.namespace LEFT JOIN pg_catalog.pg_class t ON t.oid = o.table_oid "
        "WHERE o.is_own AND n.nspname NOT LIKE 'pg\\_toast%%' ORDER BY o.oid"
    ).fetchall()
    new = [row for row in rows if (row[0], row[1]) not in before.oids]
    new_relations = {row[1] for row in new if row[0] in ("table", "partitioned table", "view", "materialized view", "foreign table")}
    for kind, _, name, namespace, table_oid, table, *_ in new:
        if namespace.startswith("pg_temp"):
            raise DefinitionError(f"{source} creates the temporary {kind} {name}.", remedy="Remove TEMPORARY.")
        if namespace != schema:
            raise DefinitionError(
                f"{source} creates the {kind} {name} in schema {namespace}: it names a schema, and so decides itself where the table lives.",
                remedy="Write all names without a schema.",
            )
        if kind in ("partitioned table", "foreign table"):
            raise DefinitionError(f"{source} creates the {kind} {name}; managed tables must be plain tables.")
        if table_oid and table_oid not in new_relations:
            raise DefinitionError(
                f"{source} creates the {kind} {name} on {table}, which it did not create itself.",
                remedy="Put %SUFFIX% after the table's name.",
            )
    for kind, oid, name in connection.execute(_unsupported_query(own=True)).fetchall():
        if (kind, oid) not in before.oids:
            raise DefinitionError(f"{source} creates the {kind} {name}.", remedy="Create it in a schema migration.")
    _refuse_changed_relations(connection, before, view_schema, source)
    return [CatalogObject(kind, oid, name, table, detail, text) for kind, oid, name, _, _, table, detail, text in new]


def attached_objects(connection: Connection, schema: str, tables: Collection[str]) -> list[CatalogObject]:
    """Return tables and what is on them: indexes, constraints, owned sequences, statistics, triggers, policies, rules."""
    rows = connection.execute(
        f"""
        SELECT o.kind, o.oid, o.name, coalesce(t.relname, ''), o.detail, o.source
        FROM ({_OBJECTS}) o
        JOIN pg_catalog.pg_namespace n ON n.oid = o.namespace
        LEFT JOIN pg_catalog.pg_class t ON t.oid = o.table_oid
        WHERE n.nspname = %(schema)s
          AND (t.relname = ANY (%(tables)s) OR (o.table_oid = 0 AND o.kind IN ('table', 'partitioned table') AND o.name = ANY (%(tables)s)))
        ORDER BY o.oid
        """,  # noqa: S608
        {"schema": schema, "tables": list(tables)},
    ).fetchall()
    return [CatalogObject(*row) for row in rows]


def named_objects(connection: Connection, schema: str, names: Collection[tuple[str, str]]) -> list[CatalogObject]:
    """Return what stands by itself under these kinds and names."""
    rows = connection.execute(
        f"SELECT o.kind, o.oid, o.name, '', o.detail, o.source FROM ({_OBJECTS}) o "  # noqa: S608
        "JOIN pg_catalog.pg_namespace n ON n.oid = o.namespace "
        "WHERE n.nspname = %s AND o.table_oid = 0 AND o.name = ANY (%s) ORDER BY o.oid",
        (schema, [name for _, name in names]),
    ).fetchall()
    return [item for item in (CatalogObject(*row) for row in rows) if (item.kind, item.name) in names]


def relation_names(connection: Connection, schema: str) -> frozenset[str]:
    """Return every name of the schema that a relation or an extended statistics object must not take."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s "
        "UNION SELECT s.stxname FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace "
        "WHERE n.nspname = %(schema)s "
        "UNION SELECT y.typname FROM pg_catalog.pg_type y JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace "
        "WHERE n.nspname = %(schema)s AND y.typelem = 0",
        {"schema": schema},
    ).fetchall()
    return frozenset(name for (name,) in rows)


def definitions(connection: Connection, schema: str, objects: Iterable[CatalogObject]) -> dict[tuple[str, str, str], str]:
    """Return how objects are defined, by (kind, table, name), as JSON text that does not mention the schema."""
    by_query: dict[str, dict[int, CatalogObject]] = {}
    for item in objects:
        by_query.setdefault(DEFINITION_OF.get(item.kind, "relation"), {})[item.oid] = item
    found: dict[tuple[str, str, str], str] = {}
    with searching(connection, [schema]):
        for query, items in by_query.items():
            rows = connection.execute(DEFINITIONS[query], {"oids": list(items)}).fetchall()
            for oid, document in rows:
                item = items[oid]
                found[item.kind, item.table, item.name] = json.dumps(document, sort_keys=True, ensure_ascii=False)
    return found


def fingerprint(defined: Mapping[tuple[str, str, str], str]) -> str:
    """Return a SHA-256 over definitions."""
    text = json.dumps(sorted([*key, value] for key, value in defined.items()), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def ensure_schema(connection: Connection, schema: str) -> None:
    """Create the schema unless it exists."""
    # CREATE SCHEMA IF NOT EXISTS asks for the privilege to create even where nothing is to be created.
    if connection.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (schema,)).fetchone() is None:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))


def _unsupported_query(*, own: bool = False) -> sql.Composable:
    selects = [
        sql.SQL("SELECT {kind}, x.oid, x.{name}::text FROM pg_catalog.{catalog} x" + (f" WHERE {_IS_OWN.format(row='x')}" if own else "")).format(
            kind=sql.Literal(kind), name=sql.Identifier(column), catalog=sql.Identifier(catalog)
        )
        for kind, (catalog, column) in UNSUPPORTED.items()
    ]
    return sql.SQL(" UNION ALL ").join(selects)


def _refuse_changed_relations(connection: Connection, before: Inventory, view_schema: str, source: str) -> None:
    remaining = dict(
        connection.execute(
            "SELECT c.oid, EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND "
            + _IS_OWN.format(row="a")
            + ") FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s",
            (view_schema,),
        ).fetchall()
    )
    for oid, name in before.relations.items():
        if remaining.get(oid, True):
            verb = "changes" if oid in remaining else "drops"
            raise DefinitionError(
                f"{source} {verb} {name}, which it did not create.",
                remedy="A table file only creates: put %SUFFIX% after its names, and no schema before them.",
            )
