"""The store's own objects: tables, columns, keys, indexes, triggers and functions, beside what the migrations create.

Two looks. :func:`check_guards` is one catalog query for the start of every phase: what a phase cannot be right without. :func:`check_objects`
compares everything with a fresh installation, which it makes in a scratch schema inside a transaction that is rolled back: no list of
objects has to be kept beside the migrations. What somebody added is not looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

from sequent_py.health.findings import Finding, notice, ok, problem
from sequent_py.health.store_tables import EVENT_TABLES
from sequent_py.schema_migrations.event_store import install_event_store

Connection = psycopg.Connection[Any]
Key = tuple[str, str, str]
"""Kind, table (empty where it has none), and name, or the definition where names do not matter."""
Trouble = Literal["missing", "invalid", "disabled", "different"]

REPAIRABLE = frozenset({"index", "key", "trigger"})
LOCK_TIMEOUT_MILLISECONDS = 5_000
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class StoreObject:
    """An object of the store's schema, as a fresh installation has it."""

    kind: str
    table: str
    name: str
    definition: str
    """Without the schema's name; what recreates it, for an index, a key or a trigger."""
    state: str = ""
    """Of an index ``valid`` or ``invalid``; of a trigger how it fires, as ``pg_trigger.tgenabled`` has it."""
    parent: str = ""
    """Of a partition's index the index that it is attached to."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """An object that is not as a fresh installation has it."""

    expected: StoreObject
    trouble: Trouble
    found: StoreObject | None = None

    def __str__(self) -> str:
        on = f" on {self.expected.table}" if self.expected.table else ""
        return f"{self.expected.kind} {self.expected.name}{on} is {self.trouble}"


def check_guards(connection: Connection, schema: str) -> Iterator[Finding]:
    """Look for what no phase can be right without: the guards and keys of ``events``, its index on ``xact_id``, the lock keys' functions."""
    row = connection.execute(_GUARDS, {"schema": schema, "tables": list(EVENT_TABLES)}).fetchone()
    assert row is not None
    missing, unguarded, keyless, unindexed, unlogged, functions = row
    broken: list[str] = []
    if unguarded:
        broken.append(
            f"the guard trigger of {', '.join(unguarded)} is missing or disabled, so that writers pass no gate and edits go unseen"
        )
    if keyless:
        broken.append(f"the primary key of {', '.join(keyless)} is missing or invalid")
    if unindexed:
        broken.append(
            f"the index on xact_id of {', '.join(unindexed)} is missing or invalid, so that each window reads everything"
        )
    lost = sorted({"gate_key", "migration_key", "worker_key"} - set(functions))
    if lost or missing:
        yield problem(
            "store objects",
            f"In schema {schema!r} there is no {', '.join([*(f'table {name}' for name in missing), *(f'function {name}' for name in lost)])}.",
            "Restore it from a backup.",
        )
    if broken:
        yield problem(
            "store objects", f"In schema {schema!r} {'; '.join(broken)}.", "Run: sequent doctor --repair"
        )
    elif not lost and not missing:
        yield ok("store objects", "Guards, keys and indexes of the events are there.")
    yield from _unlogged(connection, schema, unlogged)


def _unlogged(connection: Connection, schema: str, tables: list[str]) -> Iterator[Finding]:
    if not tables:
        return
    row = connection.execute(
        sql.SQL("SELECT is_called, last_value, EXISTS (SELECT FROM {}) FROM {}").format(
            sql.Identifier(schema, "events"), sql.Identifier(schema, "event_positions")
        )
    ).fetchone()
    assert row is not None
    emptied = (
        f" Positions up to {row[1]} were given out and there are no events: a crash has emptied them."
        if row[0] and not row[2]
        else ""
    )
    statements = "; ".join(
        sql.SQL("ALTER TABLE {} SET LOGGED").format(sql.Identifier(schema, table)).as_string(None)
        for table in tables
    )
    yield problem(
        "unlogged tables",
        f"A crash of the server empties {', '.join(tables)}: {'they are' if len(tables) > 1 else 'it is'} UNLOGGED.{emptied}",
        f"Restore what was lost, then run: {statements}",
    )


