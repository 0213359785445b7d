"""The comparison of a subject's tables with the log: what is compared how, handed out to workers, and gathered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from psycopg import sql

from sequent_py.checks.checker import SliceResult
from sequent_py.checks.determinism import (
    CLOCK_SHIFT_SECONDS,
    Circumstances,
    FoldedRows,
    Nondeterminism,
    compare_folds,
)
from sequent_py.checks.omissions import Omissions, find_omissions
from sequent_py.checks.pool import checked_in_processes, folded_in_processes
from sequent_py.checks.slices import Slice, cut_ranges, in_lists
from sequent_py.checks.worker import CheckTask, InlineWorker
from sequent_py.database import for_parameters
from sequent_py.errors import EventsEdited
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.progress import Progress, ReplayProgress
from sequent_py.projectors import Projector, ProjectorDefinition
from sequent_py.records import record_shape
from sequent_py.replay.edits import edits_in_window
from sequent_py.replay.estimate import current_snapshot, estimate_history
from sequent_py.replay.fold import handled_type_ids
from sequent_py.replay.ledger import Connection
from sequent_py.replay.refold import Edits
from sequent_py.verification import Verification
from sequent_py.view_schema.comparison.findings import Findings, TableComparison
from sequent_py.view_schema.comparison.subjects import Subject
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.migrations import tables_of

SLICE_EVENTS = 20_000
"""One slice folds in one or two seconds: often enough for the progress, seldom enough that its tables' fixed cost does not show."""
SLICES_PER_WORKER = 4
"""Of a small store, so that no worker waits long for the last one."""
LEAST_SLICE_EVENTS = 2_000
STATEMENTS_EVENTS = 4_000
"""Of the sample that is folded by statements after all was folded in memory: one or two seconds."""
LIST_SIZE = 25
"""Aggregates of a sample that are folded at once."""
DETERMINISM_AGGREGATES = 100
DETERMINISM_EVENTS = 4_000
"""Of the sample that is folded twice; some seconds."""
ORPHANS = 100
POLL_SECONDS = 0.2


