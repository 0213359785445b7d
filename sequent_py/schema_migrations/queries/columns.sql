-- The columns of tables. "element" is the type of an array's elements, or the type itself.
-- tables: oid[], schema: oid
WITH typed AS (
    SELECT a.*, c.relname, c.relnamespace, t.typstorage, t.typcollation, element.oid AS element_oid,
           element.typtype AS element_kind, element.typnamespace AS element_schema, element.typbasetype, element.typtypmod,
           element.oid <> t.oid AS is_array
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      JOIN pg_catalog.pg_type element ON element.oid = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END
     WHERE c.oid = ANY(:tables) AND a.attnum > 0 AND NOT a.attisdropped
)
SELECT c.relname AS table_name,
       c.attname AS name,
       format_type(c.atttypid, c.atttypmod) AS type_sql,
       c.element_kind = 'e' AND c.element_schema = :schema AS is_enum,
       c.element_kind = 'd' AS is_domain,
       c.element_schema <> 'pg_catalog'::regnamespace AS is_user_defined,
       base.typtype = 'b' AND base.typnamespace = 'pg_catalog'::regnamespace AS has_plain_base,
       format_type(base.oid, c.typtypmod) || CASE WHEN c.is_array THEN '[]' ELSE '' END AS base_sql,
       CASE WHEN c.attcollation <> c.typcollation THEN quote_ident(o.collname) END AS collation,
       COALESCE(o.collnamespace <> 'pg_catalog'::regnamespace, false) AS has_own_collation,
       c.attidentity <> '' AS is_identity,
       c.attnotnull AS is_not_null,
       pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.attname) AS sequence,
       c.attstorage <> c.typstorage AS has_storage,
       c.attcompression <> '' AS has_compression,
       COALESCE(c.attstattarget, -1) <> -1 AS has_statistics_target,
       c.attacl IS NOT NULL AS has_grants
  FROM typed c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_type base ON base.oid = c.typbasetype AND base.oid <> 0
  LEFT JOIN pg_catalog.pg_collation o ON o.oid = c.attcollation
 ORDER BY c.relname, c.attnum
