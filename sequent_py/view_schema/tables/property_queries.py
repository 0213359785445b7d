"""The SQL of :mod:`sequent_py.view_schema.tables.carry_over`: all properties of tables as (key, value)."""

from __future__ import annotations

from typing import LiteralString

PROPERTIES: LiteralString = """
WITH tables AS (
    SELECT c.* FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = ANY (%(relations)s) AND c.relkind IN ('r', 'p', 'v', 'm')
), sequences AS (
    SELECT t.relname::text AS "table", c.*
    FROM tables t
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = t.oid AND d.deptype IN ('a', 'i')
    JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid AND c.relkind = 'S'
    UNION ALL
    SELECT c.relname::text, c.* FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = ANY (%(relations)s) AND c.relkind = 'S'
), relations AS (
    SELECT t.relname::text AS "table",
           CASE t.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END AS kind,
           t.oid, t.relname::text AS name, t.relacl, t.relowner, t.reloptions, t.reltablespace
    FROM tables t
    UNION ALL
    SELECT t.relname::text, 'index', c.oid, c.relname::text, NULL, c.relowner, c.reloptions, c.reltablespace
    FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    UNION ALL
    SELECT "table", 'sequence', oid, relname::text, relacl, relowner, NULL, 0 FROM sequences
), others AS (
    SELECT 'routine' AS kind, f.proname::text AS name, f.tableoid AS classid, f.oid, f.proowner AS owner, f.proacl AS acl, 'f'::"char" AS of
    FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
    WHERE n.nspname = %(schema)s AND f.proname = ANY (%(routines)s)
    UNION ALL
    SELECT 'type', y.typname::text, y.tableoid, y.oid, y.typowner, y.typacl, 'T'::"char"
    FROM pg_catalog.pg_type y JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
    WHERE n.nspname = %(schema)s AND y.typname = ANY (%(types)s)
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
SELECT ARRAY['owner', "table"], to_jsonb(pg_catalog.pg_get_userbyid(relowner)) FROM sequences WHERE "table" = relname
UNION ALL
SELECT ARRAY[o.kind || ' owner', o.name], to_jsonb(pg_catalog.pg_get_userbyid(o.owner)) FROM others o
UNION ALL
SELECT ARRAY[o.kind || ' grant', o.name, CASE x.grantee WHEN 0 THEN 'public' WHEN o.owner THEN 'owner' ELSE 'role' END,
             CASE x.grantee WHEN 0 THEN '' WHEN o.owner THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END, x.privilege_type],
       to_jsonb(bool_or(x.is_grantable))
FROM others o CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(o.acl, pg_catalog.acldefault(o.of, o.owner))) x GROUP BY 1
UNION ALL
SELECT ARRAY[o.kind || ' comment', o.name], to_jsonb(d.description)
FROM others o JOIN pg_catalog.pg_description d ON d.classoid = o.classid AND d.objoid = o.oid AND d.objsubid = 0
UNION ALL
SELECT ARRAY['sequence option', s."table", s.relname, o.option], o.value
FROM sequences s JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid CROSS JOIN LATERAL (
    VALUES ('increment', to_jsonb(q.seqincrement)), ('cache', to_jsonb(q.seqcache)), ('cycle', to_jsonb(q.seqcycle))) o (option, value)
UNION ALL
SELECT ARRAY['sequence limits', s."table", s.relname], jsonb_build_array(pg_catalog.format_type(q.seqtypid, NULL), q.seqmin, q.seqmax, q.seqstart)
FROM sequences s JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid
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
FROM tables t JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.oid WHERE r.rulename <> '_RETURN'
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
    'WHERE ' || pg_catalog.pg_get_expr(i.indpred, i.indrelid), CASE WHEN k.condeferrable THEN 'DEFERRABLE' END, CASE WHEN k.condeferred THEN 'INITIALLY DEFERRED' END,
    CASE WHEN NOT i.indisvalid THEN 'INVALID' END))
FROM relations r JOIN pg_catalog.pg_index i ON i.indexrelid = r.oid
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = r.oid AND k.contype IN ('p', 'u', 'x')
WHERE r.kind = 'index'
UNION ALL
SELECT ARRAY['tablespace', "table", name], to_jsonb((SELECT spcname FROM pg_catalog.pg_tablespace WHERE oid = reltablespace))
FROM relations WHERE reltablespace <> 0
UNION ALL
SELECT ARRAY['persistence', relname], to_jsonb(relpersistence) FROM tables
UNION ALL
SELECT ARRAY['access method', t.relname], to_jsonb(a.amname) FROM tables t JOIN pg_catalog.pg_am a ON a.oid = t.relam
UNION ALL
SELECT ARRAY['partition bound', relname], to_jsonb(pg_catalog.pg_get_expr(relpartbound, oid)) FROM tables WHERE relispartition
UNION ALL
SELECT ARRAY['disabled foreign key', t.relname, k.conname], to_jsonb(min(g.tgenabled))
FROM tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND g.tgisinternal AND g.tgenabled <> 'O'
JOIN pg_catalog.pg_constraint k ON k.oid = g.tgconstraint AND k.contype = 'f' GROUP BY 1
UNION ALL
SELECT ARRAY['security label', d."table", d.kind, d.name, l.provider], to_jsonb(l.label)
FROM described d JOIN pg_catalog.pg_seclabel l ON l.classoid = d.classid AND l.objoid = d.oid AND l.objsubid = d.objsubid
UNION ALL
SELECT ARRAY['extension', t.relname, e.extname], to_jsonb('member'::text)
FROM tables t JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = t.oid AND d.deptype = 'e'
JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.oid = d.refobjid
"""
"""Parameters: ``schema`` (text), ``relations``, ``routines`` and ``types`` (text arrays). No locks but those that printing definitions takes, ACCESS SHARE."""
