"""Edited events by aggregate, so that a replay re-folds what was edited; aggregates that a replay set aside.

``event_edits`` gets one row per aggregate and statement in place of one per statement. Rows without an aggregate stand for everything: those
of TRUNCATE, and those from before this migration.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any


def up(op: Any) -> None:
    """Note edits by aggregate; add the tables of special and of quarantined aggregates."""
    filled = _first()["_filled"]
    op.run(EVENT_EDITS)
    for function in (GUARD_EVENTS, NOTE_UPDATES, NOTE_DELETES):
        op.run(filled(op, function))
    # A statement fires the triggers of the table that it names and no others: of the parent for rows of all partitions, or of a partition.
    for table in tables():
        op.run(
            f"CREATE OR REPLACE TRIGGER {table}_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION guard_events_v2()"
        )
        op.run(
            f"CREATE TRIGGER {table}_updates AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_events NEW TABLE AS new_events"
            " FOR EACH STATEMENT EXECUTE FUNCTION note_event_updates_v1()"
        )
        op.run(
            f"CREATE TRIGGER {table}_deletes AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_events"
            " FOR EACH STATEMENT EXECUTE FUNCTION note_event_deletes_v1()"
        )
    op.run(SPECIAL_AGGREGATES)
    op.run(QUARANTINE)


def down(op: Any) -> None:
    """Note edits by statement again."""
    op.run("DROP TABLE quarantined_aggregates")
    op.run("ALTER TABLE view_migrations DROP COLUMN quarantine_limit")
    op.run("DROP TABLE special_aggregates")
    for table in tables():
        op.run(f"DROP TRIGGER {table}_deletes ON {table}")
        op.run(f"DROP TRIGGER {table}_updates ON {table}")
        op.run(
            f"CREATE OR REPLACE TRIGGER {table}_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION guard_events_v1()"
        )
    op.run("DROP FUNCTION note_event_deletes_v1()")
    op.run("DROP FUNCTION note_event_updates_v1()")
    op.run("DROP FUNCTION guard_events_v2()")
    op.run("DROP INDEX event_edits_xact_id")
    op.run("ALTER TABLE event_edits DROP COLUMN aggregate_id")
    op.run(
        "COMMENT ON TABLE event_edits IS"
        " 'One row per statement that updated, deleted or truncated events: no snapshot window shows what it changed.'"
    )


def tables() -> list[str]:
    """Return the names of ``events`` and its partitions."""
    return ["events", *_first()["partitions"]()]


def _first() -> dict[str, Any]:
    """Return what 001 defines: it never changes."""
    return runpy.run_path(str(Path(__file__).with_name("001_event_store.py")))


EVENT_EDITS = """
ALTER TABLE event_edits ADD COLUMN aggregate_id uuid NULL;
CREATE INDEX event_edits_xact_id ON event_edits (xact_id);
COMMENT ON TABLE event_edits IS
    'One row per aggregate whose events a statement updated or deleted: no snapshot window shows what it changed. Kept for ever: tables that were retired long ago are brought up to date by it.';
COMMENT ON COLUMN event_edits.aggregate_id IS 'Null: everything may have changed (TRUNCATE, and statements before edits were noted by aggregate).';
"""

# Purpose: the gate for what does not call append_events. TRUNCATE has no transition tables; it is noted here.
GUARD_EVENTS = """
CREATE FUNCTION guard_events_v2() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    PERFORM {schema}.check_gate_v2();
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {schema}.event_edits (operation) VALUES (TG_OP);
    END IF;
    RETURN NULL;
