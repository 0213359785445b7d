"""The bookkeeping of view migrations: one row per migration, one per managed relation.

The CHECK constraints are what ``sequent_py.view_schema.states`` derives from its transition table, written out here because a
migration that has run must not change; a test compares the two.
"""

from __future__ import annotations

from typing import Any


def up(op: Any) -> None:
    """Create ``view_migrations`` and ``view_tables``."""
    op.run(VIEW_MIGRATIONS)
    op.run(VIEW_TABLES)


def down(op: Any) -> None:
    """Drop both."""
    op.run("DROP TABLE view_tables")
    op.run("DROP TABLE view_migrations")


VIEW_MIGRATIONS = """
CREATE TABLE view_migrations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_version int NOT NULL,
    target_version int NOT NULL,
    state text NOT NULL,
    plan jsonb NOT NULL,
    files_fingerprint text NOT NULL,
    epoch int NOT NULL DEFAULT 1,
    error text,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    online_done_at timestamptz,
    finished_at timestamptz,
    rolled_back_at timestamptz,
    stall_milliseconds double precision,
    CONSTRAINT view_migrations_versions_check CHECK (from_version >= 0 AND target_version > from_version),
    CONSTRAINT view_migrations_state_check CHECK (
        state IN ('online_running', 'online_done', 'offline_running', 'golive_running', 'live', 'aborted', 'rolled_back')
    ),
    CONSTRAINT view_migrations_timestamps_check CHECK (
        (finished_at IS NOT NULL) = (state IN ('live', 'aborted', 'rolled_back'))
        AND (online_done_at IS NOT NULL OR state NOT IN ('online_done', 'offline_running', 'golive_running', 'live', 'rolled_back'))
        AND (online_done_at IS NULL OR state <> 'online_running')
        AND (rolled_back_at IS NOT NULL) = (state = 'rolled_back')
    )
);

-- At most one migration is unfinished.
CREATE UNIQUE INDEX view_migrations_one_unfinished ON view_migrations ((true)) WHERE finished_at IS NULL;

COMMENT ON TABLE view_migrations IS 'View migrations, the newest last. Liveness of the process at work is a lock, not a column.';
COMMENT ON COLUMN view_migrations.epoch IS 'Raised by each process that takes the migration over; workers of an older one are refused.';
COMMENT ON COLUMN view_migrations.files_fingerprint IS 'Of the table files when the migration began.';
"""

VIEW_TABLES = """
CREATE TABLE view_tables (
    physical_name text PRIMARY KEY,
    table_name text NOT NULL,
    role text NOT NULL,
    version int NOT NULL,
    built_version int NOT NULL,
    altered_version int,
    unmanaged_since int,
    migration_id bigint NOT NULL REFERENCES view_migrations (id),
    retired_by bigint REFERENCES view_migrations (id),
    names jsonb NOT NULL DEFAULT '{}',
    rows bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    indexed_at timestamptz,
    promoted_at timestamptz,
    retired_at timestamptz,
    CONSTRAINT view_tables_role_check CHECK (role IN ('shadow', 'live', 'retired')),
    CONSTRAINT view_tables_name_check CHECK ((role = 'live') = (physical_name = table_name)),
    CONSTRAINT view_tables_promoted_check CHECK ((role = 'shadow') = (promoted_at IS NULL)),
    CONSTRAINT view_tables_retired_check CHECK (
        (role = 'retired') = (retired_at IS NOT NULL) AND (role = 'retired') = (retired_by IS NOT NULL)
    )
);

-- Of each table one relation serves, and one at most is being built. Retired ones may be many.
CREATE UNIQUE INDEX view_tables_one_live ON view_tables (table_name) WHERE role = 'live';
CREATE UNIQUE INDEX view_tables_one_shadow ON view_tables (table_name) WHERE role = 'shadow';

COMMENT ON TABLE view_tables IS 'Relations of the view schema by the exact names under which they were made; nothing is dropped by pattern.';
COMMENT ON COLUMN view_tables.version IS 'The version that its suffix names: of a shadow table the target, of a retired one the last it served; of a live one the version that built it.';
COMMENT ON COLUMN view_tables.unmanaged_since IS 'The version from which on no projector has kept the table up to date; null while one does.';
COMMENT ON COLUMN view_tables.names IS 'What the swap renames along with it.';
"""
