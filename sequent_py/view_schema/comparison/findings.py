"""What a comparison with the log has found so far, table by table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sequent_py.checks.checker import EXAMPLES, SliceResult
from sequent_py.checks.comparison import RelationComparison

NOT_COMPARED = "not compared"
"""The method of a table whose rows were only counted."""


@dataclass(frozen=True)
class TableComparison:
    """What was found in one table: rows of the table on the left, of the fold on the right."""

    physical_name: str
    method: str
    rows: int
    rows_recorded: int | None
    comparison: RelationComparison
    uncompared_columns: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Aggregates that were not compared in it."""


class Findings:
    """Gathers the results of slices."""

    def __init__(self) -> None:
        self.events = 0
        self._comparisons: dict[str, RelationComparison] = {}
        self._methods: dict[str, str] = {}
        self._uncompared: dict[str, set[str]] = {}
        self._left_out: dict[str, dict[str, None]] = {}
        """By table, for it was made whole, or is another migration's: the aggregates that it lacks."""

    def add(self, result: SliceResult) -> None:
        """Add what a slice shows."""
        self.events += result.events
        for table, aggregates in result.left_out.items():
            self._left_out.setdefault(table, {}).update(dict.fromkeys(aggregates))
        for table, comparison in result.comparisons.items():
            before = self._comparisons.get(table, RelationComparison())
            self._comparisons[table] = before.plus(comparison, examples=EXAMPLES)
            self._uncompared.setdefault(table, set()).update(result.uncompared[table])

    def set_method(self, tables: Iterable[str], method: str) -> None:
        """Say how tables were compared."""
        self._methods.update(dict.fromkeys(tables, method))

    def forget(self, tables: Iterable[str]) -> None:
        """What was found in these tables means nothing."""
        for table in tables:
            self._methods.pop(table, None)
            self._comparisons.pop(table, None)

    def correct(self, other: Findings) -> None:
        """Let another way to look at the same rows speak for the tables that seemed right."""
        for table, comparison in other._comparisons.items():
            if not self._comparisons[table].differences:
                self._comparisons[table] = comparison

    def lacking(self, table: str) -> tuple[str, ...]:
        """Return the aggregates that would have been compared in a table, and were set aside or edited."""
        return tuple(self._left_out.get(table, ()))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The same, of one table at least."""
        return tuple(sorted({item for aggregates in self._left_out.values() for item in aggregates}))

    @property
    def left_out_by_tables(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """The same, by the tables that lack them."""
        return grouped_by_tables({table: tuple(found) for table, found in self._left_out.items()})

    def of_table(
        self, table: str, physical_name: str, rows: int, rows_recorded: int | None
    ) -> TableComparison:
        """Return what is known of one table."""
        return TableComparison(
            physical_name=physical_name,
            method=self._methods.get(table, NOT_COMPARED),
            rows=rows,
            rows_recorded=rows_recorded,
            comparison=self._comparisons.get(table, RelationComparison()),
            uncompared_columns=tuple(sorted(self._uncompared.get(table, ()))),
            left_out=self.lacking(table),
        )


def grouped_by_tables(
    by_table: Mapping[str, Sequence[str]],
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return, by tables that lack the same aggregates, these; pure."""
    tables: dict[str, list[str]] = {}
    for table, aggregates in by_table.items():
        for aggregate in aggregates:
            tables.setdefault(aggregate, []).append(table)
    found: dict[tuple[str, ...], list[str]] = {}
    for aggregate in sorted(tables):
        found.setdefault(tuple(tables[aggregate]), []).append(aggregate)
    return {names: tuple(aggregates) for names, aggregates in found.items()}
