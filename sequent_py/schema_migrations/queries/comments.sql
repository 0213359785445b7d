-- The constraints and indexes of tables that have a comment.
-- tables: oid[]
SELECT pg_describe_object(d.classoid, d.objoid, 0) AS name
  FROM pg_catalog.pg_description d
 WHERE (d.classoid = 'pg_catalog.pg_constraint'::regclass
        AND d.objoid IN (SELECT oid FROM pg_catalog.pg_constraint WHERE conrelid = ANY(:tables)))
    OR (d.classoid = 'pg_catalog.pg_class'::regclass
        AND d.objoid IN (SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = ANY(:tables)))
 ORDER BY 1