class LogComparison:
    """One comparison, from what is asked for to what was found."""

    def __init__(
        self,
        context: Context,
        connection: Connection,
        subject: Subject,
        wanted: Sequence[str],
        workers: int,
        progress: Progress,
    ) -> None:
        self._context = context
        self._connection = connection
        self._subject = subject
        self._wanted = wanted
        self._workers = workers
        self._progress = progress
        self._rows: dict[str, int] = {}
        self._recorded: dict[str, int] = {}
        self.findings = Findings()
        self.aggregates: int | None = 0
        self.notes: list[str] = []

    def compare(self, *, sample: int, is_all: bool, aggregate_ids: Sequence[UUID]) -> None:
        """Compare what was asked for."""
        attributable, whole = self._divided()
        self._count_rows()
        strayed: set[str] = set()
        if attributable:
            self._progress.step("comparing with the log")
            slices = self._slices(attributable, sample, is_all, aggregate_ids)
            strayed = self._check_slices(slices, attributable)
            if is_all:
                self._check_sample([table for table in attributable if table not in strayed], sample)
        remaining = [table for table in self._wanted if table in strayed or table in whole]
        for table in strayed:
            self.notes.append(f"{table}: events write rows of other aggregates than their own to it.")
        if remaining and is_all:
            self._progress.step("comparing whole tables with the log")
            self._check_whole(remaining)
        elif remaining:
            self.notes.append(
                f"Not compared: {', '.join(remaining)}. Rows cannot be attributed to an aggregate there, which takes --all."
            )
        for tables, aggregates in self.findings.left_out_by_tables.items():
            of = "" if set(tables) == set(self._wanted) else f" of {' and '.join(tables)}"
            self.notes.append(
                f"Left out{of}, because they were set aside by a replay or edited since the last pass: {', '.join(aggregates)}."
            )
        if is_all:
            self.aggregates = None
        elif self.aggregates is not None and attributable:
            lacking = [set(self.findings.lacking(table)) for table in attributable]
            self.aggregates -= len(set.intersection(*lacking))

    def find_nondeterminism(self, aggregate_ids: Sequence[UUID]) -> tuple[Nondeterminism, ...]:
        """Fold a sample twice under different circumstances."""
        projectors = self._subject.narrowed(self._wanted).projectors
        parallel = tuple(item for item in projectors if item.ordering == "aggregate")
        if not parallel:
            return ()
        self._progress.step("folding a sample twice")
        until = current_snapshot(self._connection)
        ids = list(aggregate_ids) or self._verification().sample(
            self._connection, until=until, size=DETERMINISM_AGGREGATES, most_events=DETERMINISM_EVENTS
        )
        classes = [item.projector for item in parallel]
        omissions = self._set_aside(classes).among(ids)
        ids = [aggregate_id for aggregate_id in ids if omissions.projectors(aggregate_id, classes)]
        if not ids:
            return ()
        together, apart = self._two_folds(self._task(parallel), ids, until, omissions)
        return tuple(compare_folds(together, apart, classes))

    def _set_aside(self, projectors: Sequence[type[Projector]]) -> Omissions:
        """Return which tables lack which aggregates, because their events could not be projected; that is known."""
        names = {physical: table for table, physical in self._subject.physical.items()}
        found = self._context.quarantine.left_out_by_table(self._connection, names)
        return find_omissions(
            {names[physical]: aggregates for physical, aggregates in found.items()}, projectors
        )

    def found(self, table: str) -> TableComparison:
        """Return what is known of one table."""
        return self.findings.of_table(
            table, self._subject.physical[table], self._rows.get(table, 0), self._recorded.get(table)
        )

    def _divided(self) -> tuple[list[str], list[str]]:
        """Divide the wanted tables into those whose rows name their aggregate, and the others."""
        serial = {
            table
            for item in self._subject.projectors
            if item.ordering != "aggregate"
            for table in tables_of(item)
        }
        attributable = [
            table for table in self._wanted if self._names_aggregates(table) and table not in serial
        ]
        return attributable, [table for table in self._wanted if table not in attributable]

    def _names_aggregates(self, table: str) -> bool:
        column = record_shape(self._context.definition.records[table]).by_attribute.get("aggregate_id")
        return column is not None and column.type.family == "uuid"

    def _slices(
        self, tables: Sequence[str], sample: int, is_all: bool, aggregate_ids: Sequence[UUID]
    ) -> list[Slice]:
        if is_all:
            total = self._total_events(tables)
            share = max(total // (SLICES_PER_WORKER * max(self._workers, 1)), LEAST_SLICE_EVENTS)
            return cut_ranges(
                self._connection,
                self._context.schema,
                total_events=total,
                target_events=min(SLICE_EVENTS, share),
            )
        chosen = list(dict.fromkeys(aggregate_ids))
        if not chosen:
            chosen = self._sample(sample, is_any_length=True)
            chosen += self._orphans(tables) if sample else []
        self.aggregates = len(chosen)
        return in_lists(chosen, LIST_SIZE)

    def _sample(self, size: int, **options: Any) -> list[UUID]:
        until = current_snapshot(self._connection)
        return self._verification().sample(self._connection, until=until, size=size, **options)

    def _orphans(self, tables: Sequence[str]) -> list[UUID]:
        """Return some aggregates that have rows, as far as a sample of pages shows, and no event."""
        found: dict[UUID, None] = {}
        events = for_parameters(sql.Identifier(self._context.schema, "events"))
        for table in tables:
            shape = record_shape(self._context.definition.records[table])
            relation = sql.Identifier(self._context.config.view_schema, self._subject.physical[table])
            row = self._connection.execute(
                "SELECT pg_relation_size(%s::regclass) / 8192", (relation.as_string(self._connection),)
            ).fetchone()
            assert row is not None
            percent = min(100.0, 100.0 * 200 / max(int(row[0]), 1))  # type: ignore[call-overload]
            rows = self._connection.execute(
                sql.SQL(
                    "SELECT DISTINCT t.{0} FROM {1} t TABLESAMPLE SYSTEM ({2}) WHERE t.{0} IS NOT NULL"
                    " AND NOT EXISTS (SELECT FROM {3} e WHERE e.aggregate_id = t.{0}) LIMIT %s"
                ).format(
                    for_parameters(sql.Identifier(shape.by_attribute["aggregate_id"].name)),
                    for_parameters(relation),
                    sql.Literal(percent),
                    events,
                ),
                (ORPHANS,),
            )
            found.update((aggregate_id, None) for (aggregate_id,) in rows)  # type: ignore[misc]
        return list(found)

    def _total_events(self, tables: Sequence[str]) -> int:
        projectors = [item.projector for item in self._subject.narrowed(tables).projectors]
        stored = stored_event_types(self._connection, self._context.schema)
        samples, _ = estimate_history(
            self._connection,
            self._context.schema,
            until=current_snapshot(self._connection),
            event_type_ids=sorted(handled_type_ids(projectors, stored)),
        )
        return sum(sample.estimated_events for sample in samples.values())

    def _check_slices(self, slices: Sequence[Slice], tables: Sequence[str]) -> set[str]:
        """Check slices; return the tables that strayed."""
        watch = _Watch(self._progress, self._total_events(tables), len(slices))
        watch.workers = self._processes(slices)
        strayed: set[str] = set()
        disputed = 0
        for result in self._checked(slices, tables):
            watch.done(result)
            self.findings.add(result)
            strayed.update(result.strayed)
            disputed += result.is_disputed
        if disputed:
            self.notes.append(
                f"In {disputed} of {len(slices)} slices the tables are what the application's statements make of the events, and not what the"
                " plain fold in memory does: a handler depends on something else than its events, or there is a fault in sequent_py."
            )
        self.findings.set_method(tables, "aggregates")
        self.findings.forget(strayed)
        return strayed

    def _check_sample(self, tables: Sequence[str], size: int) -> None:
        """Fold a sample of what was folded in memory by statements as well; what differs in a table that seemed right is added."""
        slices = in_lists(self._sample(size, most_events=STATEMENTS_EVENTS), LIST_SIZE)
        found = Findings()
        for result in self._checked(slices, tables) if tables else ():
            found.add(result)
        self.findings.correct(found)

    def _checked(self, slices: Sequence[Slice], tables: Sequence[str]) -> Iterator[SliceResult]:
        """Check slices in as many processes as are wanted, and yield what they show."""
        task = self._task(
            tuple(item for item in self._subject.narrowed(tables).projectors if item.ordering == "aggregate")
        )
        processes = self._processes(slices)
        if processes > 1:
            yield from checked_in_processes(task, slices, tables, processes)
            return
        with self._inline(task) as worker:
            for which in slices:
                yield worker.check(which, tables)

    def _processes(self, slices: Sequence[Slice]) -> int:
        return max(min(self._workers, len(slices)), 1)

    def _check_whole(self, tables: Sequence[str]) -> None:
        task = self._task(self._subject.narrowed(tables).projectors)
        watch = _Watch(self._progress, self._total_events(tables), 1)
        before = current_snapshot(self._connection)
        with self._inline(task) as worker:
            result = worker.check_whole(tables, watch.folded)
        for table, aggregates in result.left_out.items():
            self.notes.append(
                f"Not compared: {table}. Rows cannot be attributed to an aggregate there, and"
                f" {len(aggregates)} would have to be left out."
            )
        if not result.comparisons:
            return
        if edits_in_window(self._connection, self._context.schema, since=before, until=None) != Edits():
            raise EventsEdited(
                "Events were edited or deleted while whole tables were compared with them.",
                remedy="Run it again: sequent migrate verify --all",
            )
        # These are not compared, rather than compared without some aggregates.
        self.findings.add(replace(result, left_out={}))
        self.findings.set_method(result.comparisons, "whole")

    def _count_rows(self) -> None:
        """Count rows, and what the ledger says of shadow tables, in one snapshot."""
        ledger, migration_id = self._context.ledger, self._subject.migration_id
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for table in self._wanted:
                row = self._connection.execute(
                    sql.SQL("SELECT count(*) FROM {}").format(
                        sql.Identifier(self._context.config.view_schema, self._subject.physical[table])
                    )
                ).fetchone()
                assert row is not None
                self._rows[table] = int(row[0])  # type: ignore[call-overload]
            if migration_id is not None and not ledger.has_unfinished(self._connection, migration_id):
                recorded = ledger.row_counts(self._connection, migration_id)
                self._recorded = {table: recorded.get(table, 0) for table in self._wanted}

    def _verification(self) -> Verification:
        return Verification(
            event_store_schema=self._context.schema,
            projectors=[item.projector for item in self._subject.projectors],
            tables={},
            event_types=self._context.event_types,
            stored_types=stored_event_types(self._connection, self._context.schema),
        )

    def _task(self, projectors: Sequence[ProjectorDefinition]) -> CheckTask:
        context = self._context
        return CheckTask(
            database_url=context.database_url,
            event_store_schema=context.schema,
            view_schema=context.config.view_schema,
            migrations_class=f"{context.migrations.__module__}:{context.migrations.__qualname__}",
            sys_path=context.sys_path,
            version=self._subject.version,
            migration_id=self._subject.migration_id,
            projectors=tuple(item.name for item in projectors),
            physical_tables=self._subject.physical,
        )

    def _inline(self, task: CheckTask) -> InlineWorker:
        return InlineWorker(task, self._context.migrations, self._context.event_types)

    def _two_folds(
        self, task: CheckTask, aggregate_ids: Sequence[UUID], until: str, omissions: Omissions
    ) -> tuple[FoldedRows, FoldedRows]:
        circumstances = (Circumstances(is_apart=False), Circumstances(True, CLOCK_SHIFT_SECONDS))
        if self._workers > 0:
            first, second = folded_in_processes(task, aggregate_ids, until, circumstances, omissions)
            return first, second
        with self._inline(task) as worker:
            first, second = (worker.fold(aggregate_ids, until, each, omissions) for each in circumstances)
        return first, second


class _Watch:
    """Tells the progress what has been compared."""

    def __init__(self, progress: Progress, events_total: int, groups_total: int) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self._events_total, self._groups_total = events_total, groups_total
        self._events = self._groups = 0
        self._told = 0.0
        self.workers = 1

    def done(self, result: SliceResult) -> None:
        """A slice was compared."""
        self._groups += 1
        self._tell(result.events)

    def folded(self, events: int) -> None:
        """So many more events of a whole fold."""
        self._tell(events)

    def _tell(self, events: int) -> None:
        self._events += events
        now = time.monotonic()
        if now - self._told < POLL_SECONDS and self._groups < self._groups_total:
            return
        self._told = now
        self._progress.replay(
            ReplayProgress(
                events_done=self._events,
                events_total=max(self._events_total, self._events),
                groups_done=self._groups,
                groups_total=self._groups_total,
                workers=self.workers,
                seconds=now - self._started,
            )
        )
