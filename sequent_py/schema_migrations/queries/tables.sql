-- The tables of a schema that no extension owns, with what a dump cannot say about each.
-- schema: oid
SELECT c.oid,
       c.relname AS name,
       c.relkind = 'p' AS is_partitioned,
       c.relispartition AS is_partition,
       NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS inherits,
       c.reloftype <> 0 AS is_typed,
       c.relpersistence = 'u' AS is_unlogged,
       c.relreplident <> 'd' AS has_replica_identity,
       c.relrowsecurity AS has_row_security,
       c.reltablespace <> 0 AS has_tablespace,
       c.relacl IS NOT NULL AS has_grants
  FROM pg_catalog.pg_class c
 WHERE c.relnamespace = :schema
   AND c.relkind IN ('r', 'p')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY c.relname
