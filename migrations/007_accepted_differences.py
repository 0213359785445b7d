"""What was accepted by ``--accept-differences``: with the migration, for good."""

from __future__ import annotations

from typing import Any


def up(op: Any) -> None:
    """Add the column; null where nothing had to be accepted."""
    op.run("""
        ALTER TABLE view_migrations ADD COLUMN accepted_differences jsonb
            CONSTRAINT view_migrations_accepted_differences_check CHECK (jsonb_typeof(accepted_differences) = 'array');
        COMMENT ON COLUMN view_migrations.accepted_differences IS
            'One element per failed verification that was let pass: when, by which database user, from which host, and what had been found.';
    """)


def down(op: Any) -> None:
    """Drop the column."""
    op.run("ALTER TABLE view_migrations DROP COLUMN accepted_differences")
