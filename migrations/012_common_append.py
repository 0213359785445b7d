"""Appending, third version: the common append, one event of an aggregate without partition key at a version that was expected, in two queries.

It is as append_events_v2 in what it checks, locks, writes and returns. Whatever is not that common is left to it, before anything is written: several events, no
expected version or a wrong one, a partition key, a gate that is closed or half open, serial appends, another isolation level, code of another version.

The guard of events takes the same way past an open gate.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

ARGUMENTS = "uuid, integer, integer[], jsonb[], jsonb, timestamptz, integer[], text"


def up(op: Any) -> None:
    """Create the third version, and let the guard look at the gate first."""
    filled = _earlier("001_event_store.py")["_filled"]
    for function in (APPEND_EVENTS, GUARD_EVENTS):
        op.run(filled(op, function))


def down(op: Any) -> None:
    """Drop it, and put the guard back as it was."""
    guard = _earlier("006_edits.py")["GUARD_EVENTS"].replace(
        "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1
    )
    op.run(_earlier("001_event_store.py")["_filled"](op, guard))
    op.run(f"DROP FUNCTION append_events_v3({ARGUMENTS})")


def _earlier(name: str) -> dict[str, Any]:
    """Return what an earlier file defines: it never changes."""
    return runpy.run_path(str(Path(__file__).with_name(name)))


# Purpose, parameters, result and locks: as append_events_v2, see 004.
# The gate's shared lock comes first: what the next statement reads of the gate holds until the end of the transaction.
# Assignments and RETURNING INTO cost a tenth of a query each.
APPEND_EVENTS = """
CREATE FUNCTION append_events_v3(
    aggregate_id uuid, expected_version integer, event_type_ids integer[], payloads jsonb[], metadata jsonb,
    created_at timestamptz, code_versions integer[], partition_key text,
    OUT first_sequence_number integer, OUT positions bigint[], OUT recorded_at timestamptz, OUT live_version integer, OUT cut_overs bigint
)
LANGUAGE plpgsql VOLATILE AS $body$
#variable_conflict use_variable
DECLARE
    is_common boolean;
    actual_version integer;
    drawn_position bigint;
    locked text;
BEGIN
    is_common := expected_version IS NOT NULL AND partition_key IS NULL
        AND cardinality(event_type_ids) = 1 AND cardinality(payloads) = 1
        AND current_setting('transaction_isolation') = 'read committed';
    IF is_common THEN
        locked := pg_advisory_xact_lock_shared({schema}.gate_key());
        SELECT g.maintenance_reason IS NULL AND g.closed_by_migration IS NULL AND NOT g.serial_appends AND NOT EXISTS (
                   SELECT FROM {schema}.aggregate_partitions p WHERE p.aggregate_id = append_events_v3.aggregate_id
               ),
               (
                   SELECT e.sequence_number FROM {schema}.events e WHERE e.aggregate_id = append_events_v3.aggregate_id
                   ORDER BY e.sequence_number DESC LIMIT 1
               ),
               g.live_version, g.cut_overs
        INTO is_common, actual_version, live_version, cut_overs FROM {schema}.gate g;
        is_common := is_common AND coalesce(actual_version, 0) = expected_version
            AND (live_version = 0 OR live_version = ANY (code_versions));
    END IF;
    -- Null where the gate's row is lost, which the second version says.
    IF is_common IS NOT TRUE THEN
        SELECT a.first_sequence_number, a.positions, a.recorded_at, a.live_version, a.cut_overs
        INTO STRICT first_sequence_number, positions, recorded_at, live_version, cut_overs
        FROM {schema}.append_events_v2(
            aggregate_id, expected_version, event_type_ids, payloads, metadata, created_at, code_versions, partition_key) a;
        RETURN;
    END IF;
    first_sequence_number := expected_version + 1;
    recorded_at := coalesce(created_at, clock_timestamp());
    INSERT INTO {schema}.events AS e (created_at, aggregate_id, sequence_number, event_type_id, payload, metadata)
    VALUES (recorded_at, aggregate_id, first_sequence_number, event_type_ids[1], payloads[1], metadata)
    RETURNING e.position INTO STRICT drawn_position;
    positions := ARRAY[drawn_position];
END
$body$;
"""

# Purpose: as before, see 006.
GUARD_EVENTS = """
CREATE OR REPLACE FUNCTION guard_events_v2() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    is_open boolean := false;
    locked text;
BEGIN
    IF current_setting('transaction_isolation') = 'read committed' THEN
        locked := pg_advisory_xact_lock_shared({schema}.gate_key());
        SELECT g.maintenance_reason IS NULL AND g.closed_by_migration IS NULL AND NOT g.serial_appends
        INTO is_open FROM {schema}.gate g;
    END IF;
    IF is_open IS NOT TRUE THEN
        PERFORM {schema}.check_gate_v2();
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {schema}.event_edits (operation) VALUES (TG_OP);
    END IF;
    RETURN NULL;
END
$body$;
"""
