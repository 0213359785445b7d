"""The governor: whether replays are paused, and under which limits, and with which code, the present one runs. And an index in the order of claims."""

from __future__ import annotations

from typing import Any


def up(op: Any) -> None:
    """Create the table and its row; let a claim read one group instead of sorting all that are left."""
    op.run(REPLAY_CONTROL)
    op.run("DROP INDEX replay_groups_unfinished")
    op.run(
        "CREATE INDEX replay_groups_unfinished ON replay_groups (migration_id, pass, estimated_events DESC, number)"
        " WHERE done_at IS NULL"
    )


def down(op: Any) -> None:
    """Take both back."""
    op.run("DROP INDEX replay_groups_unfinished")
    op.run(
        "CREATE INDEX replay_groups_unfinished ON replay_groups (migration_id, estimated_events DESC) WHERE done_at IS NULL"
    )
    op.run("DROP TABLE replay_control")


REPLAY_CONTROL = """
CREATE TABLE replay_control (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    paused_at timestamptz,
    paused_by text,
    pause_reason text,
    migration_id bigint,
    epoch integer,
    rate double precision CHECK (rate > 0),
    max_load double precision CHECK (max_load >= 0),
    max_replica_lag_seconds double precision CHECK (max_replica_lag_seconds > 0),
    free_at timestamptz,
    code jsonb,
    CONSTRAINT replay_control_pause_check CHECK ((paused_at IS NULL) = (paused_by IS NULL)),
    CONSTRAINT replay_control_run_check CHECK ((migration_id IS NULL) = (epoch IS NULL))
);
INSERT INTO replay_control DEFAULT VALUES;

COMMENT ON TABLE replay_control IS 'One row: what workers on any host ask before they begin a group.';
COMMENT ON COLUMN replay_control.paused_at IS 'Since when no group is begun; until sequent migrate resume, whatever is restarted.';
COMMENT ON COLUMN replay_control.epoch IS 'Of the run of a command that the columns from rate on belong to; the next run replaces them.';
COMMENT ON COLUMN replay_control.free_at IS 'Under a rate: when the next group may be begun, whoever does it.';
COMMENT ON COLUMN replay_control.code IS 'Fingerprints of the code that folds; a worker that joins must have the same.';
"""
