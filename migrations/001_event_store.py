"""The event store: event types, events, the gate that every write passes, and the function that appends.

Locks are advisory, by three keys that are computed once here and then are constants: ``gate_key()`` is taken shared by every transaction
that writes events, ``migration_key()`` exclusively by the session that coordinates a view migration, ``worker_key()`` shared by every
worker's session.

SQLSTATEs of our own: SQ001 wrong expected version (detail: the actual one), SQ002 the gate is closed (detail: why), SQ003 the code's
view-schema version is not the live one (detail: the live one).

Functions carry a version: a later migration that changes one adds the next version, so that processes of the old release go on while the
new one is being deployed.
"""

from __future__ import annotations

from typing import Any

PARTITIONS = 16
"""Hash partitions of ``events``: a replay group reads one of them in the order in which it was written."""


def up(op: Any) -> None:
    """Create everything."""
    op.run(_filled(op, KEYS))
    op.run(TABLES)
    for number, partition in enumerate(partitions()):
        op.run(
            f"CREATE TABLE {partition} PARTITION OF events FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
    for function in (CHECK_GATE, GUARD_EVENTS, APPEND_EVENTS):
        op.run(_filled(op, function))
    # Statement triggers fire for the table that a statement names: the partitions need their own.
    for table in ("events", *partitions()):
        op.run(
            f"CREATE TRIGGER {table}_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION guard_events_v1()"
        )


def down(op: Any) -> None:
    """Drop everything, by name."""
    op.run("DROP FUNCTION append_events_v1(uuid, integer, integer[], jsonb[], jsonb, timestamptz, integer)")
    op.run("DROP TABLE events")
    op.run("DROP TABLE event_edits")
    op.run("DROP FUNCTION guard_events_v1()")
    op.run("DROP FUNCTION check_gate_v1()")
    op.run("DROP SEQUENCE event_positions")
    op.run("DROP TABLE gate")
    op.run("DROP TABLE event_types")
    op.run("DROP FUNCTION worker_key()")
    op.run("DROP FUNCTION migration_key()")
    op.run("DROP FUNCTION gate_key()")


def partitions() -> list[str]:
    """Return the names of the partitions of ``events``."""
    return [f"events_{number:02}" for number in range(PARTITIONS)]


def _filled(op: Any, text: str) -> str:
    """Put the schema's quoted name into functions, whose bodies PostgreSQL would otherwise resolve on each caller's search path.

    Bodies are quoted by a tag that does not occur in the name, whatever the name.
    """
    schema: str = op.event_store_schema
    tag = "$body$"
    while tag in schema:
        tag = f"${tag[1:-1]}_$"
    literal = "'" + schema.replace("\\", "\\\\").replace("'", "''") + "'"
    if "\\" in schema:
        literal = "E" + literal
    return text.replace("$body$", tag).replace("{schema_text}", literal).replace("{schema}", schema)


# Keys are written into the functions as numbers: computing the hash of a name would cost every append.
KEYS = """
DO $body$
DECLARE
    lock_name text;
BEGIN
    FOREACH lock_name IN ARRAY ARRAY['gate', 'migration', 'worker'] LOOP
        EXECUTE format(
            'CREATE FUNCTION %I() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS %L',
            lock_name || '_key',
            format('SELECT (%s)::bigint', hashtextextended({schema_text} || ':' || lock_name, 0))
        );
    END LOOP;
END
$body$;
"""

TABLES = """
CREATE TABLE event_types (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name <> '')
);
COMMENT ON TABLE event_types IS 'Stored names of event types; events refer to them by id. Nothing is ever deleted.';

CREATE TABLE gate (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    maintenance boolean NOT NULL DEFAULT false,
    maintenance_reason text,
    maintenance_since timestamptz,
    closed_by_migration bigint,
    live_version integer NOT NULL DEFAULT 0 CHECK (live_version >= 0),
    CONSTRAINT gate_maintenance_check
        CHECK (maintenance = (maintenance_reason IS NOT NULL) AND maintenance = (maintenance_since IS NOT NULL))
);
INSERT INTO gate DEFAULT VALUES;
COMMENT ON TABLE gate IS
    'One row that every append reads. Closed when maintenance, or when closed_by_migration and a session holds migration_key().';

-- CACHE 1 is needed: with more, a session would number its events from a block drawn earlier, and the order of positions
-- would no longer agree with the order of sequence numbers within an aggregate.
CREATE SEQUENCE event_positions AS bigint CACHE 1;

CREATE TABLE events (
    position bigint NOT NULL DEFAULT nextval('event_positions'),
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    aggregate_id uuid NOT NULL,
    sequence_number integer NOT NULL CHECK (sequence_number > 0),
    event_type_id integer NOT NULL,
    payload jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (aggregate_id, sequence_number)
) PARTITION BY HASH (aggregate_id);
CREATE TABLE event_edits (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    operation text NOT NULL,
    edited_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE event_edits IS 'One row per statement that updated, deleted or truncated events: no snapshot window shows what it changed.';
CREATE INDEX events_xact_id ON events (xact_id);
CREATE INDEX events_position ON events (position);
COMMENT ON TABLE events IS 'All events. Whatever writes here passes the gate.';
COMMENT ON COLUMN events.xact_id IS 'The writing transaction: it says which snapshots see the event. Snapshot windows are cut by it.';
"""

# Purpose: pass the gate and return the live version. Every transaction that writes events runs it first.
# Locks: gate_key() shared, until the transaction ends; in REPEATABLE READ and SERIALIZABLE also the gate row FOR SHARE.
# Why that is enough: a closing commits and *then* waits for all holders of gate_key(). Whoever gets the lock later reads the closed
# row: in READ COMMITTED because every statement here has a snapshot of its own; in the other levels the snapshot may be older than
# the closing, and FOR SHARE fails with 40001 rather than return the old row.
# The query on pg_locks stands in an IF of its own: PL/pgSQL evaluates a condition that holds a query as a query, 10 µs per append.
CHECK_GATE = """
CREATE FUNCTION check_gate_v1() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    closed_because text;
    closing_migration bigint;
    live integer;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({schema}.gate_key());
    IF current_setting('transaction_isolation') = 'read committed' THEN
        SELECT g.maintenance_reason, g.closed_by_migration, g.live_version
        INTO STRICT closed_because, closing_migration, live FROM {schema}.gate g;
    ELSE
        SELECT g.maintenance_reason, g.closed_by_migration, g.live_version
        INTO STRICT closed_because, closing_migration, live FROM {schema}.gate g FOR SHARE;
    END IF;
    -- A coordinator that died has let go of its lock: its closing no longer counts, and nobody need clear it.
    IF closing_migration IS NOT NULL AND closed_because IS NULL THEN
        IF EXISTS (
            SELECT FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.granted AND l.objsubid = 1
              AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
              AND (l.classid::bigint << 32 | l.objid::bigint) = {schema}.migration_key()
        ) THEN
            closed_because := format('view migration %s is being promoted', closing_migration);
        END IF;
    END IF;
    IF closed_because IS NOT NULL THEN
        RAISE EXCEPTION 'the event store is in maintenance mode (%); nothing was written', closed_because
            USING ERRCODE = 'SQ002', DETAIL = closed_because, HINT = 'Try again later.';
    END IF;
    RETURN live;
END
$body$;
"""

# Purpose: the gate for what does not call append_events: any INSERT, COPY, UPDATE, DELETE or TRUNCATE.
GUARD_EVENTS = """
CREATE FUNCTION guard_events_v1() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    PERFORM {schema}.check_gate_v1();
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO {schema}.event_edits (operation) VALUES (TG_OP);
    END IF;
    RETURN NULL;
END
$body$;
"""

# Purpose: append a batch of events to one aggregate.
# Parameters: expected_version: the version that the caller decided on; NULL: append at the end, whatever the version.
#   event_type_ids, payloads: one of each per event. metadata: an object, for all of them. created_at: NULL for the server's clock.
#   code_version: of the caller's Migrations; refused when a version is live (not 0) and differs.
# Returns: the first event's sequence number, all positions in order, the time, the live version.
# Locks: see check_gate; without an expected version also an advisory lock on the aggregate, so that such appends queue.
#   Appends with an expected version don't take it: thousands of them in one transaction would exhaust the lock table. They still may
#   get in between, which the unique key notices (it waits for them), and the loop reads again. Other aggregates never wait.
APPEND_EVENTS = """
CREATE FUNCTION append_events_v1(
    aggregate_id uuid, expected_version integer, event_type_ids integer[], payloads jsonb[], metadata jsonb,
    created_at timestamptz, code_version integer,
    OUT first_sequence_number integer, OUT positions bigint[], OUT recorded_at timestamptz, OUT live_version integer
)
LANGUAGE plpgsql VOLATILE AS $body$
#variable_conflict use_variable
DECLARE
    actual_version integer;
BEGIN
    live_version := {schema}.check_gate_v1();
    IF live_version <> 0 AND live_version IS DISTINCT FROM code_version THEN
        RAISE EXCEPTION 'this code is at view-schema version %, the database at %; nothing was appended', code_version, live_version
            USING ERRCODE = 'SQ003', DETAIL = live_version::text;
    END IF;
    IF expected_version IS NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(aggregate_id::text, {schema}.gate_key()));
    END IF;
    LOOP
        SELECT coalesce(max(e.sequence_number), 0) INTO STRICT actual_version
        FROM {schema}.events e WHERE e.aggregate_id = append_events_v1.aggregate_id;
        EXIT WHEN expected_version IS NOT NULL;
        BEGIN
            SELECT a.first_sequence_number, a.positions, a.recorded_at INTO STRICT first_sequence_number, positions, recorded_at
            FROM {schema}.append_events_v1(
                aggregate_id, actual_version, event_type_ids, payloads, metadata, created_at, code_version) a;
            RETURN;
        EXCEPTION WHEN unique_violation OR SQLSTATE 'SQ001' THEN
            -- In the other isolation levels reading again would show the same, for ever.
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    IF actual_version <> expected_version THEN
        RAISE EXCEPTION 'aggregate % is at version %, expected %', aggregate_id, actual_version, expected_version
            USING ERRCODE = 'SQ001', DETAIL = actual_version::text;
    END IF;
    first_sequence_number := actual_version + 1;
    recorded_at := coalesce(created_at, clock_timestamp());
    WITH inserted AS (
        INSERT INTO {schema}.events AS e (created_at, aggregate_id, sequence_number, event_type_id, payload, metadata)
        SELECT recorded_at, append_events_v1.aggregate_id, actual_version + b.number::integer, b.event_type_id, b.payload,
               append_events_v1.metadata
        FROM unnest(event_type_ids, payloads) WITH ORDINALITY AS b (event_type_id, payload, number)
        RETURNING e.sequence_number, e.position
    )
    SELECT array_agg(i.position ORDER BY i.sequence_number) INTO STRICT positions FROM inserted i;
END
$body$;
"""
