"""Appending, second version: several code versions per caller, partition keys, and appends in one line where the order demands it.

Order across aggregates. Positions are drawn when an event is inserted, and transactions commit in any order: without more, position 5 may
become visible after 6. So whoever appends to an aggregate with a partition key first updates that key's row in ``partitions`` and keeps
it until the end of the transaction; and while ``gate.serial_appends`` is set, whoever writes events at all does the same with the one row of
``append_order``. Positions are drawn behind that lock, so that within a key (or in the whole store) they rise in the order of the commits:
every snapshot then holds a prefix. It is an update and not a mere lock, so that a caller in REPEATABLE READ or SERIALIZABLE whose snapshot is older
than the last such commit fails with 40001, instead of projecting from rows that are out of date.

The functions of version 1 stay for processes of the release that calls them, and go through those of version 2.

SQLSTATEs of our own, beside those of 001: SQ004 the aggregate has another partition key, or events without one (detail: its key).
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

V1_ARGUMENTS = "uuid, integer, integer[], jsonb[], jsonb, timestamptz, integer"
V2_ARGUMENTS = "uuid, integer, integer[], jsonb[], jsonb, timestamptz, integer[], text"


def up(op: Any) -> None:
    """Create the tables and the second versions; let the first ones call them."""
    filled = _first()["_filled"]
    op.run(TABLES)
    for function in (CHECK_GATE, APPEND_EVENTS, CHECK_GATE_V1, GUARD_EVENTS_V1, APPEND_EVENTS_V1):
        op.run(filled(op, function))


def down(op: Any) -> None:
    """Put the first versions back as they were, and drop the rest."""
    first = _first()
    for name in ("CHECK_GATE", "GUARD_EVENTS", "APPEND_EVENTS"):
        op.run(first["_filled"](op, first[name].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)))
    op.run(f"DROP FUNCTION append_events_v2({V2_ARGUMENTS})")
    op.run("DROP FUNCTION check_gate_v2()")
    op.run("DROP TABLE append_order")
    op.run("DROP TABLE aggregate_partitions")
    op.run("DROP TABLE partitions")
    op.run("ALTER TABLE gate DROP COLUMN serial_appends, DROP COLUMN cut_overs")


def _first() -> dict[str, Any]:
    """Return what 001 defines: it never changes, and its functions come back from it."""
    return runpy.run_path(str(Path(__file__).with_name("001_event_store.py")))


TABLES = """
ALTER TABLE gate ADD COLUMN serial_appends boolean NOT NULL DEFAULT false, ADD COLUMN cut_overs bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN gate.cut_overs IS 'How often the live version was set: a version that comes back can have other tables than it had.';
COMMENT ON COLUMN gate.serial_appends IS 'Set while a live or unfinished version has a projector that needs all events in position order.';

CREATE TABLE append_order (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    xact_id xid8 NOT NULL
) WITH (fillfactor = 10);
INSERT INTO append_order (xact_id) VALUES (pg_current_xact_id());
COMMENT ON TABLE append_order IS 'One row, updated by every transaction that writes events while gate.serial_appends is set: they form a line.';

