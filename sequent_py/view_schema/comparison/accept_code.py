"""``accept-code``: say that code which changed since the live tables were built makes the same rows.

For refactorings. Records the digest of the present code beside the one that built the table, so that both pass from then on: an older release
that still runs is not called changed. Under the migration lock, in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sequent_py.view_schema.bookkeeping.code_records import (
    changed_tables,
    current_codes,
    live_codes,
    record_live_code,
)
from sequent_py.view_schema.context import Context


@dataclass(frozen=True)
class AcceptCodeReport:
    """What was accepted."""

    changed: Mapping[str, tuple[str, ...]]
    """The parts that had changed, by table."""
    recorded: tuple[str, ...]
    """Tables of which no fingerprint was known: what built them an earlier release."""


def run_accept_code(context: Context) -> AcceptCodeReport:
    """Accept the present code for every live table that a projector manages.

    Raises
    ------
    ConcurrentMigration
        A migration is at work; nothing was changed.
    """
    with (
        context.coordinating("accept-code", needs_own_transaction_ids=False) as connection,
        connection.transaction(),
    ):
        definition = context.definition
        recorded = {
            table: entry
            for table, entry in live_codes(connection, context.schema).items()
            if definition.projectors_of(table)
        }
        current = current_codes(definition, recorded, context.config.sql_path)
        changes = changed_tables(recorded, current)
        first = []
        for table, (_, built_by) in recorded.items():
            if built_by is None:
                record_live_code(connection, context.schema, table, current[table])
                first.append(table)
            elif table in changes:
                accepted = replace(built_by, accepted=(*built_by.accepted, current[table].digest))
                record_live_code(connection, context.schema, table, accepted)
        return AcceptCodeReport({table: tuple(parts) for table, parts in changes.items()}, tuple(first))