END
$body$;
"""

# Purpose: note the aggregates whose rows differ before and after, both when a row moved from one to another.
# A row that only got the oldest transaction id, where it had one that this cluster has not given out yet, is as it was: that is how a store
# that was restored from another cluster is repaired (sequent doctor --repair).
NOTE_UPDATES = """
CREATE FUNCTION note_event_updates_v1() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    horizon xid8 := pg_snapshot_xmax(pg_current_snapshot());
BEGIN
    INSERT INTO {schema}.event_edits (operation, aggregate_id)
    WITH before AS (
        SELECT o.position, o.created_at, o.aggregate_id, o.sequence_number, o.event_type_id, o.payload, o.metadata,
               CASE WHEN o.xact_id >= horizon AND o.xact_id <> pg_current_xact_id() THEN '3'::xid8 ELSE o.xact_id END AS xact_id
        FROM old_events o
    ), after AS (
        SELECT n.position, n.created_at, n.aggregate_id, n.sequence_number, n.event_type_id, n.payload, n.metadata, n.xact_id
        FROM new_events n
    ), changed AS (
        (SELECT b.* FROM before b EXCEPT ALL SELECT a.* FROM after a)
        UNION ALL
        (SELECT a.* FROM after a EXCEPT ALL SELECT b.* FROM before b)
    )
    SELECT DISTINCT 'UPDATE', c.aggregate_id FROM changed c;
    RETURN NULL;
END
$body$;
"""

# Purpose: note the aggregates that lost rows.
NOTE_DELETES = """
CREATE FUNCTION note_event_deletes_v1() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    INSERT INTO {schema}.event_edits (operation, aggregate_id)
    SELECT DISTINCT 'DELETE', o.aggregate_id FROM old_events o;
    RETURN NULL;
END
$body$;
"""

SPECIAL_AGGREGATES = """
CREATE TABLE special_aggregates (
    migration_id   bigint      NOT NULL,
    pass           integer     NOT NULL,
    aggregate_id   uuid        NOT NULL,
    snapshot_since pg_snapshot NULL,
    is_edited      boolean     NOT NULL,
    PRIMARY KEY (migration_id, pass, aggregate_id),
    FOREIGN KEY (migration_id, pass) REFERENCES replay_passes (migration_id, number),
    CONSTRAINT edited_ones_begin_at_the_beginning CHECK (NOT is_edited OR snapshot_since IS NULL)
);
COMMENT ON TABLE special_aggregates IS
    'Aggregates of which a pass folds not its own window, but the events visible in its snapshot_until and not in this snapshot_since.';
COMMENT ON COLUMN special_aggregates.is_edited IS 'Their rows are deleted first: they were made of events that are no more as they were.';
"""

QUARANTINE = """
ALTER TABLE view_migrations ADD COLUMN quarantine_limit integer NULL CHECK (quarantine_limit > 0);
COMMENT ON COLUMN view_migrations.quarantine_limit IS
    'How many aggregates a replay sets aside, when their events cannot be projected, before it stops; null: it stops at the first.';

CREATE TABLE quarantined_aggregates (
    migration_id    bigint      NOT NULL REFERENCES view_migrations (id),
    aggregate_id    uuid        NOT NULL,
    snapshot_since  pg_snapshot NULL,
    pass            integer     NOT NULL,
    projector       text        NULL,
    event_type      text        NOT NULL,
    sequence_number integer     NULL,
    error           text        NOT NULL,
    quarantined_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    accepted_at     timestamptz NULL,
    whole_tables    text[]      NOT NULL DEFAULT '{}',
    PRIMARY KEY (migration_id, aggregate_id)
);
COMMENT ON TABLE quarantined_aggregates IS 'Aggregates that a replay has set aside, because an event of theirs could not be projected.';
COMMENT ON COLUMN quarantined_aggregates.snapshot_since IS
    'The tables hold the fold of the events visible in it, and nothing later; null: no row of the aggregate.';
COMMENT ON COLUMN quarantined_aggregates.pass IS 'The pass that met the error last; it leaves the aggregate out.';
COMMENT ON COLUMN quarantined_aggregates.accepted_at IS
    'When the tables were promoted all the same. Until the aggregate is re-folded its events are recorded and not projected.';
COMMENT ON COLUMN quarantined_aggregates.whole_tables IS
    'Tables of the migration that hold all of the aggregate again: it was re-folded in them, and not in those that had retired by then, for example.';
"""
