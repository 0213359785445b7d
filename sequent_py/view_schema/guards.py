"""Guards: what is looked at before a phase begins, and refused where it would make the phase wrong.

Each guard asks a check of :mod:`sequent_py.health` and raises what it finds, with the remedy; nothing has been changed then. ``abort`` and repairs are
never kept from their work: they are the way out.

What is refused and what is only said follows one rule: a phase is refused where its result could be wrong without anybody noticing, or where it
would surely fail after hours of work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import psycopg

from sequent_py.errors import (
    ForeignTransactionIds,
    InsufficientPrivileges,
    InvalidPayload,
    SequentError,
    UnknownEventTypes,
    UnsoundInstallation,
)
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.home import Home
from sequent_py.health import (
    coverage,
    coverage_findings,
    lineage,
    privileges,
    server,
    store_objects,
    store_rows,
    store_tables,
)
from sequent_py.health.findings import Finding, Verdict
from sequent_py.progress import Progress
from sequent_py.replay.quarantine import OFFER
from sequent_py.view_schema.migrations import MigrationsDefinition

Connection = psycopg.Connection[Any]

GUARDED = frozenset({"online", "offline", "golive", "rollback"})
"""The phases that fold events and promote tables."""
OWNERS_ONLY = frozenset({"repair"})
"""Commands that change what the store's owner owns."""


def require_sound(connection: Connection, *, command: str, schema: str, view_schema: str) -> None:
    """Refuse a phase on an installation that would make it wrong; record where an installation that is sound is at home.

    Raises
    ------
    ForeignTransactionIds
        The store, or a replication, holds another cluster's transaction ids.
    InsufficientPrivileges
        The present role cannot finish the phase.
    LostTable, LostRow
        Somebody dropped a table of ours, or deleted the row that serial appends queue for.
    UnsoundInstallation
        A guard, key or index is missing, a subscription bypasses the gate, the server is a standby…
    """
    _refuse(server.check_writable(connection))
    if command in OWNERS_ONLY:
        require_owner(connection, schema)
    if command not in GUARDED:
        return
    store_tables.require_tables(connection, schema)
    _refuse([privileges.check_privileges(connection, schema, view_schema)], InsufficientPrivileges)
    store_rows.require_append_order(connection, schema)
    _refuse(store_objects.check_guards(connection, schema))
    _refuse(lineage.check_subscriptions(connection, schema))
    require_own_snapshots(connection, schema)
    Home(schema).settle(connection, view_schema)


def require_owner(connection: Connection, schema: str) -> None:
    """Refuse a command that changes what the store's owner owns to anybody else.

    Raises
    ------
    InsufficientPrivileges
        With the GRANT that would do.
    """
    _refuse([privileges.check_ownership(connection, schema)], InsufficientPrivileges)


def require_own_snapshots(connection: Connection, schema: str) -> None:
    """Refuse a store with snapshots of another cluster, those of retired tables included: what this cluster adds could not be told from them later.

    Raises
    ------
    ForeignTransactionIds
        With what to run.
    """
    _refuse(lineage.check_snapshots(connection, schema), ForeignTransactionIds)


def require_own_transaction_ids(connection: Connection, schema: str) -> None:
    """Refuse a store whose transaction ids are another cluster's.

    Raises
    ------
    ForeignTransactionIds
        They are.
    """
    _refuse([lineage.check_transaction_ids(connection, schema)], ForeignTransactionIds)


def require_connections(connection: Connection, *, workers: int) -> None:
    """Refuse to start workers that would not get their connections.

    Raises
    ------
    UnsoundInstallation
        With how many would.
    """
    if workers > 0:
        _refuse(server.check_connections(connection, workers=workers))


def require_known_types(
    connection: Connection, *, schema: str, event_types: EventTypes, definition: MigrationsDefinition
) -> None:
    """Refuse to fold a log with events that no class knows and nobody ignores.

    Raises
    ------
    UnknownEventTypes
        A replay would pass over them, and the fold that verification compares with would, too.
    """
    unknown = coverage.unknown_types(connection, schema, event_types, ignored=definition.ignored_event_types)
    finding = coverage_findings.describe_unknown(unknown)
    if finding is not None:
        raise UnknownEventTypes([item.name for item in unknown], finding.message, remedy=finding.remedy)


def require_covered(
    connection: Connection,
    *,
    schema: str,
    event_types: EventTypes,
    definition: MigrationsDefinition,
    handled: Collection[str],
    allows_undecodable: bool = False,
    may_quarantine: bool = False,
    progress: Progress,
) -> None:
    """Refuse a replay that a sample of the log shows to fail or to pass over events.

    ``handled`` are the stored names of the types that the replay reads. With ``allows_undecodable`` their payloads may fail: what fails is set aside.
    ``may_quarantine`` says whether that could be asked for.

    Raises
    ------
    UnknownEventTypes
        As :func:`require_known_types`.
    InvalidPayload
        Of the first event of the sample that does not decode; the message counts the others.
    """
    require_known_types(connection, schema=schema, event_types=event_types, definition=definition)
    sampled = coverage.sample(connection, schema, event_types, ignored=definition.ignored_event_types)
    failing = sampled.undecodable(handled)
    if failing:
        first = failing[0].examples[0]
        if allows_undecodable:
            progress.note(
                f"{first} (and {sum(it.undecodable for it in failing) - 1} more of the sample) will be set aside."
            )
            return
        more = sum(it.undecodable for it in failing) - 1
        cause = first.cause + (
            f"; nor do {more} more of the {sampled.events} events that were sampled: {', '.join(f'{it.undecodable} of {it.name}' for it in failing)}"
            if more
            else ""
        )
        error = InvalidPayload(first.event_type, first.event.aggregate_id, first.event.sequence_number, cause)
        if may_quarantine:
            error.remedy += f" {OFFER}"
        raise error


def _refuse(findings: Iterable[Finding], error: Callable[..., SequentError] = UnsoundInstallation) -> None:
    """Raise the problems among findings, all in one."""
    problems = [finding for finding in findings if finding.verdict is Verdict.PROBLEM]
    if problems:
        remedies = dict.fromkeys(finding.remedy for finding in problems if finding.remedy)
        raise error(" ".join(finding.message for finding in problems), remedy=" ".join(remedies))
