"""Fingerprints of the code that built each managed table: digests of its parts, as ``sequent_py.view_schema.fingerprints`` makes them."""

from __future__ import annotations

from typing import Any


def up(op: Any) -> None:
    """Add the columns; null of what was built before."""
    op.run("""
        ALTER TABLE view_migrations ADD COLUMN code jsonb;
        COMMENT ON COLUMN view_migrations.code IS 'Fingerprints by table, of the code that worked on the migration last.';
        ALTER TABLE view_tables ADD COLUMN code jsonb;
        COMMENT ON COLUMN view_tables.code IS 'Fingerprints of the code that the table was promoted with; moves with the row when the table retires or comes back.';
    """)


def down(op: Any) -> None:
    """Drop them."""
    op.run("ALTER TABLE view_tables DROP COLUMN code; ALTER TABLE view_migrations DROP COLUMN code;")
