"""The SQL of :mod:`sequent_py.view_schema.tables.catalog`: which objects a schema has, and how each kind is defined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import LiteralString

# A row whose xmin is in progress and which is visible is this transaction's own; savepoints have ids of their own, so comparing with
# pg_current_xact_id() would miss them. age() counts from the transaction's id, which therefore must have been assigned before.
IS_OWN: LiteralString = """(CASE WHEN pg_catalog.age({xmin}) <= 0 THEN pg_catalog.pg_xact_status(
    ((pg_catalog.pg_current_xact_id()::text::int8 - pg_catalog.age({xmin}))::text)::xid8) = 'in progress' ELSE false END)"""

# What came with the server has lower ids (FirstNormalObjectId); there are thousands, and no file makes any of them.
IS_MADE: LiteralString = "{oid} >= 16384"

OBJECTS: LiteralString = """
    SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view'
               WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table'
               WHEN 'c' THEN 'composite type' ELSE 'index' END AS kind,
           c.oid, c.relname::text AS name, c.relnamespace AS namespace,
           coalesce(i.indrelid, d.refobjid, 0) AS table_oid, '' AS detail, NULL::text AS source, c.xmin AS xid
    FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    LEFT JOIN pg_catalog.pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    WHERE c.relkind <> 't' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT CASE WHEN k.contype IN ('p', 'u', 'x') THEN 'key' ELSE 'constraint' END, k.oid, k.conname::text, k.connamespace,
           k.conrelid, k.contype::text, NULL, k.xmin
    FROM pg_catalog.pg_constraint k WHERE k.conrelid <> 0 AND k.contype <> 't'
        AND NOT (k.contype IN ('c', 'n') AND k.coninhcount > 0) AND NOT (k.contype = 'f' AND k.conparentid <> 0)
    UNION ALL
    SELECT 'trigger', t.oid, t.tgname::text, c.relnamespace, t.tgrelid, '', NULL, t.xmin
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 'policy', p.oid, p.polname::text, c.relnamespace, p.polrelid, '', NULL, p.xmin
    FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
    UNION ALL
    SELECT 'rule', r.oid, r.rulename::text, c.relnamespace, r.ev_class, '', NULL, r.xmin
    FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class WHERE r.rulename <> '_RETURN'
    UNION ALL
    SELECT 'statistics', s.oid, s.stxname::text, s.stxnamespace, s.stxrelid, '', NULL, s.xmin
    FROM pg_catalog.pg_statistic_ext s
    UNION ALL
    SELECT 'function', f.oid, f.proname::text, f.pronamespace, 0, '', f.prosrc, f.xmin
    FROM pg_catalog.pg_proc f
    UNION ALL
    SELECT CASE y.typtype WHEN 'd' THEN 'domain' ELSE 'type' END, y.oid, y.typname::text, y.typnamespace, 0, y.typtype::text, NULL,
           y.xmin
    FROM pg_catalog.pg_type y WHERE y.typrelid = 0 AND y.typelem = 0 AND y.typtype <> 'm'
