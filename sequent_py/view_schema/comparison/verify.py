"""``verify``: are the tables what the events say?

On an unfinished migration the shadow tables are compared with a fresh fold, as of the snapshot that they were replayed to; otherwise the
live tables, exactly, while the application writes (see :mod:`sequent_py.checks` for how). ``--all`` covers every aggregate id there can
be, in short transactions, with several processes; a sample covers a few. Beside the rows: the tables' schema against a fresh create
from their files, row counts, and whether handlers are deterministic. Takes no migration lock and writes to temporary tables only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from sequent_py.checks.determinism import Nondeterminism
from sequent_py.errors import ConfigurationError, MigrationError, TableFileError
from sequent_py.progress import Progress
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.bookkeeping.moment import at_one_moment, between_cut_overs
from sequent_py.view_schema.comparison.findings import NOT_COMPARED, TableComparison
from sequent_py.view_schema.comparison.log_comparison import LogComparison
from sequent_py.view_schema.comparison.schema_check import SchemaDifferences, compare_schemas
from sequent_py.view_schema.comparison.subjects import Subject, find_subject
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.tables import dependents


@dataclass(frozen=True)
class TableVerification:
    """What was found in one table."""

    table_name: str
    physical_name: str
    method: str
    """``aggregates``, ``whole`` or ``not compared``."""
    rows: int
    rows_recorded: int | None = None
    """What the ledger says of a shadow table; None where nobody counts."""
    only_in_table: int = 0
    only_in_log: int = 0
    changed: int = 0
    changed_columns: dict[str, int] = field(default_factory=dict)
    """In how many of the changed rows each column differs."""
    uncompared_columns: tuple[str, ...] = ()
    """Columns whose values the database draws, or computes from such."""
    examples_only_in_table: tuple[str, ...] = ()
    examples_only_in_log: tuple[str, ...] = ()
    examples_changed: tuple[str, ...] = ()
    """The table's value, then the log's."""
    schema_failures: tuple[str, ...] = ()
    made_by_hand: tuple[str, ...] = ()
    """What the table has beyond its files; no failure."""
    left_out: tuple[str, ...] = ()
    """Aggregates that were not compared in this table."""

    @property
    def is_correct(self) -> bool:
        """Whether nothing is wrong with it, as far as it was looked at."""
        return not (self.differences or self.schema_failures) and (
            self.rows_recorded is None or self.rows == self.rows_recorded
        )

    @property
    def differences(self) -> int:
        """Rows that differ."""
        return self.only_in_table + self.only_in_log + self.changed


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` looked at, and found."""

    subject: str
    """``live`` or ``shadow``."""
    version: int
    migration_id: int | None
    is_complete: bool
    """Whether every aggregate was compared, in every table: none was left out, and no table was not compared."""
    aggregates: int | None
    """How many were compared; None for all."""
    events: int
    """Events that were folded for the comparison."""
    tables: tuple[TableVerification, ...]
    nondeterminism: tuple[Nondeterminism, ...] | None
    """None where it was not looked for."""
    seconds: float
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Aggregates that would have been compared, and were set aside by a replay, or edited since the last pass; of one table at least."""

    @property
    def not_compared(self) -> tuple[str, ...]:
        """The tables whose rows were not compared, as they are called."""
        return tuple(table.physical_name for table in self.tables if table.method == NOT_COMPARED)

    @property
    def is_correct(self) -> bool:
        """Whether nothing is wrong, as far as it was looked at."""
        return all(table.is_correct for table in self.tables) and not self.nondeterminism


def run_verify(
    context: Context,
    *,
    sample: int,
    is_all: bool,
    aggregate_ids: Sequence[UUID],
    tables: Sequence[str],
    workers: int,
    is_once: bool,
    progress: Progress,
) -> VerifyReport:
    """Compare tables with the log.

    Raises
    ------
    MigrationError
        There is nothing to verify, the code is not of the version that is live, or a cut-over came in between.
    ProjectionFailed, InvalidPayload
        The code cannot fold an event.
    """
    started = time.monotonic()
    if workers > 0:
        context.require_importable()
    with context.connected("migrate verify") as connection:
        context.require_installed(connection)
        progress.step("checking the schema")
        (subject, wanted, schemas), cut_overs = between_cut_overs(
            connection, context.schema, lambda: _begin(context, connection, tables)
        )
        run = LogComparison(context, connection, subject, wanted, workers, progress)
        with _while_they_are_there(context, connection, subject, cut_overs):
            run.compare(sample=sample, is_all=is_all, aggregate_ids=aggregate_ids)
            nondeterminism = None if is_once else run.find_nondeterminism(aggregate_ids)
        found = {table: run.found(table) for table in wanted}
        is_whole = not run.findings.left_out and all(item.method != NOT_COMPARED for item in found.values())
        return VerifyReport(
            subject=subject.kind,
            version=subject.version,
            migration_id=subject.migration_id,
            is_complete=is_all and is_whole,
            aggregates=run.aggregates,
            events=run.findings.events,
            tables=tuple(_report(table, found[table], schemas[table]) for table in wanted),
            nondeterminism=nondeterminism,
            seconds=time.monotonic() - started,
            notes=tuple(run.notes),
            left_out=run.findings.left_out,
        )


def _begin(
    context: Context, connection: Connection, tables: Sequence[str]
) -> tuple[Subject, tuple[str, ...], dict[str, SchemaDifferences]]:
    """Find out what is to be compared, and compare it with its files."""
    subject = at_one_moment(connection, context.schema, lambda: find_subject(context, connection))
    wanted = _wanted(subject, tables)
    schemas = compare_schemas(
        connection,
        view_schema=context.config.view_schema,
        files=[table_files.read_table_files(context.config.sql_path, table) for table in wanted],
        suffix=subject.suffix,
    )
    return subject, wanted, schemas


@contextmanager
def _while_they_are_there(
    context: Context, connection: Connection, subject: Subject, cut_overs: int
) -> Iterator[None]:
    """Say of tables that are gone that they are, rather than what is wrong with what has their names now."""
    try:
        yield
    except (TableFileError, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        missing = dependents.missing_tables(
            connection, context.config.view_schema, list(subject.physical.values())
        )
        if not missing and context.gate.cut_overs(connection) == cut_overs:
            raise
        raise MigrationError(
            f"Tables that are to be checked are not there, or no longer: {' '.join(missing) or error}",
            remedy="See what serves: sequent migrate status. If a cut-over came in between, begin again: sequent migrate verify."
            " If somebody dropped them, build them anew under a newer version.",
        ) from error


def _wanted(subject: Subject, tables: Sequence[str]) -> tuple[str, ...]:
    unknown = [table for table in tables if table not in subject.physical]
    if unknown:
        raise ConfigurationError(
            f"No projector manages {', '.join(unknown)} here; there are: {', '.join(subject.physical) or 'none'}.",
            remedy="Give the plain names of managed tables.",
        )
    return tuple(dict.fromkeys(tables)) or tuple(subject.physical)


def _report(table: str, found: TableComparison, schema: SchemaDifferences) -> TableVerification:
    comparison = found.comparison
    return TableVerification(
        table_name=table,
        physical_name=found.physical_name,
        method=found.method,
        rows=found.rows,
        rows_recorded=found.rows_recorded,
        only_in_table=comparison.only_left,
        only_in_log=comparison.only_right,
        changed=comparison.changed,
        changed_columns=dict(comparison.changed_columns),
        uncompared_columns=found.uncompared_columns,
        examples_only_in_table=comparison.described_left,
        examples_only_in_log=comparison.described_right,
        examples_changed=tuple(map(str, comparison.changed_examples)),
        schema_failures=schema.failures,
        made_by_hand=schema.made_by_hand,
        left_out=found.left_out,
    )
