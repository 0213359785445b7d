"""What going back needs to know of a cut-over: the snapshot in which both generations of tables were complete.

The last pass's ``snapshot_until`` would nearly do, but a view migration that replays nothing has no pass, and it can orphan tables all
the same. Live tables do not follow edits of events, so a table that comes back has to be given those since it came to serve, not only those
since it left.
"""

from __future__ import annotations

from typing import Any


def up(op: Any) -> None:
    """Add the columns; what is live already takes the last pass's snapshot, behind which its gate was closed."""
    op.run(
        "ALTER TABLE view_migrations ADD COLUMN promoted_snapshot pg_snapshot NULL, ADD COLUMN return_pass integer NULL"
    )
    op.run("ALTER TABLE view_tables ADD COLUMN served_since pg_snapshot NULL")
    op.run(COMMENTS)
    op.run(FROM_LAST_PASS)
    op.run(SERVED_SINCE_LAST_PASS)


def down(op: Any) -> None:
    """Remove them; no migration can be rolled back then."""
    op.run("ALTER TABLE view_tables DROP COLUMN served_since")
    op.run("ALTER TABLE view_migrations DROP COLUMN promoted_snapshot, DROP COLUMN return_pass")


COMMENTS = """
COMMENT ON COLUMN view_migrations.promoted_snapshot IS
    'Of the latest cut-over, in either direction, taken while nobody could write: the tables that retired hold exactly what it sees.';
COMMENT ON COLUMN view_migrations.return_pass IS
    'The first pass that brings those tables up to date; null while no rollback has begun since that cut-over.';
COMMENT ON COLUMN view_tables.served_since IS
    'Of the latest cut-over that made the table live: it held exactly what that sees, edits of events included.';
"""

FROM_LAST_PASS = """
UPDATE view_migrations SET promoted_snapshot = (
    SELECT p.snapshot_until FROM replay_passes p WHERE p.migration_id = view_migrations.id ORDER BY p.number DESC LIMIT 1
)
WHERE state = 'live'
"""

SERVED_SINCE_LAST_PASS = """
UPDATE view_tables SET served_since = (
    SELECT p.snapshot_until FROM replay_passes p WHERE p.migration_id = view_tables.migration_id ORDER BY p.number DESC LIMIT 1
)
WHERE role <> 'shadow'
"""
