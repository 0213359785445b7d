-- The sequences of a schema that are what CREATE TABLE (… serial) makes, but for their name.
-- schema: oid
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       c.relname AS plain_name,
       format_type(s.seqtypid, NULL) AS type_sql
  FROM pg_catalog.pg_sequence s
  JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relnamespace = :schema
   AND s.seqstart = 1 AND s.seqincrement = 1 AND s.seqmin = 1 AND s.seqcache = 1 AND NOT s.seqcycle
   AND c.relpersistence = 'p'
   AND s.seqmax = CASE format_type(s.seqtypid, NULL)
                  WHEN 'smallint' THEN 32767 WHEN 'integer' THEN 2147483647 ELSE 9223372036854775807 END
