"""The managed tables: missing, unlogged, out of use, kept from earlier versions, or left over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from sequent_py.event_store.gate import Gate
from sequent_py.health.findings import Finding, notice, ok, problem
from sequent_py.view_schema.bookkeeping.generations import Generation, generations
from sequent_py.view_schema.bookkeeping.relations import Relations, TableRole, ViewTable
from sequent_py.view_schema.bookkeeping.versions import Versions
from sequent_py.view_schema.tables.dependents import missing_tables

Connection = psycopg.Connection[Any]


def check_tables(
    connection: Connection, schema: str, view_schema: str, *, managed: Collection[str] | None
) -> Iterator[Finding]:
    """Look at every recorded relation; ``managed`` are the tables that the code's projectors manage, None where there is no code."""
    versions = Versions(schema)
    tables = {role: Relations(schema).tables(connection, role) for role in TableRole}
    live = tables[TableRole.LIVE]
    orphaned = [table for table in live if _is_orphaned(table, managed)]
    names = [table.table_name for table in live if table not in orphaned]
    missing = missing_tables(connection, view_schema, names)
    if missing:
        yield problem("live tables", " ".join(missing), "Restore them, or build them anew in a new version.")
    else:
        yield ok("live tables", f"All there: {', '.join(names)}." if names else "None yet.")
    if orphaned:
        since = ", ".join(
            f"{table.table_name} (since version {table.unmanaged_since})"
            if table.unmanaged_since is not None
            else f"{table.table_name} (by this code)"
            for table in orphaned
        )
        yield notice(
            "orphaned tables",
            f"No projector manages {since}: nothing keeps them up to date.",
            _orphans_remedy(
                generations(versions.history(connection), [*live, *tables[TableRole.RETIRED]]), orphaned
            ),
        )
    yield from _unlogged(connection, view_schema, [table.physical_name for table in live])
    yield from _retired(connection, view_schema, tables[TableRole.RETIRED])
    yield from _left_over(connection, versions, view_schema, tables)


def check_recorded(
    connection: Connection, schema: str, *, version: int, managed: Collection[str]
) -> Iterator[Finding]:
    """Look whether every table that the code of the live version manages is recorded."""
    if Gate(schema).read(connection).live_version != version:
        return
    recorded = {table.table_name for table in Relations(schema).tables(connection, TableRole.LIVE)}
    lost = sorted(set(managed) - recorded)
    if lost:
        yield problem(
            "recorded tables",
            f"{schema}.view_tables has no row for the live table{'s'[: len(lost) != 1]} {', '.join(lost)}; somebody has deleted it.",
            "Restore the row from a backup, or build the table anew in a new version.",
        )


def _orphans_remedy(kept: Sequence[Generation], orphaned: Sequence[ViewTable]) -> str:
    """Say how orphaned tables are dropped, and which way back ends with that."""
    sentences = []
    for generation in kept:
        if generation.orphaned:
            way = generation.way if generation.leads_from is not None else ""
            sentences.append(
                f"When nobody reads {', '.join(generation.orphaned)} any more: sequent migrate prune --orphaned --version {generation.version}"
                + (f"; that ends the way {way}, which managed {_it(generation.orphaned)}." if way else ".")
            )
    undeclared = [table.table_name for table in orphaned if table.unmanaged_since is None]
    if undeclared:
        sentences.append(
            f"The live version manages {', '.join(undeclared)}: run its code, or see what this code's would leave: sequent migrate plan"
        )
    return " ".join(sentences)


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _is_orphaned(table: ViewTable, managed: Collection[str] | None) -> bool:
    return table.unmanaged_since is not None or (managed is not None and table.table_name not in managed)


def _unlogged(connection: Connection, view_schema: str, names: list[str]) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relpersistence = 'u' ORDER BY 1",
        (view_schema, names),
    ).fetchall()
    if rows:
        listed = ", ".join(name for (name,) in rows)
        yield problem(
            "unlogged tables",
            f"A crash of the server empties {listed}: UNLOGGED.",
            "Take UNLOGGED out of the table file and list the projector under a new version; until then ALTER TABLE … SET LOGGED keeps the rows.",
        )


def _retired(connection: Connection, view_schema: str, tables: list[ViewTable]) -> Iterator[Finding]:
    if not tables:
        return
    now = datetime.now(UTC)
    described = [
        f"{table.physical_name} (retired {(now - table.retired_at).days} days ago)"
        for table in tables
        if table.retired_at is not None
    ]
    names = [table.physical_name for table in tables]
    row = connection.execute(
        "SELECT pg_size_pretty(coalesce(sum(pg_total_relation_size(c.oid)), 0)) FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = ANY (%s)",
        (view_schema, names),
    ).fetchone()
    size = row[0] if row is not None else "?"
    yield notice("retired tables", f"Kept from earlier versions, {size} in all: {', '.join(described)}.")


def _left_over(
    connection: Connection, versions: Versions, view_schema: str, tables: dict[TableRole, list[ViewTable]]
) -> Iterator[Finding]:
    """Find shadow tables of no unfinished migration, and records of relations that are gone."""
    unfinished = versions.unfinished(connection)
    stray = [
        table.physical_name
        for table in tables[TableRole.SHADOW]
        if unfinished is None or table.migration_id != unfinished.id
    ]
    if stray:
        yield problem(
            "left over", f"No migration is at work on the shadow tables {', '.join(stray)}.", "Drop them."
        )
    kept = [table.physical_name for role in (TableRole.RETIRED, TableRole.SHADOW) for table in tables[role]]
    gone = missing_tables(connection, view_schema, kept)
    if gone:
        yield problem(
            "left over",
            f"Recorded, and not there: {' '.join(gone)}",
            "Run: sequent migrate abort"
            if unfinished
            else "Restore them; sequent migrate status lists what is recorded.",
        )
