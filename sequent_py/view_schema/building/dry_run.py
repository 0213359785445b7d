"""``dry-run``: what ``online`` would meet, without leaving a trace.

The table files are proved as ``online`` proves them. Then, in one transaction that is rolled back, the shadow tables are created, a sample of
aggregates is replayed into them, and their indexes are built; some of it is folded twice more, together and apart. A handler that raises, a payload that does not validate, a value that a column
does not take, a key that is not unique or a row that is written from several aggregates is found here, on as many aggregates as were asked for. Takes no migration lock: it may run at any
time, beside a migration too, as long as that does not build the same tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from uuid import UUID

from psycopg import sql

from sequent_py.checks.determinism import CLOCK_SHIFT_SECONDS, Circumstances, compare_folds, fold_sample
from sequent_py.declared.groups import compile_tables, described
from sequent_py.errors import InvalidPayload, MigrationError, ProjectionFailed
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.ordering_check import check_orderings
from sequent_py.persistors.refusals import naming_refusals
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.progress import Progress
from sequent_py.records import record_shape
from sequent_py.replay.estimate import current_snapshot
from sequent_py.replay.fold import Fold
from sequent_py.replay.ledger import Connection
from sequent_py.replay.quarantine import OFFER
from sequent_py.replay.reader import read_events
from sequent_py.scopes import ScopedSample, scoped_samples
from sequent_py.verification import Verification
from sequent_py.view_schema.building.online import allows_quarantine
from sequent_py.view_schema.context import Context, live_blueprints, replayed_projectors
from sequent_py.view_schema.ddl import executor, index_builds
from sequent_py.view_schema.planning import check_swap, current_plan
from sequent_py.view_schema.plans import ResolvedPlan, resolve
from sequent_py.view_schema.reports import DryRunReport

MOST_EVENTS = 100_000
"""A dry run is one transaction: this many events keep it to some seconds."""
FOLDED_TWICE = 100
"""Aggregates that are folded two more times, to find handlers that depend on more than their events."""


def run_dry(context: Context, *, sample: int, progress: Progress) -> DryRunReport:
    """Try the migration to the code's version on up to ``sample`` aggregates.

    Raises
    ------
    DefinitionError, TableFileError, DependentObjects, ProjectionFailed, InvalidPayload, OrderingViolated
        What ``online`` would have met.
    """
    started = time.monotonic()
    with context.connected("migrate dry-run") as connection:
        context.require_installed(connection)
        progress.step("planning")
        plan = current_plan(context, connection)
        resolved = resolve(plan, context.definition)
        if context.versions.unfinished(connection) is not None:
            raise MigrationError(
                "A view migration is unfinished: its shadow tables stand where a dry run would build its own.",
                remedy="See: sequent migrate status",
            )
        warnings = (*plan.warnings, *check_swap(context, connection, plan))
        aggregates, events, rows, differing = 0, 0, dict[str, int](), tuple[str, ...]()
        if plan.replays or plan.alters:
            progress.step("checking the table files")
            proved = executor.trial(
                connection,
                view_schema=context.config.view_schema,
                replays=context.table_files(resolved),
                alters=context.alter_scripts(resolved),
                target_version=plan.target_version,
                live=live_blueprints(context, connection),
            )
            if plan.replays:
                progress.step("replaying a sample")
                try:
                    aggregates, events, rows, differing = _replay_sample(
                        context, connection, resolved, proved, sample
                    )
                except (ProjectionFailed, InvalidPayload) as error:
                    if allows_quarantine(resolved):
                        error.remedy += f" {OFFER}"
                    raise
        return DryRunReport(
            plan,
            aggregates,
            events,
            rows,
            time.monotonic() - started,
            tuple(dict.fromkeys((*warnings, *differing))),
        )


def _replay_sample(
    context: Context,
    connection: Connection,
    resolved: ResolvedPlan,
    proved: executor.TrialResult,
    sample: int,
) -> tuple[int, int, dict[str, int], tuple[str, ...]]:
    plan, files = resolved.plan, context.table_files(resolved)
    until = current_snapshot(connection)
    stored_types = stored_event_types(connection, context.schema)
    verification = Verification(
        event_store_schema=context.schema,
        projectors=replayed_projectors(resolved),
        tables={},
        event_types=context.event_types,
        stored_types=stored_types,
    )
    events = 0
    aggregates = verification.sample(connection, until=until, size=sample, most_events=MOST_EVENTS)
    with connection.transaction(force_rollback=True):
        executor.create_shadow_tables(
            connection,
            view_schema=context.config.view_schema,
            replays=files,
            blueprints=proved.blueprints,
            target_version=plan.target_version,
        )
        tables = context.shadow_tables(connection, resolved)
        persistor = ReplayPersistor(connection, tables, max_rows_in_memory=context.config.max_rows_in_memory)
        with context.connect("reading") as reader:
            checked = check_orderings(
                connection,
                reader,
                schema=context.schema,
                projectors=replayed_projectors(resolved),
                tables=tables,
                event_types=context.event_types,
                stored_types=stored_types,
                until=until,
            )
            checked.require_none()
            for part in _parts(context, connection, resolved, aggregates, until):
                fold = Fold(part.projectors, persistor, context.event_types, stored_types)
                query = part.query(context.schema, event_type_ids=fold.event_type_ids, until=until)
                if part.aggregate_ids is None:
                    # Where every event counts, the beginning is a sample.
                    query += sql.SQL(" LIMIT {}").format(sql.Literal(MOST_EVENTS))
                with closing(read_events(reader, query)) as raw_events:
                    events += fold.apply(raw_events)
        with naming_refusals(persistor, replayed_projectors(resolved)):
            changes = persistor.flush()
        index_builds.build_indexes_here(
            connection,
            view_schema=context.config.view_schema,
            files=[item for _, item in files],
            target_version=plan.target_version,
        )
        with context.connect("reading") as reader:
            differing = _fold_twice(context, connection, reader, resolved, aggregates[:FOLDED_TWICE], until)
        _, by_handlers = compile_tables(replayed_projectors(resolved), tables, stored_types)
    rows = {
        record_shape(record).table_name: delta.inserted - delta.deleted for record, delta in changes.items()
    }
    return len(aggregates), events, rows, (*differing, *described(by_handlers))


def _fold_twice(
    context: Context,
    connection: Connection,
    reader: Connection,
    resolved: ResolvedPlan,
    aggregates: Sequence[UUID],
    until: str,
) -> tuple[str, ...]:
    """Say which handlers make other rows of the same events when aggregates come alone, in another order and at another time."""
    projectors = [item.projector for item in resolved.projectors if item.ordering == "aggregate"]
    records = {
        record for item in resolved.projectors if item.ordering == "aggregate" for record in item.records
    }
    tables = {
        record: table
        for record, table in context.shadow_tables(connection, resolved).items()
        if record in records
    }
    if not projectors or not aggregates:
        return ()
    together, apart = (
        fold_sample(
            connection,
            reader,
            schema=context.schema,
            projectors=projectors,
            tables=tables,
            event_types=context.event_types,
            aggregate_ids=aggregates,
            until=until,
            circumstances=circumstances,
        )
        for circumstances in (Circumstances(is_apart=False), Circumstances(True, CLOCK_SHIFT_SECONDS))
    )
    return tuple(map(str, compare_folds(together, apart, projectors)))


def _parts(
    context: Context,
    connection: Connection,
    resolved: ResolvedPlan,
    aggregates: Sequence[UUID],
    until: str,
) -> list[ScopedSample]:
    """Return what is folded together: the sampled aggregates, their partitions, everything from the beginning."""
    samples, left_out = scoped_samples(
        connection,
        context.schema,
        replayed_projectors(resolved),
        aggregates,
        until=until,
        most_events=MOST_EVENTS,
    )
    whole = tuple(projector for projector in left_out if projector.ordering == "global")
    return [*samples, ScopedSample("global", whole, None)] if whole else samples
