"""``doctor --repair``: what can be mended without asking: keys, indexes and triggers of the store, and transaction ids of another cluster.

Works as the store's owner, under the migration lock. Can be run again after a crash.
"""

from __future__ import annotations

from sequent_py.errors import InvalidTransition
from sequent_py.event_store.transaction_ids import has_foreign_transaction_ids, repair_transaction_ids
from sequent_py.health import lineage
from sequent_py.health.repairs import repair_objects
from sequent_py.health.store_objects import Divergence, divergences
from sequent_py.progress import Progress
from sequent_py.replay.ledger import Connection
from sequent_py.roles.rules import RoleKind
from sequent_py.view_schema.context import Context


def run_repair(context: Context, progress: Progress) -> tuple[str, ...]:
    """Mend what can be mended; return what was.

    Raises
    ------
    InvalidTransition
        A migration is unfinished, or tables are retired, that could not be trusted any more; nothing was changed.
    ConcurrentMigration, MaintenanceModeActive, MigrationError
        Something is in the way; what was mended before stays mended.
    """
    with context.coordinating("repair", needs_own_transaction_ids=False, role=RoleKind.OWNER) as connection:
        found = divergences(connection, context.schema)
        _refuse_unseen_edits(context, connection, found)
        done = repair_objects(connection, context.schema, found, progress.step)
        forgets = _has_foreign_snapshots(context, connection)
        events = mend_transaction_ids(context, connection)
        if forgets:
            done.append(
                "snapshots of another cluster: what retired tables hold is forgotten, and nothing can be rolled back to them"
            )
        if events:
            done.append(f"transaction ids of {events} events")
        return tuple(done)


def mend_transaction_ids(context: Context, connection: Connection) -> int:
    """Give events of another cluster an id that every snapshot sees; return how many there were. Snapshots of another cluster are forgotten.

    Raises
    ------
    InvalidTransition
        A migration is unfinished, and snapshots of this store are the other cluster's, too.
    """
    has_events = has_foreign_transaction_ids(connection, context.schema)
    if not has_events and not _has_foreign_snapshots(context, connection):
        return 0
    unfinished = context.versions.unfinished(connection)
    if unfinished is not None:
        raise InvalidTransition(
            f"A view migration to version {unfinished.target_version} is unfinished, and its snapshots are the other cluster's.",
            remedy="Run: sequent migrate abort, then sequent doctor --repair",
        )
    # Before, not after: a kill in between must not leave snapshots that mistake the mended events for old ones.
    context.versions.forget_cut_overs(connection)
    context.relations.forget_cut_overs(connection)
    mended = repair_transaction_ids(connection, context.schema) if has_events else 0
    # Nothing of the other cluster's is left: what is stored from here on is this one's.
    context.home.settle(connection, context.config.view_schema)
    return mended


def _has_foreign_snapshots(context: Context, connection: Connection) -> bool:
    return any(lineage.check_snapshots(connection, context.schema))


def _refuse_unseen_edits(context: Context, connection: Connection, found: list[Divergence]) -> None:
    """While a guard was away, edits were not noted: a migration that has begun cannot know of them."""
    unfinished = context.versions.unfinished(connection)
    if unfinished is not None and any(
        item.expected.kind == "trigger" and item.expected.table.startswith("events") for item in found
    ):
        raise InvalidTransition(
            f"While guard triggers of the events were missing, edits were not noted, and the view migration to version"
            f" {unfinished.target_version} may hold what is no longer there.",
            remedy="Run: sequent migrate abort, then sequent doctor --repair",
        )