CREATE TABLE partitions (
    partition_key text COLLATE "C" PRIMARY KEY CHECK (partition_key <> ''),
    xact_id xid8 NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE partitions IS 'Partition keys; each is updated by every transaction that appends to one of its aggregates: they form a line.';

CREATE TABLE aggregate_partitions (
    aggregate_id uuid PRIMARY KEY,
    partition_key text COLLATE "C" NOT NULL REFERENCES partitions
);
CREATE INDEX aggregate_partitions_partition_key ON aggregate_partitions (partition_key);
COMMENT ON TABLE aggregate_partitions IS 'The partition key of each aggregate that has one, from its first event on. Others are partitions of their own.';
"""

# Purpose, locks and reasons: as check_gate_v1, see 001; also returns how often the live version was set. While gate.serial_appends is set it also takes its place in the line.
# A closed row is read again after looking for the coordinator's lock: one that has let go of it may have died, or have promoted between our
# reading and our looking, and then another version is live. A coordinator that comes after our looking waits for us before it promotes.
# The update is skipped where this transaction has made it already: an append passes here twice, once more for the trigger.
CHECK_GATE = """
CREATE FUNCTION check_gate_v2(OUT live_version integer, OUT cut_overs bigint)
LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    closed_because text;
    closing_migration bigint;
    is_serial boolean;
    is_led boolean;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({schema}.gate_key());
    IF current_setting('transaction_isolation') = 'read committed' THEN
        SELECT g.maintenance_reason, g.closed_by_migration, g.live_version, g.cut_overs, g.serial_appends
        INTO STRICT closed_because, closing_migration, live_version, cut_overs, is_serial FROM {schema}.gate g;
    ELSE
        SELECT g.maintenance_reason, g.closed_by_migration, g.live_version, g.cut_overs, g.serial_appends
        INTO STRICT closed_because, closing_migration, live_version, cut_overs, is_serial FROM {schema}.gate g FOR SHARE;
    END IF;
    -- A coordinator that died has let go of its lock: its closing no longer counts, and nobody need clear it.
    IF closing_migration IS NOT NULL AND closed_because IS NULL THEN
        is_led := EXISTS (
            SELECT FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.granted AND l.objsubid = 1
              AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
              AND (l.classid::bigint << 32 | l.objid::bigint) = {schema}.migration_key()
        );
        SELECT g.maintenance_reason, g.closed_by_migration, g.live_version, g.cut_overs, g.serial_appends
        INTO STRICT closed_because, closing_migration, live_version, cut_overs, is_serial FROM {schema}.gate g;
        IF is_led AND closing_migration IS NOT NULL AND closed_because IS NULL THEN
            closed_because := format('view migration %s is being promoted', closing_migration);
        END IF;
    END IF;
    IF closed_because IS NOT NULL THEN
        RAISE EXCEPTION 'the event store is in maintenance mode (%); nothing was written', closed_because
            USING ERRCODE = 'SQ002', DETAIL = closed_because, HINT = 'Try again later.';
    END IF;
    IF is_serial THEN
        UPDATE {schema}.append_order o SET xact_id = pg_current_xact_id() WHERE o.xact_id <> pg_current_xact_id();
    END IF;
END
$body$;
"""

# Purpose: append a batch of events to one aggregate.
# Parameters: as append_events_v1, see 001, but for
#   code_versions: all versions whose projectors the caller has; refused when a version is live (not 0) and not among them.
#   partition_key: of the aggregate's first append, and the same or NULL in every later one.
# Returns: the first event's sequence number, all positions in order, the time; the live version, which is the one to project into, and how often it was set.
# Locks: see check_gate_v2; the partition key's row until the end of the transaction. Two keys in one transaction are locked in the order
#   of the appends, so two transactions that take them in different orders can deadlock, which the server resolves by failing one.
APPEND_EVENTS = """
CREATE FUNCTION append_events_v2(
    aggregate_id uuid, expected_version integer, event_type_ids integer[], payloads jsonb[], metadata jsonb,
    created_at timestamptz, code_versions integer[], partition_key text,
    OUT first_sequence_number integer, OUT positions bigint[], OUT recorded_at timestamptz, OUT live_version integer, OUT cut_overs bigint
)
LANGUAGE plpgsql VOLATILE AS $body$
#variable_conflict use_variable
DECLARE
    actual_version integer;
    known_key text;
    passed record;
BEGIN
    -- An assignment, which costs a tenth of a query.
    passed := {schema}.check_gate_v2();
    live_version := passed.live_version;
    cut_overs := passed.cut_overs;
    IF live_version <> 0 AND live_version <> ALL (code_versions) THEN
        RAISE EXCEPTION 'this code is at view-schema version %, the database at %; nothing was appended', code_versions, live_version
            USING ERRCODE = 'SQ003', DETAIL = live_version::text;
    END IF;
    IF expected_version IS NULL THEN
        SELECT p.partition_key INTO known_key
        FROM {schema}.aggregate_partitions p WHERE p.aggregate_id = append_events_v2.aggregate_id;
        known_key := coalesce(known_key, partition_key);
        IF known_key IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtextextended(aggregate_id::text, {schema}.gate_key()));
        ELSE
            -- The key's row makes them queue as well. An aggregate's lock before it would let two transactions of one partition wait for
            -- each other: one has the row and wants the lock of the aggregate for which the other wants the row.
            INSERT INTO {schema}.partitions AS p (partition_key, xact_id) VALUES (known_key, pg_current_xact_id())
            ON CONFLICT ON CONSTRAINT partitions_pkey DO UPDATE SET xact_id = excluded.xact_id WHERE p.xact_id <> excluded.xact_id;
        END IF;
        LOOP
            SELECT coalesce(max(e.sequence_number), 0) INTO STRICT actual_version
            FROM {schema}.events e WHERE e.aggregate_id = append_events_v2.aggregate_id;
            BEGIN
                SELECT a.first_sequence_number, a.positions, a.recorded_at INTO STRICT first_sequence_number, positions, recorded_at
                FROM {schema}.append_events_v2(
                    aggregate_id, actual_version, event_type_ids, payloads, metadata, created_at, code_versions, partition_key) a;
                RETURN;
            EXCEPTION WHEN unique_violation OR SQLSTATE 'SQ001' THEN
                -- In the other isolation levels reading again would show the same, for ever.
                IF current_setting('transaction_isolation') <> 'read committed' THEN
                    RAISE;
                END IF;
            END;
        END LOOP;
    END IF;
    SELECT coalesce(max(e.sequence_number), 0) INTO STRICT actual_version
    FROM {schema}.events e WHERE e.aggregate_id = append_events_v2.aggregate_id;
    IF actual_version <> expected_version THEN
        RAISE EXCEPTION 'aggregate % is at version %, expected %', aggregate_id, actual_version, expected_version
            USING ERRCODE = 'SQ001', DETAIL = actual_version::text;
    END IF;
    -- Read after the version: whoever sees the first event sees the key that came with it.
    SELECT p.partition_key INTO known_key
    FROM {schema}.aggregate_partitions p WHERE p.aggregate_id = append_events_v2.aggregate_id;
    IF partition_key IS NULL THEN
        partition_key := known_key;
    ELSIF partition_key IS DISTINCT FROM known_key AND (known_key IS NOT NULL OR actual_version > 0) THEN
        RAISE EXCEPTION 'aggregate % has partition key %, not %', aggregate_id, coalesce(known_key, '(none)'), partition_key
            USING ERRCODE = 'SQ004', DETAIL = coalesce(known_key, '');
    END IF;
    IF partition_key IS NOT NULL THEN
        INSERT INTO {schema}.partitions AS p (partition_key, xact_id) VALUES (partition_key, pg_current_xact_id())
        ON CONFLICT ON CONSTRAINT partitions_pkey DO UPDATE SET xact_id = excluded.xact_id WHERE p.xact_id <> excluded.xact_id;
    END IF;
    first_sequence_number := actual_version + 1;
    recorded_at := coalesce(created_at, clock_timestamp());
    WITH inserted AS (
        INSERT INTO {schema}.events AS e (created_at, aggregate_id, sequence_number, event_type_id, payload, metadata)
        SELECT recorded_at, append_events_v2.aggregate_id, actual_version + b.number::integer, b.event_type_id, b.payload,
               append_events_v2.metadata
        FROM unnest(event_type_ids, payloads) WITH ORDINALITY AS b (event_type_id, payload, number)
        RETURNING e.sequence_number, e.position
    )
    SELECT array_agg(i.position ORDER BY i.sequence_number) INTO STRICT positions FROM inserted i;
    -- Behind the events: whoever gave the aggregate its first event decides, and nobody else can have since.
    IF partition_key IS DISTINCT FROM known_key THEN
        INSERT INTO {schema}.aggregate_partitions (aggregate_id, partition_key) VALUES (aggregate_id, partition_key);
    END IF;
