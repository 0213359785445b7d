"""What depends on the tables that serve, and would go on reading the old ones after the swap.

PostgreSQL ties views, foreign keys, rules, policies and SQL-standard function bodies to a table's identity, not its name: after a swap by
renaming they silently stay with the retired table. Ordinary views are re-pointed (:mod:`sequent_py.view_schema.tables.views`); for all else a
migration is refused, before it does any work. Reads the catalogs only; takes no lock, writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from sequent_py.errors import DependentObjects
from sequent_py.view_schema.plans import Plan
from sequent_py.view_schema.tables import carry_over, prepared, publications, views
from sequent_py.view_schema.tables.blueprints import RELATION_KINDS, TableBlueprint

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Dependent:
    """Something outside a table's files that reads or refers to what they created."""

    table: str
    """The table, or what else its files created, by its present name."""
    kind: str
    description: str
    """As PostgreSQL names it, with its schema."""
    relation: int = 0
    """The oid of the view or table that it is, or belongs to; 0 for what belongs to none."""

    @property
    def is_view(self) -> bool:
        """Whether it can be re-pointed: an ordinary view that is not another session's."""
        return self.kind == "view"


# An object belongs to a relation through its rule, constraint, trigger, policy, default or index; what belongs to the tables themselves
# is swapped with them. Targets are the tables, their row types, owned sequences and indexes, and whatever else the files created.
_DEPENDENTS = """
    WITH tables AS (
        SELECT c.oid, c.relname AS name, c.reltype, y.typarray
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_type y ON y.oid = c.reltype
        WHERE n.nspname = %(schema)s AND (c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
            OR c.relname = ANY (%(standing)s) AND c.relkind IN ('v', 'm', 'S', 'c'))
    ), types AS (
        SELECT y.oid, y.typname AS name, y.typarray
        FROM pg_catalog.pg_type y JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
        WHERE n.nspname = %(schema)s AND y.typname = ANY (%(types)s) AND y.typrelid = 0
    ), targets AS (
        SELECT 'pg_catalog.pg_class'::regclass AS classid, oid, name FROM tables
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid, t.name FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
        UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, k.oid, t.name FROM tables t JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid
        UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, k.oid, t.name FROM types t JOIN pg_catalog.pg_constraint k ON k.contypid = t.oid
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, reltype, name FROM tables
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, typarray, name FROM tables
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, oid, name FROM types
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, typarray, name FROM types
        UNION ALL
        SELECT 'pg_catalog.pg_proc'::regclass, f.oid, f.proname
        FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
        WHERE n.nspname = %(schema)s AND f.proname = ANY (%(functions)s)
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
        -- Publications are carried over; a table's own type, toast table and sequences go with it, internally, and so do the copies that
        -- a foreign key or trigger of a partitioned table has on partitions.
        WHERE d.deptype IN ('n', 'a') AND d.classid <> 'pg_catalog.pg_publication_rel'::regclass
          AND (d.classid, d.objid) NOT IN (SELECT classid, oid FROM targets)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE d.classid = 'pg_catalog.pg_trigger'::regclass AND g.oid = d.objid
              AND (g.tgisinternal OR g.tgparentid <> 0))
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid
              AND k.conparentid <> 0)
        GROUP BY 1, 2, 3
    )
    SELECT f.name,
           CASE WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND r.rulename <> '_RETURN' THEN 'rule'
                WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND c.relpersistence = 't' THEN 'temporary view'
                WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND c.relkind = 'v' THEN 'view'
                WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND c.relkind = 'm' THEN 'materialized view'
                WHEN f.classid = 'pg_catalog.pg_constraint'::regclass AND f.relation <> 0 THEN 'foreign key'
                WHEN f.classid = 'pg_catalog.pg_class'::regclass AND c.relispartition THEN 'partition'
                WHEN f.classid = 'pg_catalog.pg_class'::regclass AND EXISTS (
                    SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = f.objid) THEN 'child table'
                ELSE (pg_catalog.pg_identify_object(f.classid, f.objid, 0)).type END,
           CASE WHEN f.classid = 'pg_catalog.pg_rewrite'::regclass AND r.rulename = '_RETURN'
                THEN pg_catalog.format('%%I.%%I', n.nspname, c.relname)
                ELSE (pg_catalog.pg_identify_object(f.classid, f.objid, f.objsubid)).identity END,
           f.relation
    FROM found f
    LEFT JOIN pg_catalog.pg_rewrite r ON f.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = f.objid
    LEFT JOIN pg_catalog.pg_class c ON c.oid = f.relation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE f.relation NOT IN (SELECT oid FROM tables)
    UNION
    SELECT t.name, 'parent table', h.inhparent::regclass::text, h.inhparent FROM tables t JOIN pg_catalog.pg_inherits h ON h.inhrelid = t.oid
    WHERE h.inhparent NOT IN (SELECT oid FROM tables)
    ORDER BY 1, 2, 3
"""


