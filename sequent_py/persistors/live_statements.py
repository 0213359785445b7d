"""Live statements: what live persistors send to one table and need for it, each composed once per table and shape of call.

An append meets them cold, between two waits for the server; so whatever does not depend on its values is found here by one key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from sequent_py.exchange import Statement, numbered
from sequent_py.persistors.lookups import LookUp
from sequent_py.persistors.operations import Filter, RowOperations, operations_of
from sequent_py.persistors.statements import Statements, ValuesQuery, statements_of
from sequent_py.persistors.tables import TableShape
from sequent_py.row_classes import Row

Maker = Callable[[Mapping[str, Any]], Row]
"""From the values of a call to a row."""


class RowWrite(ValuesQuery):
    """A statement that writes one row, as cursors take it and as lines do."""

    def __init__(self, query: bytes, statement: Statement, dumpers: Iterable[Any]) -> None:
        super().__init__(query, dumpers)
        self.statement = statement


class LiveStatements:
    """Of one table."""

    def __init__(self, table: TableShape) -> None:
        self.table = table
        self.operations: RowOperations = operations_of(table)
        self.statements: Statements = statements_of(table)
        self._look_ups: dict[Any, LookUp] = {}
        self._makers: dict[tuple[str, ...], Maker | None] = {}
        self._insertions: dict[bool, RowWrite] = {}
        self._updates: dict[tuple[str, ...], RowWrite] = {}
        self._sent: dict[bytes, Statement] = {}

    def look_up(self, where: Mapping[str, Any], order: str, lock: bool) -> LookUp:
        """Return the look-up by one value for each of these columns."""
        key = (*where, order, lock)
        found = self._look_ups.get(key)
        if found is None:
            columns = [item.column for item in self.operations.filters(where)]
            found = self._look_ups[key] = LookUp(
                self.statements, columns, order, lock, self.operations.compile_values(tuple(where))
            )
        return found

    def maker(self, given: tuple[str, ...]) -> Maker | None:
        """Return the function from these values to a row; None where the table's defaults have a part in it."""
        if given not in self._makers:
            table, operations = self.table, self.operations
            left = operations.columns.keys() - {*given, *operations.shape.python_defaults}
            is_ours = left.isdisjoint(table.constant_defaults) and left.isdisjoint(table.drawn_defaults)
            self._makers[given] = operations.compile_create(given, _never_drawn) if is_ours else None
        return self._makers[given]

    def insertion(self, *, returning: bool) -> RowWrite:
        """Return the insertion of a row of which every value is known."""
        found = self._insertions.get(returning)
        if found is None:
            names, dumpers = tuple(self.operations.columns), self.statements.dumpers
            query = self.statements.insert(names, 1, returning=returning)
            found = self._insertions[returning] = RowWrite(
                query, self.sent(query), (dumpers[name] for name in names)
            )
        return found

    def update_of_row(self, names: tuple[str, ...]) -> RowWrite:
        """Return the update of these columns of a row, which is found by its key."""
        found = self._updates.get(names)
        if found is None:
            operations, dumpers = self.operations, self.statements.dumpers
            key = [Filter(column, (...,), True) for column in operations.shape.key_columns]
            query = self.statements.update(names, key)[0]
            found = self._updates[names] = RowWrite(
                query,
                self.sent(query),
                (dumpers[name] for name in (*names, *operations.key_attributes)),
            )
        return found

    def sent(self, query: bytes) -> Statement:
        """Return a query as it is sent along a line; the same statement for the same query."""
        found = self._sent.get(query)
        if found is None:
            found = self._sent[query] = numbered(query)
        return found


def live_statements_of(table: TableShape) -> LiveStatements:
    """Return the live statements of a table, the same every time."""
    return table.derived(LiveStatements)


def _never_drawn(attribute: str) -> NoReturn:
    raise AssertionError(f"{attribute} is drawn by the server")
