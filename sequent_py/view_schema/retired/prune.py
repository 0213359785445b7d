"""``prune``: drop what swaps have left behind, by recorded name, and say which way back ends with it.

Everything selected goes in one transaction, with its records: after a failure or a kill all of it is there, and the same command does it.
Drops wait for locks no longer than a lock timeout and never cascade. Held meanwhile: the migration lock, so that no other command is at
work on the tables, and no worker of a killed one is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from sequent_py.errors import ConfigurationError, InvalidTransition
from sequent_py.progress import Progress
from sequent_py.replay import fence
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.bookkeeping.generations import Generation, generations
from sequent_py.view_schema.bookkeeping.relations import TableRole, ViewTable
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.tables.blueprints import TableBlueprint
from sequent_py.view_schema.tables.drops import drop_blueprints

LOCK_TIMEOUT_SECONDS = 5.0
"""Nobody but the curious reads a retired table, and nobody else waits behind us for one."""


@dataclass(frozen=True)
class PruneReport:
    """What ``prune`` did, or with ``is_dry_run`` would do."""

    is_dry_run: bool
    dropped_tables: tuple[str, ...]
    forgotten_tables: tuple[str, ...]
    """Tables that were recorded, but gone already: somebody dropped them by hand."""
    freed_bytes: int
    kept: tuple[Generation, ...]
    ended_ways: tuple[str, ...]
    """What can no longer be rolled back: ``from version 3 back to 2``."""


def run_prune(
    context: Context,
    *,
    keep: int | None,
    version: int | None,
    orphaned: bool,
    is_dry_run: bool,
    progress: Progress,
) -> PruneReport:
    """Drop all generations but the newest ``keep`` (default: the setting), or those of one ``version``.

    ``orphaned``: also their tables under plain names that no projector manages any more.

    Raises
    ------
    ConfigurationError
        ``keep`` and ``version`` exclude each other.
    InvalidTransition
        Orphaned tables can't be dropped while a migration is unfinished.
    ConcurrentMigration, DependentObjects, MigrationError
        A command is at work, something depends on a table, or somebody uses it; nothing was dropped.
    """
    if keep is not None and version is not None:
        raise ConfigurationError(
            "keep and version exclude each other.", remedy="Say how many to keep, or which one to drop."
        )
    if is_dry_run:
        with context.reading("migrate prune --dry-run") as connection:
            context.require_installed(connection)
            chosen = _choose(context, connection, keep, version, orphaned)
            return _report(context, connection, chosen, is_dry_run=True)
    with context.coordinating("prune", needs_own_transaction_ids=False) as connection:
        chosen = _choose(context, connection, keep, version, orphaned)
        # What a killed command left behind would hold its tables.
        fence.evict_workers(connection, context.schema)
        report = _report(context, connection, chosen, is_dry_run=False)
        if chosen.tables:
            progress.step("dropping")
            _drop(context, connection, chosen.tables)
        return report


@dataclass(frozen=True)
class _Choice:
    """What goes and what stays."""

    tables: Sequence[ViewTable]
    kept: tuple[Generation, ...]
    ended: tuple[Generation, ...]


def _choose(
    context: Context, connection: Connection, keep: int | None, version: int | None, orphaned: bool
) -> _Choice:
    versions = context.versions
    unfinished = versions.unfinished(connection)
    if orphaned and unfinished is not None:
        raise InvalidTransition(
            f"A view migration to version {unfinished.target_version} is unfinished, and its plan counts on the tables that it found.",
            remedy="Finish or abort it first, or run: sequent migrate prune, without --orphaned",
        )
    tables = [
        table
        for role in (TableRole.RETIRED, TableRole.LIVE)
        for table in context.relations.tables(connection, role)
    ]
    found = generations(versions.history(connection), tables)
    if version is not None:
        going = [item for item in found if item.version == version]
    else:
        # Remains that make nothing possible come last, and none of them counts.
        whole = [item for item in found if item.leads_from is not None]
        going = found[min(context.config.retired_versions_to_keep if keep is None else keep, len(whole)) :]
    names = {name for item in going for name in (item.names if orphaned else item.tables)}
    chosen = [table for table in tables if table.physical_name in names]
    kept = tuple(item for item in found if not names.intersection(item.names))
    ended = tuple(item for item in going if names.intersection(item.names))
    return _Choice(chosen, kept, ended)


def _report(context: Context, connection: Connection, chosen: _Choice, *, is_dry_run: bool) -> PruneReport:
    names = [table.physical_name for table in chosen.tables]
    sizes = _sizes(connection, context.config.view_schema, names)
    return PruneReport(
        is_dry_run=is_dry_run,
        dropped_tables=tuple(name for name in names if name in sizes),
        forgotten_tables=tuple(name for name in names if name not in sizes),
        freed_bytes=sum(sizes.values()),
        kept=chosen.kept,
        ended_ways=tuple(item.way for item in chosen.ended if item.leads_from is not None),
    )


def _drop(context: Context, connection: Connection, tables: Sequence[ViewTable]) -> None:
    with connection.transaction():
        drop_blueprints(connection, context.config.view_schema, [_as_called_now(table) for table in tables])
        retired = [table.physical_name for table in tables if table.role is TableRole.RETIRED]
        unmanaged = [table.table_name for table in tables if table.role is TableRole.LIVE]
        context.relations.forget(connection, retired)
        context.relations.forget_unmanaged(connection, unmanaged)


def _as_called_now(table: ViewTable) -> TableBlueprint:
    """Return a table's blueprint with the names that its objects have: plain ones if it is live, though no projector manages it."""
    blueprint = TableBlueprint.from_json(table.names)
    if table.role is not TableRole.LIVE:
        return blueprint
    return replace(blueprint, names=tuple(replace(item, name=item.plain) for item in blueprint.names))


def _sizes(connection: psycopg.Connection[Any], schema: str, names: Sequence[str]) -> dict[str, int]:
    """Return the bytes of each table that is there, indexes included."""
    rows = connection.execute(
        "SELECT c.relname, pg_catalog.pg_total_relation_size(c.oid) FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('r', 'p')",
        (schema, list(names)),
    ).fetchall()
    return {str(name): int(size) for name, size in rows}
