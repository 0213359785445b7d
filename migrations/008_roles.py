"""Roles: who they are, and functions for what a role may do without having the right to the tables behind it.

The functions run with the caller's rights until ``sequent init --roles`` hands them to the store's owner, makes them SECURITY DEFINER with a
search path of their own, and takes EXECUTE from PUBLIC. Every name in them is qualified.

The triggers of events fire always from here on: a session with ``session_replication_role = replica`` would otherwise pass no gate, and its edits
would go unseen.
"""

from __future__ import annotations

from typing import Any

TABLES = ("events", *(f"events_{number:02}" for number in range(16)))
TRIGGERS = ("guard", "updates", "deletes")


def up(op: Any) -> None:
    """Create the table and the functions; let guards fire always."""
    op.run(STORE_ROLES)
    for function in (REGISTER_EVENT_TYPES, LOCK_EVENTS):
        op.run(_filled(op, function))
    for table in TABLES:
        for trigger in TRIGGERS:
            op.run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{trigger}")


def down(op: Any) -> None:
    """Drop both, and let guards fire as they did. The roles themselves belong to the cluster, and stay."""
    for table in TABLES:
        for trigger in TRIGGERS:
            op.run(f"ALTER TABLE {table} ENABLE TRIGGER {table}_{trigger}")
    op.run("DROP FUNCTION lock_events_v1()")
    op.run("DROP FUNCTION register_event_types_v1(text[])")
    op.run("DROP TABLE store_roles")


def _filled(op: Any, text: str) -> str:
    """Put the schema's quoted name into a function, quoted by a tag that does not occur in the name."""
    schema: str = op.event_store_schema
    tag = "$body$"
    while tag in schema:
        tag = f"${tag[1:-1]}_$"
    return text.replace("$body$", tag).replace("{schema}", schema)


STORE_ROLES = """
CREATE TABLE store_roles (
    kind text PRIMARY KEY CHECK (kind IN ('owner', 'migrator', 'application', 'reader')),
    name text NOT NULL,
    reads_events boolean NOT NULL DEFAULT false CHECK (kind = 'reader' OR NOT reads_events)
);
COMMENT ON TABLE store_roles IS 'The roles that sequent init --roles set up; no rows: everybody works with the rights of their login.';
"""

# Purpose: store names of event types that are new. Ids are given once: reading first, since an insert that conflicts would use up an id.
# Locks: those of an insert; a name that another transaction is just storing is waited for.
REGISTER_EVENT_TYPES = """
CREATE FUNCTION register_event_types_v1(names text[]) RETURNS void
LANGUAGE sql VOLATILE AS $body$
    INSERT INTO {schema}.event_types (name)
    SELECT DISTINCT wanted.name FROM pg_catalog.unnest(names) AS wanted (name)
    WHERE NOT EXISTS (SELECT FROM {schema}.event_types known WHERE known.name OPERATOR(pg_catalog.=) wanted.name)
    ON CONFLICT (name) DO NOTHING
$body$;
"""

# Purpose: hold back writers that pass no gate, for a cut-over: LOCK TABLE takes the right to write, which a migrator has not.
# Locks: SHARE ROW EXCLUSIVE on events, not its partitions, until the transaction ends; 55P03 where that is not to be had at once.
LOCK_EVENTS = """
CREATE FUNCTION lock_events_v1() RETURNS void
LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    LOCK TABLE ONLY {schema}.events IN SHARE ROW EXCLUSIVE MODE NOWAIT;
END
$body$;
"""
