-- The schema to dump: the one that is named, or the first of the search path.
-- schema: text or null
SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname = COALESCE(:schema, current_schema())