def check_objects(connection: Connection, schema: str) -> Iterator[Finding]:
    """Compare every object with a fresh installation. Needs a connection outside any transaction and the right to create schemas."""
    if not _may_create_schemas(connection):
        yield notice(
            "store objects",
            "Not compared with a fresh installation: this role may not create the scratch schema that takes.",
            "Run sequent doctor as the migrator or the owner.",
        )
        return
    found = divergences(connection, schema)
    if not found:
        yield ok(
            "store objects",
            "Tables, keys, indexes, triggers and functions are as the migrations create them.",
        )
        return
    listed = "; ".join(map(str, found[:_SHOWN])) + (
        f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    )
    is_repairable = all(item.expected.kind in REPAIRABLE for item in found)
    remedy = "Run: sequent doctor --repair"
    if not is_repairable:
        others = ", ".join(
            f"{item.expected.kind} {item.expected.name}"
            for item in found
            if item.expected.kind not in REPAIRABLE
        )
        remedy += f"; it recreates keys, indexes and triggers. Restore from a backup: {others}"
    yield problem("store objects", f"Not as the migrations create it in schema {schema!r}: {listed}.", remedy)


def divergences(connection: Connection, schema: str) -> list[Divergence]:
    """Return what is not as a fresh installation has it, tables first."""
    scratch = f"sequent_fresh_{uuid.uuid4().hex[:12]}"
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MILLISECONDS}ms",))
        present = read_objects(connection, schema)
        install_event_store(connection, scratch)
        wanted = read_objects(connection, scratch)
    return sorted(
        _compare(wanted, present), key=lambda it: (it.expected.table, it.expected.kind, it.expected.name)
    )


def read_objects(connection: Connection, schema: str) -> dict[Key, StoreObject]:
    """Read the objects of a schema, free of its name; indexes and keys by definition, since their names do not matter."""
    previous = connection.execute("SELECT current_setting('search_path')").fetchone()
    assert previous is not None
    # With the schema first on the path, pretty-printed definitions name it nowhere.
    path = sql.SQL("{}, pg_catalog").format(sql.Identifier(schema)).as_string(connection)
    connection.execute("SELECT set_config('search_path', %s, true)", (path,))
    rows = connection.execute(_OBJECTS, {"schema": schema}).fetchall()
    connection.execute("SELECT set_config('search_path', %s, true)", previous)
    objects: dict[Key, StoreObject] = {}
    for row in rows:
        item = StoreObject(*row)
        by_definition = item.kind in ("index", "key", "constraint")
        key = (item.kind, item.table, item.definition if by_definition else item.name)
        known = objects.get(key)
        # Of two equal indexes the valid one counts.
        if known is None or known.state == "invalid":
            objects[key] = item
    return objects


def _compare(wanted: Mapping[Key, StoreObject], present: Mapping[Key, StoreObject]) -> Iterator[Divergence]:
    for key, expected in wanted.items():
        found = present.get(key)
        if found is None:
            yield Divergence(expected, "missing")
        elif expected.kind in ("index", "key") and found.state == "invalid":
            yield Divergence(expected, "invalid", found)
        elif expected.kind == "trigger" and found.state == "D":
            yield Divergence(expected, "disabled", found)
        elif found.definition != expected.definition or (
            expected.kind == "trigger" and found.state != expected.state
        ):
            yield Divergence(expected, "different", found)


def _may_create_schemas(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT has_database_privilege(current_database(), 'CREATE') AND NOT pg_is_in_recovery()"
    ).fetchone()
    return row is not None and bool(row[0])