END
$body$;
"""

CHECK_GATE_V1 = """
CREATE OR REPLACE FUNCTION check_gate_v1() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    RETURN (SELECT g.live_version FROM {schema}.check_gate_v2() g);
END
$body$;
"""

GUARD_EVENTS_V1 = """
CREATE OR REPLACE FUNCTION guard_events_v1() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    PERFORM {schema}.check_gate_v2();
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO {schema}.event_edits (operation) VALUES (TG_OP);
    END IF;
    RETURN NULL;
END
$body$;
"""

APPEND_EVENTS_V1 = """
CREATE OR REPLACE FUNCTION append_events_v1(
    aggregate_id uuid, expected_version integer, event_type_ids integer[], payloads jsonb[], metadata jsonb,
    created_at timestamptz, code_version integer,
    OUT first_sequence_number integer, OUT positions bigint[], OUT recorded_at timestamptz, OUT live_version integer
)
LANGUAGE plpgsql VOLATILE AS $body$
#variable_conflict use_variable
BEGIN
    SELECT a.first_sequence_number, a.positions, a.recorded_at, a.live_version
    INTO STRICT first_sequence_number, positions, recorded_at, live_version
    FROM {schema}.append_events_v2(
        aggregate_id, expected_version, event_type_ids, payloads, metadata, created_at, ARRAY[code_version], NULL) a;
END
$body$;
"""
