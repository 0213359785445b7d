"""The SQL of :mod:`sequent_py.view_schema.carry_over`: all properties of tables as (key, value)."""

from __future__ import annotations

from typing import LiteralString

PROPERTIES: LiteralString = """
WITH tables AS (
    SELECT c.* FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
), relations AS (
    SELECT t.relname::text AS "table", 'table' AS kind, t.oid, t.relname::text AS name, t.relacl, t.relowner, t.reloptions, t.reltablespace
    FROM tables t
    UNION ALL
    SELECT t.relname::text, 'index', c.oid, c.relname::text, NULL, c.relowner, c.reloptions, c.reltablespace
    FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    UNION ALL
    SELECT t.relname::text, 'sequence', c.oid, c.relname::text, c.relacl, c.relowner, NULL, 0
    FROM tables t
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = t.oid AND d.deptype IN ('a', 'i')
    JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid AND c.relkind = 'S'
), columns AS (
    SELECT t.relname::text AS "table", t.relowner, a.*, a.attname::text AS name FROM tables t
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid WHERE a.attnum > 0 AND NOT a.attisdropped
), described AS (
    SELECT "table", kind, name, 'pg_catalog.pg_class'::regclass AS classid, oid, 0 AS objsubid FROM relations
    UNION ALL SELECT "table", 'column', name, 'pg_catalog.pg_class'::regclass, attrelid, attnum FROM columns
    UNION ALL SELECT t.relname, 'constraint', k.conname, 'pg_catalog.pg_constraint'::regclass, k.oid, 0
        FROM tables t JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid
    UNION ALL SELECT t.relname, 'trigger', g.tgname, 'pg_catalog.pg_trigger'::regclass, g.oid, 0
        FROM tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid
    UNION ALL SELECT t.relname, 'policy', p.polname, 'pg_catalog.pg_policy'::regclass, p.oid, 0
        FROM tables t JOIN pg_catalog.pg_policy p ON p.polrelid = t.oid
    UNION ALL SELECT t.relname, 'rule', r.rulename, 'pg_catalog.pg_rewrite'::regclass, r.oid, 0
        FROM tables t JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.oid
    UNION ALL SELECT t.relname, 'statistics', s.stxname, 'pg_catalog.pg_statistic_ext'::regclass, s.oid, 0
        FROM tables t JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = t.oid
), granted AS (
    SELECT r."table", r.kind, r.name, '' AS "column", r.relowner, x.*
    FROM relations r CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(
        r.relacl, pg_catalog.acldefault(CASE r.kind WHEN 'sequence' THEN 's' ELSE 'r' END::"char", r.relowner))) x
    WHERE r.kind <> 'index'
    UNION ALL
    SELECT c."table", 'table', c."table", c.name, c.relowner, x.* FROM columns c CROSS JOIN LATERAL pg_catalog.aclexplode(c.attacl) x
)
SELECT ARRAY['owner', t.relname], to_jsonb(pg_catalog.pg_get_userbyid(t.relowner)) FROM tables t
UNION ALL
SELECT ARRAY['grant', "table", kind, name, "column",
             CASE grantee WHEN 0 THEN 'public' WHEN relowner THEN 'owner' ELSE 'role' END,
             CASE grantee WHEN 0 THEN '' WHEN relowner THEN '' ELSE pg_catalog.pg_get_userbyid(grantee)::text END, privilege_type],
       to_jsonb(bool_or(is_grantable))
FROM granted GROUP BY 1
UNION ALL
SELECT ARRAY['comment', d."table", d.kind, d.name], to_jsonb(c.description)
FROM described d JOIN pg_catalog.pg_description c ON c.classoid = d.classid AND c.objoid = d.oid AND c.objsubid = d.objsubid
UNION ALL
SELECT ARRAY['option', r."table", r.kind, r.name, o.option_name], to_jsonb(o.option_value)
FROM relations r CROSS JOIN LATERAL pg_catalog.pg_options_to_table(r.reloptions) o
UNION ALL
SELECT ARRAY['option', t.relname, 'table', t.relname, 'toast.' || o.option_name], to_jsonb(o.option_value)
FROM tables t JOIN pg_catalog.pg_class s ON s.oid = t.reltoastrelid CROSS JOIN LATERAL pg_catalog.pg_options_to_table(s.reloptions) o
UNION ALL
SELECT ARRAY['column option', c."table", c.name, o.option_name], to_jsonb(o.option_value)
FROM columns c CROSS JOIN LATERAL pg_catalog.pg_options_to_table(c.attoptions) o
UNION ALL
SELECT ARRAY['statistics target', "table", name], to_jsonb(coalesce(attstattarget, -1)) FROM columns
UNION ALL
SELECT ARRAY['storage', "table", name], to_jsonb(attstorage) FROM columns
UNION ALL
SELECT ARRAY['compression', "table", name], to_jsonb(attcompression) FROM columns
UNION ALL
SELECT ARRAY['replica identity', t.relname], jsonb_build_array(t.relreplident, (
    SELECT c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = t.oid AND i.indisreplident)) FROM tables t
UNION ALL
SELECT ARRAY['clustered', t.relname], to_jsonb(c.relname)
FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid AND i.indisclustered JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
UNION ALL
SELECT ARRAY['row security', relname], to_jsonb(relrowsecurity) FROM tables
UNION ALL
SELECT ARRAY['forced row security', relname], to_jsonb(relforcerowsecurity) FROM tables
UNION ALL
SELECT ARRAY['policy', t.relname, p.polname], jsonb_build_object(
    'permissive', p.polpermissive, 'command', p.polcmd, 'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
    'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
    'roles', (SELECT jsonb_agg(CASE r WHEN 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(r) END ORDER BY r) FROM unnest(p.polroles) r))
FROM tables t JOIN pg_catalog.pg_policy p ON p.polrelid = t.oid
UNION ALL
SELECT ARRAY['trigger', t.relname, g.tgname], jsonb_build_array(pg_catalog.pg_get_triggerdef(g.oid), g.tgenabled)
FROM tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0
UNION ALL
SELECT ARRAY['rule', t.relname, r.rulename], jsonb_build_array(pg_catalog.pg_get_ruledef(r.oid), r.ev_enabled)
FROM tables t JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.oid
UNION ALL
SELECT ARRAY['statistics', t.relname, s.stxname], jsonb_build_array(pg_catalog.pg_get_statisticsobjdef(s.oid), coalesce(s.stxstattarget, -1))
FROM tables t JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = t.oid
UNION ALL
SELECT ARRAY['publication', t.relname, p.pubname], jsonb_build_object(
    'columns', (SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = t.oid AND a.attnum = ANY (r.prattrs::int2[])),
    'where', pg_catalog.pg_get_expr(r.prqual, r.prrelid))
FROM tables t JOIN pg_catalog.pg_publication_rel r ON r.prrelid = t.oid JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
UNION ALL
SELECT ARRAY['column', c."table", c.name], jsonb_build_array(pg_catalog.format_type(c.atttypid, c.atttypmod), c.attnotnull,
       pg_catalog.pg_get_expr(e.adbin, e.adrelid), c.attidentity, c.attgenerated)
FROM columns c LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = c.attrelid AND e.adnum = c.attnum
UNION ALL
SELECT ARRAY['constraint', t.relname, k.conname], to_jsonb(pg_catalog.pg_get_constraintdef(k.oid))
FROM tables t JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid WHERE k.contype NOT IN ('p', 'u', 'x', 't')
    AND NOT (k.contype = 'f' AND k.conparentid <> 0)
UNION ALL
-- Without the index's options, which are properties of their own.
SELECT ARRAY[CASE WHEN k.oid IS NULL THEN 'index' ELSE 'constraint' END, r."table", r.name], to_jsonb(concat_ws(' ',
    CASE WHEN i.indisprimary THEN 'PRIMARY KEY' WHEN k.contype = 'x' THEN 'EXCLUDE' WHEN i.indisunique THEN 'UNIQUE' END,
    (SELECT '(' || string_agg(pg_catalog.pg_get_indexdef(i.indexrelid, n, false), ', ' ORDER BY n) || ')'
     FROM generate_series(1, i.indnatts) n),
    'WHERE ' || pg_catalog.pg_get_expr(i.indpred, i.indrelid), CASE WHEN k.condeferrable THEN 'DEFERRABLE' END))
FROM relations r JOIN pg_catalog.pg_index i ON i.indexrelid = r.oid
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = r.oid AND k.contype IN ('p', 'u', 'x')
WHERE r.kind = 'index'
UNION ALL
SELECT ARRAY['tablespace', "table", name], to_jsonb((SELECT spcname FROM pg_catalog.pg_tablespace WHERE oid = reltablespace))
FROM relations WHERE reltablespace <> 0
UNION ALL
SELECT ARRAY['persistence', relname], to_jsonb(relpersistence) FROM tables
"""
"""Parameters: ``schema`` (text), ``tables`` (text array). No locks but those that printing definitions takes, ACCESS SHARE."""