def dependents(
    connection: Connection, view_schema: str, tables: Collection[str], *, live: Mapping[str, TableBlueprint]
) -> list[Dependent]:
    """Return what depends on live tables, or on what else their files created, from outside; by name, kind and description.

    What the tables' own files created (a view beside its table) moves with them, and foreign keys among the given tables are swapped at
    both ends; neither is listed.
    """
    names = {("table", table) for table in tables}
    for table in tables:
        if table in live:
            names |= {(item.kind, item.plain) for item in live[table].names if item.table == ""}
    return _dependents(connection, view_schema, names)


def left_on(connection: Connection, view_schema: str, retired: Iterable[TableBlueprint]) -> list[Dependent]:
    """Return what still depends on retired tables from outside; after a swap there must be nothing."""
    names = {(item.kind, item.name) for blueprint in retired for item in blueprint.names if item.table == ""}
    return _dependents(connection, view_schema, names)


def _dependents(
    connection: Connection, view_schema: str, names: Collection[tuple[str, str]]
) -> list[Dependent]:
    parameters = {
        "schema": view_schema,
        "tables": [name for kind, name in names if kind == "table"],
        "standing": [name for kind, name in names if kind in _STANDING_RELATIONS],
        "types": [name for kind, name in names if kind in ("type", "domain")],
        "functions": [name for kind, name in names if kind == "function"],
    }
    return [Dependent(*row) for row in prepared.execute(connection, _DEPENDENTS, parameters).fetchall()]


_STANDING_RELATIONS = RELATION_KINDS - {"table", "index", "key"}


def refuse(found: Sequence[Dependent], *, have_successors: bool = True) -> None:
    """Raise if anything depends on the tables that cannot be re-pointed; where no table takes their place, nothing can be.

    Raises
    ------
    DependentObjects
        With all of it.
    """
    fixed = [item for item in found if not (item.is_view and have_successors)]
    if fixed:
        listed = "; ".join(f"{item.kind} {item.description} on {item.table}" for item in fixed)
        remedies = [remedy for kind, remedy in _REMEDIES.items() if any(item.kind == kind for item in fixed)]
        raise DependentObjects(
            f"After the swap these would go on reading the old tables: {listed}.",
            remedy=" ".join(remedies or [_REMEDY]),
        )


_REMEDY = (
    "Drop them before the migration and create them again after it; a managed table that refers to another one can be"
    " listed in the same version instead."
)
_REMEDIES = {
    "partition": "Create the partitions in the table's files, with a new version, or detach them.",
    "materialized view": "Let the materialized view read an ordinary view over the table, which is re-pointed; or drop it before the"
    " migration and create it again after it.",
    "temporary view": "End the session that has the temporary view.",
}


def check(
    connection: Connection, view_schema: str, plan: Plan, live: Mapping[str, TableBlueprint]
) -> tuple[str, ...]:
    """Refuse a plan whose tables something depends on that cannot be re-pointed; return warnings of what the swap will leave behind.

    Raises
    ------
    DependentObjects
        With everything that depends on them.
    """
    replaced = [step.table_name for step in plan.replays if step.table_name in live]
    found = dependents(connection, view_schema, replaced, live=live)
    refuse(found)
    views.refuse_foreign(connection, {item.relation for item in found if item.is_view})
    left = [
        warning
        for table in replaced
        for warning in carry_over.left_behind(connection, view_schema, live[table])
    ]
    tables = [name for table in replaced for name in carry_over.tables_of(live[table])]
    gone = [
        f"{problem} The new one takes its place, and there will be nothing to roll back to."
        for problem in missing_tables(connection, view_schema, replaced)
    ]
    return (*gone, *left, *publications.warnings(connection, view_schema, tables))


def missing_tables(connection: Connection, view_schema: str, tables: Collection[str]) -> list[str]:
    """Return a problem for each table that should be there and is not."""
    present = present_tables(connection, view_schema)
    return [
        f"The table {table} is missing from the schema {view_schema}."
        for table in tables
        if table not in present
    ]


def present_tables(connection: Connection, view_schema: str) -> frozenset[str]:
    """Return the names of all tables of the schema."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind IN ('r', 'p')",
        (view_schema,),
    ).fetchall()
    return frozenset(name for (name,) in rows)