# One row: what is missing, per thing. A table is guarded when three triggers fire for statements (tgtype: 2 before, 4 insert, 8 delete,
# 16 update, 32 truncate; 1 would be for rows), none disabled or for replicas only: the gate's, and those that note edits.
_GUARDS = """
WITH wanted AS (SELECT unnest(%(tables)s::text[]) AS name),
tables AS (
    SELECT w.name, c.oid, c.relpersistence, c.relkind FROM wanted w
    LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = %(schema)s
    LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
)
SELECT
    coalesce((SELECT array_agg(name ORDER BY name) FROM tables WHERE oid IS NULL), '{}'),
    coalesce((SELECT array_agg(name ORDER BY name) FROM tables t WHERE oid IS NOT NULL AND EXISTS (
        SELECT FROM (VALUES ('guard\\_events\\_v%%', 62), ('note\\_event\\_updates\\_v%%', 16), ('note\\_event\\_deletes\\_v%%', 8)) AS w (function, type)
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
            WHERE g.tgrelid = t.oid AND p.proname LIKE w.function AND g.tgenabled IN ('O', 'A') AND g.tgtype & 63 = w.type AND g.tgqual IS NULL))), '{}'),
    coalesce((SELECT array_agg(name ORDER BY name) FROM tables t WHERE oid IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = t.oid AND i.indisprimary AND i.indisvalid)), '{}'),
    coalesce((SELECT array_agg(name ORDER BY name) FROM tables t WHERE oid IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = t.oid AND a.attname = 'xact_id' AND i.indisvalid AND i.indpred IS NULL)), '{}'),
    coalesce((SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND c.relpersistence = 'u'), '{}'),
    coalesce((SELECT array_agg(p.proname::text) FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = %(schema)s), '{}')
"""

# Kind, table, name, definition, state, parent. NOT NULL constraints are part of the columns (they have rows of their own from 18 on).
# Lock keys are numbers computed from the schema's name, and what roles do to functions is theirs: of functions the signature counts.
_OBJECTS = """
WITH relations AS (
    SELECT c.* FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s
)
SELECT 'table', '', c.relname, c.relkind::text, '', '' FROM relations c WHERE c.relkind IN ('r', 'p')
UNION ALL
SELECT 'sequence', '', c.relname, '', '', '' FROM relations c WHERE c.relkind = 'S'
UNION ALL
SELECT 'function', '', p.oid::regprocedure::text, '', '', '' FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s
UNION ALL
SELECT 'column', c.relname, a.attname, concat_ws(' ', pg_catalog.format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
       'DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid, true), nullif(a.attidentity, '')), '', ''
FROM relations c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p')
UNION ALL
SELECT CASE WHEN k.contype IN ('p', 'u') THEN 'key' ELSE 'constraint' END, c.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid, true),
       CASE WHEN i.indisvalid OR i.indexrelid IS NULL THEN 'valid' ELSE 'invalid' END, coalesce(parent.conname, '')
FROM relations c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = k.conindid AND k.contype IN ('p', 'u')
LEFT JOIN pg_catalog.pg_constraint parent ON parent.oid = k.conparentid
WHERE k.contype <> 'n' AND c.relkind IN ('r', 'p')
UNION ALL
SELECT 'index', c.relname, x.relname, regexp_replace(pg_catalog.pg_get_indexdef(i.indexrelid, 0, true), '^(CREATE (?:UNIQUE )?INDEX) .* ON (?:ONLY )?', '\\1 ON '),
       CASE WHEN i.indisvalid AND i.indisready THEN 'valid' ELSE 'invalid' END, coalesce(p.relname, '')
FROM relations c JOIN pg_catalog.pg_index i ON i.indrelid = c.oid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = x.oid LEFT JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
UNION ALL
SELECT 'trigger', c.relname, g.tgname, pg_catalog.pg_get_triggerdef(g.oid, true), g.tgenabled::text, ''
FROM relations c JOIN pg_catalog.pg_trigger g ON g.tgrelid = c.oid WHERE NOT g.tgisinternal
"""
