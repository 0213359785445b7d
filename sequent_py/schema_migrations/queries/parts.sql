-- Constraints, indexes, defaults and generated columns of tables: the columns that each uses, and the objects of users that it needs.
-- tables: oid[], first_user_oid: int (objects below it come with every database)
WITH part (kind, classid, oid, relid, name, definition) AS (
    SELECT c.contype::text, 'pg_catalog.pg_constraint'::regclass, c.oid, c.conrelid, c.conname, pg_get_constraintdef(c.oid)
      FROM pg_catalog.pg_constraint c
     WHERE c.conrelid = ANY(:tables) AND c.contype IN ('c', 'f', 'p', 'u', 'x')
     UNION ALL
    SELECT 'i', 'pg_catalog.pg_class'::regclass, i.indexrelid, i.indrelid, r.relname,
           pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class r ON r.oid = i.indexrelid
     WHERE i.indrelid = ANY(:tables)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
     UNION ALL
    SELECT CASE a.attgenerated WHEN '' THEN 'default' ELSE 'generated' END, 'pg_catalog.pg_attrdef'::regclass, d.oid, d.adrelid,
           a.attname, pg_get_expr(d.adbin, d.adrelid)
      FROM pg_catalog.pg_attrdef d
      JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
     WHERE d.adrelid = ANY(:tables)
)
SELECT p.kind,
       c.relname AS table_name,
       p.name,
       p.definition,
       ARRAY(SELECT DISTINCT a.attname::text
               FROM pg_catalog.pg_depend d
               JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = p.classid AND d.objid = p.oid
                AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = p.relid AND d.refobjsubid > 0) AS columns,
       ARRAY(SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0)
               FROM pg_catalog.pg_depend d
               LEFT JOIN pg_catalog.pg_type t ON d.refclassid = 'pg_catalog.pg_type'::regclass AND t.oid = d.refobjid
               LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem AND t.typcategory = 'A'
              WHERE d.classid = p.classid AND d.objid = p.oid AND d.deptype IN ('n', 'a')
                AND d.refobjid >= :first_user_oid
                -- A foreign key's other table is looked at by name, and enum types are dumped.
                AND NOT (d.refclassid = 'pg_catalog.pg_class'::regclass AND (d.refobjid = p.relid OR p.kind IN ('f', 'i')))
                AND d.refclassid <> 'pg_catalog.pg_constraint'::regclass
                AND NOT (COALESCE(element.typtype, t.typtype, '') = 'e' AND t.typnamespace = c.relnamespace)
                -- The sequence of a serial column.
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o
                                 WHERE p.kind = 'default' AND o.classid = 'pg_catalog.pg_class'::regclass AND o.objid = d.refobjid
                                   AND o.refobjid = p.relid AND o.deptype = 'a')
              UNION ALL
             SELECT pg_describe_object('pg_catalog.pg_class'::regclass, f.confrelid, 0)
               FROM pg_catalog.pg_constraint f
              WHERE p.kind = 'f' AND f.oid = p.oid AND f.confrelid <> ALL(:tables)) AS uses
  FROM part p
  JOIN pg_catalog.pg_class c ON c.oid = p.relid
 ORDER BY c.relname, p.kind, p.name