"""
"""Everything that can have a name of its own: kind, oid, name, namespace, the table that it is on, a finer kind, a function's body, and
the transaction that wrote it. Indexes that carry a constraint are left out: renaming the constraint renames them; and so are checks, triggers
and foreign keys that a partition has from its parent."""

UNSUPPORTED = {
    "schema": ("pg_namespace", "nspname"),
    "extension": ("pg_extension", "extname"),
    "operator": ("pg_operator", "oprname"),
    "operator class": ("pg_opclass", "opcname"),
    "collation": ("pg_collation", "collname"),
    "conversion": ("pg_conversion", "conname"),
    "publication": ("pg_publication", "pubname"),
    "event trigger": ("pg_event_trigger", "evtname"),
    "language": ("pg_language", "lanname"),
    "foreign server": ("pg_foreign_server", "srvname"),
    "text search configuration": ("pg_ts_config", "cfgname"),
    "text search dictionary": ("pg_ts_dict", "dictname"),
}
"""What no table file may create: it belongs to the whole database, or has a name that the swap does not change."""


DEFINITION_OF = {
    "key": "constraint",
    "constraint": "constraint",
    "trigger": "trigger",
    "policy": "policy",
    "rule": "rule",
    "statistics": "statistics",
    "function": "function",
    "type": "type",
    "domain": "type",
}

DEFINITIONS: Mapping[str, LiteralString] = {
    "relation": """
        SELECT c.oid, jsonb_build_object(
            'relkind', c.relkind, 'persistence', c.relpersistence, 'row security', c.relrowsecurity, 'forced', c.relforcerowsecurity,
            'replica identity', c.relreplident, 'options', c.reloptions, 'columns', (
            SELECT jsonb_agg(jsonb_build_array(a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
                       pg_catalog.pg_get_expr(e.adbin, e.adrelid), a.attidentity, a.attgenerated, a.attcollation::regcollation::text,
                       a.attstorage, a.attcompression, a.attstattarget, a.attoptions, pg_catalog.col_description(a.attrelid, a.attnum))
                       ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
            'access method', (SELECT amname FROM pg_catalog.pg_am WHERE oid = c.relam),
            'view', CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid, true) END,
            'index', (SELECT jsonb_build_array(pg_catalog.pg_get_indexdef(c.oid, 0, true), x.indisclustered, x.indisreplident)
                      FROM pg_catalog.pg_index x WHERE x.indexrelid = c.oid),
            'sequence', (SELECT jsonb_build_array(pg_catalog.format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin,
                             q.seqmax, q.seqcache, q.seqcycle) FROM pg_catalog.pg_sequence q WHERE q.seqrelid = c.oid),
            'owned by', (SELECT jsonb_agg(a.attname) FROM pg_catalog.pg_depend d
                         JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                         WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                           AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')),
            'comment', pg_catalog.obj_description(c.oid, 'pg_class'))
            || CASE WHEN c.relkind = 'p' OR c.relispartition THEN jsonb_build_object(
                'partition key', CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END,
                'partition of', (SELECT h.inhparent::regclass::text FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid),
                'bound', pg_catalog.pg_get_expr(c.relpartbound, c.oid)) ELSE '{}' END
        FROM pg_catalog.pg_class c WHERE c.oid = ANY (%(oids)s)""",
    "constraint": """
        SELECT k.oid, jsonb_build_object(
            'type', k.contype, 'definition', pg_catalog.pg_get_constraintdef(k.oid, true), 'validated', k.convalidated,
            'index', (SELECT jsonb_build_array(pg_catalog.pg_get_indexdef(x.indexrelid, 0, true), x.indisclustered, x.indisreplident)
                      FROM pg_catalog.pg_index x WHERE x.indexrelid = k.conindid AND k.contype IN ('p', 'u', 'x')),
            'comment', pg_catalog.obj_description(k.oid, 'pg_constraint'))
        FROM pg_catalog.pg_constraint k WHERE k.oid = ANY (%(oids)s)""",
    "trigger": """
        SELECT t.oid, jsonb_build_object(
            'definition', pg_catalog.pg_get_triggerdef(t.oid, true), 'enabled', t.tgenabled,
            'comment', pg_catalog.obj_description(t.oid, 'pg_trigger'))
        FROM pg_catalog.pg_trigger t WHERE t.oid = ANY (%(oids)s)""",
    "policy": """
        SELECT p.oid, jsonb_build_object(
            'command', p.polcmd, 'permissive', p.polpermissive, 'roles', p.polroles::regrole[]::text[],
            'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
            'comment', pg_catalog.obj_description(p.oid, 'pg_policy'))
        FROM pg_catalog.pg_policy p WHERE p.oid = ANY (%(oids)s)""",
    "rule": """
        SELECT r.oid, jsonb_build_object(
            'definition', pg_catalog.pg_get_ruledef(r.oid, true), 'enabled', r.ev_enabled,
            'comment', pg_catalog.obj_description(r.oid, 'pg_rewrite'))
        FROM pg_catalog.pg_rewrite r WHERE r.oid = ANY (%(oids)s)""",
    "statistics": """
        SELECT s.oid, jsonb_build_object(
            'columns', pg_catalog.pg_get_statisticsobjdef_columns(s.oid), 'kinds', s.stxkind, 'target', s.stxstattarget,
            'table', s.stxrelid::regclass::text, 'comment', pg_catalog.obj_description(s.oid, 'pg_statistic_ext'))
        FROM pg_catalog.pg_statistic_ext s WHERE s.oid = ANY (%(oids)s)""",
    "function": """
        SELECT f.oid, jsonb_build_object(
            'arguments', pg_catalog.pg_get_function_arguments(f.oid), 'result', pg_catalog.pg_get_function_result(f.oid),
            'kind', f.prokind, 'language', (SELECT lanname FROM pg_catalog.pg_language WHERE oid = f.prolang), 'source', f.prosrc,
            'body', pg_catalog.pg_get_function_sqlbody(f.oid), 'volatile', f.provolatile, 'strict', f.proisstrict,
            'security definer', f.prosecdef, 'leakproof', f.proleakproof, 'parallel', f.proparallel, 'cost', f.procost, 'rows', f.prorows,
            'settings', f.proconfig, 'comment', pg_catalog.obj_description(f.oid, 'pg_proc'))
        FROM pg_catalog.pg_proc f WHERE f.oid = ANY (%(oids)s)""",
    "type": """
        SELECT y.oid, jsonb_build_object(
            'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = y.oid),
            'base', pg_catalog.format_type(y.typbasetype, y.typtypmod), 'not null', y.typnotnull, 'default', y.typdefault,
            'constraints', (SELECT jsonb_agg(jsonb_build_array(k.conname, pg_catalog.pg_get_constraintdef(k.oid, true)) ORDER BY k.conname)
                            FROM pg_catalog.pg_constraint k WHERE k.contypid = y.oid),
            'subtype', (SELECT pg_catalog.format_type(g.rngsubtype, NULL) FROM pg_catalog.pg_range g WHERE g.rngtypid = y.oid),
            'comment', pg_catalog.obj_description(y.oid, 'pg_type'))
        FROM pg_catalog.pg_type y WHERE y.oid = ANY (%(oids)s)""",
}
