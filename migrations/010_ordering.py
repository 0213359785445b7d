"""Orderings: groups that replay partition keys or everything in one lane, and versions that need serial appends."""

from __future__ import annotations

from typing import Any


def up(op: Any) -> None:
    """Say of each group and table which projectors it is for, and of each migration whether its version needs serial appends."""
    op.run(REPLAY_GROUPS)
    op.run(VIEW_MIGRATIONS)
    op.run(VIEW_TABLES)


def down(op: Any) -> None:
    """Take the columns away."""
    op.run("ALTER TABLE view_tables DROP COLUMN ordering")
    op.run("ALTER TABLE view_migrations DROP COLUMN needs_serial_appends")
    op.run(
        "ALTER TABLE replay_groups DROP CONSTRAINT replay_groups_slice_check, DROP COLUMN slices, DROP COLUMN slice,"
        " DROP COLUMN ordering"
    )


REPLAY_GROUPS = """
ALTER TABLE replay_groups
    ADD COLUMN ordering text NOT NULL DEFAULT 'aggregate',
    ADD COLUMN slice integer NULL,
    ADD COLUMN slices integer NULL,
    ADD CONSTRAINT replay_groups_slice_check CHECK (
        CASE ordering
            WHEN 'aggregate' THEN slice IS NULL AND slices IS NULL
            WHEN 'partition' THEN num_nulls(slice, slices, partition, lower, upper) = 3 AND 0 <= slice AND slice < slices
            WHEN 'global' THEN num_nulls(slice, slices, partition, lower, upper) = 5
            ELSE false
        END
    );
COMMENT ON COLUMN replay_groups.ordering IS 'The group is replayed for the projectors of this ordering.';
COMMENT ON COLUMN replay_groups.slice IS 'Of the partition keys, those whose hash modulo slices is this.';
"""

VIEW_MIGRATIONS = """
ALTER TABLE view_migrations ADD COLUMN needs_serial_appends boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN view_migrations.needs_serial_appends IS 'Whether the target version has a projector with the ordering global.';
"""

VIEW_TABLES = """
ALTER TABLE view_tables
    ADD COLUMN ordering text NOT NULL DEFAULT 'aggregate',
    ADD CONSTRAINT view_tables_ordering_check CHECK (ordering IN ('aggregate', 'partition', 'global'));
COMMENT ON COLUMN view_tables.ordering IS 'The ordering of the projectors that built it.';
"""
