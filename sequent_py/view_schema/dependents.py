"""What depends on the tables that serve, and would go on reading the old ones after the swap.

PostgreSQL ties views, foreign keys, rules, policies and SQL-standard function bodies to a table's identity, not its name: after a swap by
renaming they silently stay with the retired table. A migration is therefore refused while there are any, before it does any work.
Reads the catalogs only; takes no lock, writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from sequent_py.errors import DependentObjects
from sequent_py.view_schema import prepared
from sequent_py.view_schema.blueprints import TableBlueprint
from sequent_py.view_schema.plans import Plan

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Dependent:
    """Something that must be gone, or be ours, before a table can be swapped."""

    table: str
    kind: str
    description: str
    """As PostgreSQL names it, with its schema where it is not on the search path."""


# An object belongs to a relation through its rule, constraint, trigger, policy, default or index; what belongs to the tables themselves
# is swapped with them. Targets are the tables, their row types, owned sequences and indexes.
_DEPENDENTS = """
    WITH tables AS (
        SELECT c.oid, c.relname AS name, c.reltype, y.typarray
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_type y ON y.oid = c.reltype
        WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
    ), targets AS (
        SELECT 'pg_catalog.pg_class'::regclass AS classid, oid, name FROM tables
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid, t.name FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
        UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, k.oid, t.name FROM tables t JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, reltype, name FROM tables
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, typarray, name FROM tables
        UNION ALL
        SELECT 'pg_catalog.pg_class'::regclass, d.objid, t.name
        FROM tables t JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = t.oid
        JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
    ), found AS (
        SELECT t.name, d.classid, d.objid, max(d.objsubid) AS objsubid, coalesce(
            (SELECT r.ev_class FROM pg_catalog.pg_rewrite r WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid),
            (SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid),
            (SELECT g.tgrelid FROM pg_catalog.pg_trigger g WHERE d.classid = 'pg_catalog.pg_trigger'::regclass AND g.oid = d.objid),
            (SELECT p.polrelid FROM pg_catalog.pg_policy p WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND p.oid = d.objid),
            (SELECT a.adrelid FROM pg_catalog.pg_attrdef a WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND a.oid = d.objid),
            (SELECT s.stxrelid FROM pg_catalog.pg_statistic_ext s WHERE d.classid = 'pg_catalog.pg_statistic_ext'::regclass AND s.oid = d.objid),
            (SELECT i.indrelid FROM pg_catalog.pg_index i WHERE d.classid = 'pg_catalog.pg_class'::regclass AND i.indexrelid = d.objid),
            CASE WHEN d.classid = 'pg_catalog.pg_class'::regclass THEN d.objid END, 0) AS relation
        FROM targets t
        JOIN pg_catalog.pg_depend d ON d.refclassid = t.classid AND d.refobjid = t.oid
        -- Publications are carried over; a table's own type, toast table and sequences go with it, internally.
        WHERE d.deptype IN ('n', 'a') AND d.classid <> 'pg_catalog.pg_publication_rel'::regclass
          AND (d.classid, d.objid) NOT IN (SELECT classid, oid FROM targets)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE d.classid = 'pg_catalog.pg_trigger'::regclass AND g.oid = d.objid AND g.tgisinternal)
        GROUP BY 1, 2, 3
    )
    SELECT f.name,
           CASE WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND c.relkind = 'v' THEN 'view'
                WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND c.relkind = 'm' THEN 'materialized view'
                WHEN f.classid = 'pg_catalog.pg_constraint'::regclass AND f.relation <> 0 THEN 'foreign key'
                WHEN f.classid = 'pg_catalog.pg_class'::regclass AND EXISTS (
                    SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = f.objid) THEN 'child table'
                ELSE (pg_catalog.pg_identify_object(f.classid, f.objid, 0)).type END,
           CASE WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND c.relkind IN ('v', 'm')
                THEN pg_catalog.format('%%I.%%I', n.nspname, c.relname)
                ELSE (pg_catalog.pg_identify_object(f.classid, f.objid, f.objsubid)).identity END
    FROM found f
    LEFT JOIN pg_catalog.pg_class c ON c.oid = f.relation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE f.relation NOT IN (SELECT oid FROM tables)
      AND NOT (n.nspname IS NOT DISTINCT FROM %(schema)s AND c.relname = ANY (%(ours)s))
    UNION
    SELECT t.name, 'parent table', h.inhparent::regclass::text FROM tables t JOIN pg_catalog.pg_inherits h ON h.inhrelid = t.oid
    ORDER BY 1, 2, 3
"""


def dependents(
    connection: Connection, view_schema: str, tables: Collection[str], *, live: Mapping[str, TableBlueprint]
) -> list[Dependent]:
    """Return what depends on the tables from outside, by table, kind and name.

    What the tables' own files created (a view beside its table) moves with them, and foreign keys among the given tables are swapped at
    both ends; neither is listed.
    """
    names = {*tables}
    ours: set[str] = set()
    for table in tables:
        if table in live:
            names |= {item.plain for item in live[table].names if item.kind == "table"}
            ours |= {item.plain for item in live[table].names if item.kind in ("view", "materialized view")}
    parameters = {"schema": view_schema, "tables": sorted(names), "ours": sorted(ours)}
    return [Dependent(*row) for row in prepared.execute(connection, _DEPENDENTS, parameters).fetchall()]


def refuse(found: Sequence[Dependent]) -> None:
    """Raise if anything depends on the tables.

    Raises
    ------
    DependentObjects
        With all of them.
    """
    if found:
        listed = "; ".join(f"{item.kind} {item.description} on {item.table}" for item in found)
        raise DependentObjects(
            f"After the swap these would go on reading the old tables: {listed}.",
            remedy="Drop them before the migration and create them again after it; a managed table that refers to another one can be"
            " listed in the same version instead.",
        )


def check(
    connection: Connection, view_schema: str, plan: Plan, live: Mapping[str, TableBlueprint]
) -> tuple[str, ...]:
    """Refuse a plan whose tables something depends on; return warnings of what the swap will leave behind.

    Raises
    ------
    DependentObjects
        With everything that depends on them.
    """
    from sequent_py.view_schema.carry_over import left_behind

    replaced = [step.table_name for step in plan.replays if step.table_name in live]
    refuse(dependents(connection, view_schema, replaced, live=live))
    return tuple(
        warning for table in replaced for warning in left_behind(connection, view_schema, live[table])
    )


def missing_tables(connection: Connection, view_schema: str, tables: Collection[str]) -> list[str]:
    """Return a problem for each table that should be there and is not."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind IN ('r', 'p')",
        (view_schema,),
    ).fetchall()
    present = {name for (name,) in rows}
    return [
        f"The table {table} is missing from the schema {view_schema}."
        for table in tables
        if table not in present
    ]
