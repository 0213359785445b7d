-- Whatever belongs to a user's schema or hangs on one of its relations, less what a dump of one schema takes.
-- Found by what the server records as belonging there, so that kinds of objects nobody thought of are reported as well.
-- schema: oid, tables: oid[] (those that are dumped), skip: text[] (names that are left out on purpose), silent: text[] (schemas),
-- with_enums: bool, first_user_oid: int
WITH schemas AS (
    SELECT oid, nspname
      FROM pg_catalog.pg_namespace
     WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_') AND NOT nspname = ANY(:silent)
), members AS (
    SELECT d.classid, d.objid, d.refobjid AS schema
      FROM pg_catalog.pg_depend d
      JOIN schemas s ON s.oid = d.refobjid
     WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.deptype = 'n'
), hanging AS (
    SELECT d.classid, d.objid, m.schema
      FROM pg_catalog.pg_depend d
      JOIN members m ON m.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = m.classid AND d.refobjid = m.objid
     WHERE d.classid IN ('pg_catalog.pg_policy'::regclass, 'pg_catalog.pg_statistic_ext'::regclass,
                         'pg_catalog.pg_publication_rel'::regclass)
        OR d.classid = 'pg_catalog.pg_trigger'::regclass
           AND EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.oid = d.objid AND NOT t.tgisinternal)
        OR d.classid = 'pg_catalog.pg_rewrite'::regclass
           AND EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.oid = d.objid AND r.rulename <> '_RETURN')
), loose AS (
    SELECT 'pg_catalog.pg_extension'::regclass AS classid, oid AS objid FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'
     UNION ALL
    SELECT 'pg_catalog.pg_event_trigger'::regclass, oid FROM pg_catalog.pg_event_trigger
     UNION ALL
    SELECT 'pg_catalog.pg_publication'::regclass, oid FROM pg_catalog.pg_publication
     UNION ALL
    SELECT 'pg_catalog.pg_foreign_server'::regclass, oid FROM pg_catalog.pg_foreign_server
     UNION ALL
    SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, oid FROM pg_catalog.pg_foreign_data_wrapper
     UNION ALL
    SELECT 'pg_catalog.pg_default_acl'::regclass, oid FROM pg_catalog.pg_default_acl
     UNION ALL
    SELECT 'pg_catalog.pg_language'::regclass, oid FROM pg_catalog.pg_language WHERE oid >= :first_user_oid
     UNION ALL
    SELECT 'pg_catalog.pg_cast'::regclass, oid FROM pg_catalog.pg_cast WHERE oid >= :first_user_oid
     UNION ALL
    SELECT 'pg_catalog.pg_namespace'::regclass, oid FROM schemas WHERE oid <> :schema AND nspname <> 'public'
), found AS (
    SELECT classid, objid, schema = :schema AS is_here FROM members
     UNION
    SELECT classid, objid, schema = :schema FROM hanging
     UNION
    SELECT classid, objid, false FROM loose
)
SELECT DISTINCT pg_describe_object(f.classid, f.objid, 0) AS name
  FROM found f
  LEFT JOIN pg_catalog.pg_class c ON f.classid = 'pg_catalog.pg_class'::regclass AND c.oid = f.objid
  LEFT JOIN pg_catalog.pg_type t ON f.classid = 'pg_catalog.pg_type'::regclass AND t.oid = f.objid
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = f.classid AND e.objid = f.objid AND e.deptype = 'e')
   AND NOT (f.is_here AND COALESCE(c.oid = ANY(:tables), false))
   AND NOT (f.is_here AND COALESCE(c.relname = ANY(:skip), false))
   AND NOT (f.is_here AND :with_enums AND COALESCE(t.typtype = 'e', false))
   -- A sequence that a column owns goes with its column, as an index goes with its table.
   AND NOT (f.is_here AND COALESCE(c.relkind IN ('S', 'i', 'I'), false)
            AND EXISTS (SELECT FROM pg_catalog.pg_depend o
                         WHERE o.classid = f.classid AND o.objid = c.oid AND o.deptype IN ('a', 'i')
                           AND o.refclassid = 'pg_catalog.pg_class'::regclass))
 ORDER BY 1
