"""``dry-run``: what ``online`` would meet, without leaving a trace.

The table files are proved as ``online`` proves them. Then, in one transaction that is rolled back, the shadow tables are created, a sample of
aggregates is replayed into them, and their indexes are built; some of it is folded twice more, together and apart. A handler that raises, a payload that does not validate, a value that a column
does not take, a key that is not unique or a row that is written from several aggregates is found here, on as many aggregates as were asked for. Takes no migration lock: it may run at any
time, beside a migration too, as long as that does not build the same tables.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from uuid import UUID

from psycopg import sql

from sequent_py.checks.determinism import CLOCK_SHIFT_SECONDS, Circumstances, compare_folds, fold_sample
from sequent_py.declared.groups import compile_tables, described
from sequent_py.errors import InvalidPayload, MigrationError, ProjectionFailed
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.ordering_check import check_orderings
from sequent_py.persistors.refusals import naming_refusals
from sequent_py.persistors.replay import ReplayPersistor, RowDelta
from sequent_py.persistors.tables import TableShape
from sequent_py.progress import Progress
from sequent_py.records import Record, record_shape
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
        sampled = _Sampled()
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
                    sampled = _SampledReplay(context, connection, resolved).run(proved, sample)
                except (ProjectionFailed, InvalidPayload) as error:
                    if allows_quarantine(resolved):
                        error.remedy += f" {OFFER}"
                    raise
        return DryRunReport(
            plan,
            sampled.aggregates,
            sampled.events,
            sampled.rows,
            time.monotonic() - started,
            tuple(dict.fromkeys((*warnings, *sampled.warnings))),
        )


@dataclass(frozen=True, slots=True)
class _Sampled:
    """What a sampled replay found."""

    aggregates: int = 0
    events: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    """How many were made, by table."""
    warnings: tuple[str, ...] = ()


class _SampledReplay:
    """A replay of some aggregates into shadow tables that nobody will see, in a transaction that is rolled back."""

    def __init__(self, context: Context, connection: Connection, resolved: ResolvedPlan) -> None:
        self._context, self._connection, self._resolved = context, connection, resolved
        self._projectors = replayed_projectors(resolved)
        self._until = current_snapshot(connection)
        self._stored_types = stored_event_types(connection, context.schema)

    def run(self, proved: executor.TrialResult, size: int) -> _Sampled:
        """Replay ``size`` aggregates, build the indexes on their rows, and fold a few of them again under other circumstances."""
        context, connection = self._context, self._connection
        files = context.table_files(self._resolved)
        target_version = self._resolved.plan.target_version
        aggregates = self._aggregates(size)
        with connection.transaction(force_rollback=True), context.connect("reading") as reader:
            executor.create_shadow_tables(
                connection,
                view_schema=context.config.view_schema,
                replays=files,
                blueprints=proved.blueprints,
                target_version=target_version,
            )
            tables = context.shadow_tables(connection, self._resolved)
            self._check_orderings(reader, tables)
            events, changes = self._replay(reader, tables, aggregates)
            index_builds.build_indexes_here(
                connection,
                view_schema=context.config.view_schema,
                files=[item for _, item in files],
                target_version=target_version,
            )
            differing = self._fold_twice(reader, tables, aggregates[:FOLDED_TWICE])
            _, by_handlers = compile_tables(self._projectors, tables, self._stored_types)
        rows = {
            record_shape(record).table_name: delta.inserted - delta.deleted
            for record, delta in changes.items()
        }
        return _Sampled(len(aggregates), events, rows, (*differing, *described(by_handlers)))

    def _aggregates(self, size: int) -> Sequence[UUID]:
        verification = Verification(
            event_store_schema=self._context.schema,
            projectors=self._projectors,
            tables={},
            event_types=self._context.event_types,
            stored_types=self._stored_types,
        )
        return verification.sample(self._connection, until=self._until, size=size, most_events=MOST_EVENTS)

    def _check_orderings(self, reader: Connection, tables: Mapping[type[Record], TableShape]) -> None:
        check_orderings(
            self._connection,
            reader,
            schema=self._context.schema,
            projectors=self._projectors,
            tables=tables,
            event_types=self._context.event_types,
            stored_types=self._stored_types,
            until=self._until,
        ).require_none()

    def _replay(
        self, reader: Connection, tables: Mapping[type[Record], TableShape], aggregates: Sequence[UUID]
    ) -> tuple[int, Mapping[type[Record], RowDelta]]:
        context, events = self._context, 0
        persistor = ReplayPersistor(
            self._connection, tables, max_rows_in_memory=context.config.max_rows_in_memory
        )
        for part in self._parts(aggregates):
            fold = Fold(part.projectors, persistor, context.event_types, self._stored_types)
            query = part.query(context.schema, event_type_ids=fold.event_type_ids, until=self._until)
            if part.aggregate_ids is None:
                # Where every event counts, the beginning is a sample.
                query += sql.SQL(" LIMIT {}").format(sql.Literal(MOST_EVENTS))
            with closing(read_events(reader, query)) as raw_events:
                events += fold.apply(raw_events)
        with naming_refusals(persistor, self._projectors):
            return events, persistor.flush()

    def _parts(self, aggregates: Sequence[UUID]) -> list[ScopedSample]:
        """Return what is folded together: the sampled aggregates, their partitions, everything from the beginning."""
        samples, left_out = scoped_samples(
            self._connection,
            self._context.schema,
            self._projectors,
            aggregates,
            until=self._until,
            most_events=MOST_EVENTS,
        )
        whole = tuple(projector for projector in left_out if projector.ordering == "global")
        return [*samples, ScopedSample("global", whole, None)] if whole else samples

    def _fold_twice(
        self, reader: Connection, tables: Mapping[type[Record], TableShape], aggregates: Sequence[UUID]
    ) -> tuple[str, ...]:
        """Say which handlers make other rows of the same events when aggregates come alone, in another order and at another time."""
        alone = [item for item in self._resolved.projectors if item.ordering == "aggregate"]
        if not alone or not aggregates:
            return ()
        projectors = [item.projector for item in alone]
        records = {record for item in alone for record in item.records}
        together, apart = (
            fold_sample(
                self._connection,
                reader,
                schema=self._context.schema,
                projectors=projectors,
                tables={record: table for record, table in tables.items() if record in records},
                event_types=self._context.event_types,
                aggregate_ids=aggregates,
                until=self._until,
                circumstances=circumstances,
            )
            for circumstances in (Circumstances(is_apart=False), Circumstances(True, CLOCK_SHIFT_SECONDS))
        )
        return tuple(map(str, compare_folds(together, apart, projectors)))
