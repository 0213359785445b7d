"""What logical replication makes of a swap: to be said before it, because it happens elsewhere. Reads the catalogs only."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

_BY_NAME = """
    SELECT c.relname, p.pubname
    FROM pg_catalog.pg_publication_rel r
    JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
    JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY (%s) ORDER BY 1, 2
"""

_WHOLESALE = """
    SELECT p.pubname FROM pg_catalog.pg_publication p WHERE p.puballtables
    UNION
    SELECT p.pubname FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid
    JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid WHERE n.nspname = %s ORDER BY 1
"""


def warnings(connection: Connection, view_schema: str, tables: Collection[str]) -> list[str]:
    """Say what subscribers will not get, or get without wanting it, when these tables are replaced."""
    found = [
        f"Subscribers of the publication {publication} keep their rows of {table} and are sent only what is written after the swap:"
        f" empty {table} there and copy it anew."
        for table, publication in connection.execute(_BY_NAME, (view_schema, list(tables))).fetchall()
    ]
    if tables:
        found += [
            f"The publication {name} publishes whatever is created in {view_schema}: its subscribers need the shadow tables, and are sent"
            " the whole replay."
            for (name,) in connection.execute(_WHOLESALE, (view_schema,)).fetchall()
        ]
    return found
