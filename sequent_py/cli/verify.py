"""``sequent migrate verify`` and ``diff``: tables against the log, and the old version against the new."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer

from sequent_py.cli.blocks import Block, Facts, Grid, Items, Line, Tone, count, duration
from sequent_py.cli.invocation import Invocation, command
from sequent_py.view_schema.comparison.diff import DiffReport, TableDiff
from sequent_py.view_schema.comparison.findings import grouped_by_tables
from sequent_py.view_schema.comparison.verify import TableVerification, VerifyReport

DIFFERENT = 1
"""The exit code of a verification that found something."""

Tables = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="T", help="Only this table, by its plain name; may be repeated."),
]

AcceptDifferences = Annotated[
    bool,
    typer.Option(
        "--accept-differences",
        help="Promote tables that fail the verification; what it found is recorded with the migration.",
    ),
]
"""Of the commands that promote."""


@command
def verify(
    invocation: Invocation,
    sample: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="How many aggregates to compare. Default: the setting verify_sample."
        ),
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Compare every aggregate.")] = False,
    aggregate: Annotated[
        list[UUID] | None,
        typer.Option(metavar="ID", help="Compare this aggregate; may be repeated."),
    ] = None,
    table: Tables = None,
    once: Annotated[
        bool, typer.Option("--once", help="Do not fold a sample twice to find nondeterministic handlers.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, max=256, metavar="N", help="Processes; 0 folds in this one. Default: the setting workers."
        ),
    ] = None,
) -> None:
    """Compare the tables with a fresh fold of the events.

    The new tables while a migration is unfinished, else the live ones, exactly, while the application writes. Every column is compared but
    those whose values the database draws; the tables' columns, constraints and indexes with what their files create; and the rows of a
    sample with a second fold, under other circumstances. Writes nothing. Exits with 1 if anything differs. What could not be compared, and
    aggregates that were left behind, the first line names.

    \b
    Example: sequent migrate verify --all --workers 4
    """
    if sum((sample is not None, is_all, bool(aggregate))) > 1:
        raise typer.BadParameter("give one of --sample, --all and --aggregate")
    invocation.resume = "Nothing was written. Begin again: sequent migrate verify"
    with invocation.application() as sequent, invocation.progress() as progress:
        report = sequent.view_schema.verify(
            sample=sample,
            is_all=is_all,
            aggregate_ids=aggregate or (),
            tables=table or (),
            workers=workers,
            is_once=once,
            progress=progress,
        )
    invocation.report(report, describe_verification)
    if not report.is_correct:
        raise typer.Exit(DIFFERENT)


@command
def diff(
    invocation: Invocation,
    table: Tables = None,
    examples: Annotated[int, typer.Option(min=0, metavar="N", help="Examples of each kind and table.")] = 5,
) -> None:
    """Show what the new version changes: old rows against new ones.

    During a migration the live tables against the new ones, after it the retired ones against the live ones. Aggregates with events that
    only one side has are left out and counted. Reads only.

    \b
    Example: sequent migrate diff --table account_records --examples 20
    """
    invocation.resume = "Nothing was written. Begin again: sequent migrate diff"
    with invocation.application() as sequent, invocation.progress() as progress:
        report = sequent.view_schema.diff(tables=table or (), examples=examples, progress=progress)
    invocation.report(report, describe_diff)


def describe_verification(report: VerifyReport) -> Iterator[Block]:
    """Say what a verification found."""
    which = "live" if report.subject == "live" else "new"
    exceptions = _exceptions(report)
    if report.is_correct:
        tone = Tone.WARNING if exceptions else Tone.GOOD
        yield Line(
            f"The {which} tables of version {report.version} are what the events say{exceptions}.", tone
        )
    else:
        yield Line(f"The {which} tables of version {report.version} are not what the events say.", Tone.BAD)
    aggregates = "every aggregate" if report.aggregates is None else count(report.aggregates, "aggregate")
    yield Facts(
        {
            "compared": f"{aggregates}, {count(report.events, 'event')} folded",
            "folded twice": "no" if report.nondeterminism is None else "a sample",
            "took": duration(report.seconds),
        }
    )
    yield Grid(
        "Rows",
        ("table", "rows", "only in table", "only in log", "changed", "not compared"),
        [
            (
                table.physical_name,
                _rows(table),
                *(
                    ("-", "-", "-")
                    if table.method == "not compared"
                    else (count(table.only_in_table), count(table.only_in_log), count(table.changed))
                ),
                ", ".join(table.uncompared_columns) or "-",
            )
            for table in report.tables
        ],
        frozenset({1, 2, 3, 4}),
    )
    for table in report.tables:
        yield from _differences(table)
    yield Items(
        "Handlers that are not deterministic:", [str(item) for item in report.nondeterminism or ()], Tone.BAD
    )
    yield Items("Notes:", report.notes, Tone.WARNING)


def _exceptions(report: VerifyReport) -> str:
    """Say what no statement is made about: what a reader of the first line must not take for compared."""
    parts = []
    what = "left behind" if report.subject == "live" else "left out"
    by_table = {table.physical_name: table.left_out for table in report.tables if table.left_out}
    for tables, aggregates in grouped_by_tables(by_table).items():
        number = len(aggregates)
        where = "" if len(tables) == len(report.tables) else f" in {' and '.join(tables)}"
        parts.append(f"{count(number, 'aggregate')} that {'was' if number == 1 else 'were'} {what}{where}")
    if report.not_compared:
        number = len(report.not_compared)
        names = ", ".join(report.not_compared)
        parts.append(
            f"{count(number, 'table')} that {'was' if number == 1 else 'were'} not compared ({names})"
        )
    return f", except {' and '.join(parts)}" if parts else ""


def _rows(table: TableVerification) -> str:
    if table.rows_recorded is None or table.rows_recorded == table.rows:
        return count(table.rows)
    return f"{count(table.rows)} (its groups wrote {count(table.rows_recorded)})"


def _differences(table: TableVerification) -> Iterator[Block]:
    name = table.physical_name
    yield Items(f"{name}, only in the table:", table.examples_only_in_table, Tone.BAD)
    yield Items(f"{name}, only in the log:", table.examples_only_in_log, Tone.BAD)
    yield Items(f"{name}, changed ({_columns(table.changed_columns)}):", table.examples_changed, Tone.BAD)
    yield Items(f"{name}, not as its files create it:", table.schema_failures, Tone.BAD)
    yield Items(f"{name}, made by hand:", table.made_by_hand)


def _columns(columns: dict[str, int]) -> str:
    return ", ".join(f"{name} in {count(number, 'row')}" for name, number in columns.items())


def describe_diff(report: DiffReport) -> Iterator[Block]:
    """Say what a version changes."""
    yield Line(f"Version {report.from_version} against version {report.target_version} ({report.state})")
    if not report.tables:
        yield Line("The migration rebuilds no table.")
        return
    yield Grid(
        "Rows",
        ("old", "rows", "new", "rows", "only in old", "only in new", "changed"),
        [
            (
                table.old_name or "-",
                count(table.old_rows),
                table.new_name,
                count(table.new_rows),
                count(table.only_in_old),
                count(table.only_in_new),
                count(table.changed),
            )
            for table in report.tables
        ],
        frozenset({1, 3, 4, 5, 6}),
    )
    for table in report.tables:
        yield from _changes(table)


def _changes(table: TableDiff) -> Iterator[Block]:
    late = None
    if table.late_aggregates:
        late = f"{count(table.late_aggregates, 'aggregate')} with events or edits that only one side has seen, or set aside"
    elif table.is_late:
        late = "nothing, although only one side has the newest events: rows do not say whose they are"
    yield Line(table.table_name)
    yield Facts(
        {
            "changed columns": _columns(dict(table.changed_columns)) or None,
            "columns only in old": ", ".join(table.columns_only_in_old) or None,
            "columns only in new": ", ".join(table.columns_only_in_new) or None,
            "not compared": ", ".join(table.uncompared_columns) or None,
            "rows paired by": ", ".join(table.paired_by) or None,
            "left out": late,
        }
    )
    yield Items("Only in old:", table.examples_only_in_old)
    yield Items("Only in new:", table.examples_only_in_new)
    yield Items("Changed:", table.examples_changed)
