"""One table as the live persistor knows it: its statements over a connection or along a line, and the row of it that is known without asking.

A write whose outcome is known is sent when it suits the line. The row that was locked or inserted last is remembered for the events of the append that are
still to come, and its updates are held until somebody could notice (:mod:`sequent_py.persistors.holding`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import psycopg
from psycopg import errors

from sequent_py.cursors import OwnCursor
from sequent_py.errors import RecordNotFound
from sequent_py.exchange import Statement
from sequent_py.persistors import DuplicateRecord
from sequent_py.persistors.generators import Values
from sequent_py.persistors.holding import OwnRow
from sequent_py.persistors.lines import Answer, Line
from sequent_py.persistors.live_statements import live_statements_of
from sequent_py.persistors.lookups import LookUp
from sequent_py.persistors.operations import Filter, RowOperations
from sequent_py.persistors.tables import DefaultSource, TableShape
from sequent_py.row_classes import Row

_PARAMETERS_PER_STATEMENT = 60_000
"""The protocol counts parameters in 16 bits."""


class LiveTable:
    """One table over one connection, or along a line."""

    def __init__(
        self, connection: psycopg.Connection[Any], table: TableShape, line: Line | None = None
    ) -> None:
        self.connection, self.line = connection, line
        self.composed = live_statements_of(table)
        self.operations, self.statements = self.composed.operations, self.composed.statements
        self.name = self.operations.name
        self.writes = 0
        """How many statements have changed rows, or will."""
        self._own: OwnRow | None = None
        """The row that is known without asking; None after every statement but those that leave it as it was."""
        self._table = table
        self._is_patient = line is not None and not line.has_effects(table.name)
        self._cursor = OwnCursor(connection) if line is None else None

    def run(self, query: bytes, parameters: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]] | Answer:
        """Execute a statement; the primary key's violation is told apart by the callers that can cause it."""
        if self.line is not None:
            if self._own is not None:
                self._let_go()
            return self.line.run(self.composed.sent(query), parameters)
        assert self._cursor is not None
        return self._cursor.execute(query, parameters)

    def change(self, query: bytes, parameters: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]] | Answer:
        """Execute a statement that changes rows, and whose outcome is wanted at once."""
        self._note_written()
        return self.run(query, parameters)

    def draw(self, attribute: str) -> Any:
        """Return the next default of an attribute that has a drawn one."""
        if self.line is not None:
            self.line.flush()
        # Drawn singly: live transactions are short, and a block would be thrown away with each.
        return DefaultSource(self.connection, self._table, block_size=1).draw(attribute)

    def first(self, where: Mapping[str, Any], order: str, *, lock: bool = False) -> Row | None:
        """Return the first matching row in the order of the primary key, ``order`` being "ASC" or "DESC"."""
        look_up = self.composed.look_up(where, order, lock)
        values = look_up.values_of(where)
        if values is None:
            filters = self.operations.filters(where)
            if any(not item.is_scalar or item.values[0] is None for item in filters):
                found = self.run(
                    *self.statements.select(filters, order=order, is_first=True, lock=lock)
                ).fetchone()
                return None if found is None else self.operations.load(found)
            values = tuple([item.values[0] for item in filters])
        if self._own is not None and self._own.is_found_by(look_up, values):
            # An update changes a clone of it.
            return self._own.row if lock else self._detached(self._own.row)
        parameters = look_up.parameters(values)
        rows = None if self.line is None else self.line.foreseen(look_up, parameters)
        if rows is not None:
            found = rows[0] if rows else None
        else:
            if self.line is not None:
                self.line.learn(look_up, values)
            found = self.run(look_up.query, parameters).fetchone()
        if found is None:
            return None
        row = self.operations.load(found)
        if lock and self.line is not None and self.line.more_come:
            self._remember(row, look_up, values)
        return row

    def create_one(self, values: Mapping[str, Any]) -> Row:
        """Insert a row; by one call of a compiled function where the server knows nothing of its values that we don't."""
        maker = self.composed.maker(tuple(values))
        if maker is None:
            return self.create([values])[0]
        row = maker(values)
        if self.may_wait:
            self.insert_later(row)
            return row
        (stored,) = self.insert(row, returning=True)
        return self.operations.load(stored)

    def insert(self, row: Row, *, returning: bool) -> psycopg.Cursor[tuple[Any, ...]] | Answer:
        """Insert a row of which every value is known, now."""
        insertion = self.composed.insertion(returning=returning)
        try:
            return self.change(insertion.query, insertion.parameters(self.operations.shape.values_of(row)))
        except errors.UniqueViolation as error:
            raise self.translated(error, self.operations.key_values(row)) from error

    def create(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Insert rows, every one checked before the first is sent, in as few statements as their columns allow."""
        completed = [self.operations.completed(values) for values in rows]
        created: list[Row] = []
        for run in _runs(completed):
            created += self._insert(run)
        return created

    def _insert(self, rows: Sequence[Values]) -> list[Row]:
        given = tuple(rows[0])
        parameters = [self.statements.dump(name, row[name]) for row in rows for name in given]
        if len(given) == len(self.operations.columns) and self.may_wait:
            # Nothing that the server knows and we don't.
            query = self.statements.insert(given, len(rows), returning=False)
            self._later(self.composed.sent(query), parameters, lambda: rows[0] if len(rows) == 1 else {})
            return [self.operations.fill(dict(row), self.draw) for row in rows]
        query = self.statements.insert(given, 1 if not given else len(rows), returning=True)
        try:
            return [self.operations.load(values) for values in self.change(query, parameters)]
        except errors.UniqueViolation as error:
            raise self.translated(error, rows[0] if len(rows) == 1 else {}) from error

    def update(self, filters: Sequence[Filter], values: Values) -> int:
        """Set columns of matching rows and return how many match."""
        if not values:
            query, parameters = self.statements.count(filters)
            return int(cast(tuple[Any], self.run(query, parameters).fetchone())[0])
        query, parameters = self.statements.update(tuple(values), filters)
        given = [self.statements.dump(name, value) for name, value in values.items()]
        try:
            return self.change(query, [*given, *parameters]).rowcount
        except errors.UniqueViolation as error:
            raise self.translated(error, values) from error

    # Later

    @property
    def may_wait(self) -> bool:
        """Whether a write whose outcome is known can be sent later."""
        return self._is_patient and self.line is not None and self.line.at is not None

    def insert_later(self, row: Row) -> None:
        """Insert a row of which every value is known, when it suits the line."""
        operations, insertion = self.operations, self.composed.insertion(returning=False)
        parameters = insertion.parameters(operations.shape.values_of(row))
        self._later(insertion.statement, parameters, lambda: operations.key_values(row))
        if self.line is not None and self.line.more_come:
            self._remember(self._detached(row))

    def update_row(self, row: Row, values: Values, after: Row, *, may_wait: bool) -> None:
        """Set columns of a row that was read, and is ``after`` then; when it suits the line, where nothing can have changed it since.

        Raises
        ------
        RecordNotFound
            There is no such row any more.
        """
        own = self._own
        if own is not None and own.row is row and may_wait and self.may_wait:
            is_held = self._may_hold(own, values)
            if is_held or own.changed:
                self._hold(own, values, after)
                if not is_held:
                    # With what is held already.
                    self._let_go()
                return
        key = self.operations.key_values(row)
        update = self.composed.update_of_row(tuple(values))
        parameters = update.parameters([*values.values(), *key.values()])
        if may_wait and self.may_wait:
            self._later(update.statement, parameters, lambda: values, lambda: RecordNotFound(self.name, key))
            return
        try:
            if self.change(update.query, parameters).rowcount == 0:
                raise RecordNotFound(self.name, key)
        except errors.UniqueViolation as error:
            raise self.translated(error, values) from error

    def _later(
        self,
        statement: Statement,
        parameters: Sequence[Any],
        values: Callable[[], Mapping[str, Any]],
        missing: Callable[[], Exception] | None = None,
        held_for: Any = None,
    ) -> None:
        """Send a write later; ``values`` returns what it writes, for the message where it is refused."""
        assert self.line is not None
        if held_for is None:
            if self._own is not None:
                self._let_go()
            self._note_written()

        def explain(error: psycopg.Error) -> Exception:
            return self.translated(error, values()) if isinstance(error, errors.UniqueViolation) else error

        self.line.write(statement, parameters, explain, missing, held_for)

    # Holding

    def _remember(self, row: Row, look_up: LookUp | None = None, values: Sequence[Any] = ()) -> None:
        """Remember a row that was locked or inserted, for the events to come."""
        if self.line is not None and self._table.name in self.line.holdable:
            if self._own is not None:
                self._let_go()
            self._own = OwnRow(self.operations, row, look_up, values)

    def _detached(self, row: Row) -> Row:
        """Return the row for somebody who could change its JSON or arrays in place."""
        detach = self.operations.detach
        return row if detach is None else detach(row)

    def _may_hold(self, own: OwnRow, values: Values) -> bool:
        """Whether the server has nothing to say against these values that it would not say against later ones."""
        if self.line is None or not self.line.more_come or not own.stays_found(values):
            return False
        columns, free = self.operations.columns, self.line.holdable[self._table.name]
        return all(value is not None and columns[name].name in free for name, value in values.items())

    def _hold(self, own: OwnRow, values: Values, after: Row) -> None:
        assert self.line is not None
        self._note_written()
        own.row = self._detached(after)
        # Not the values themselves, whose JSON and arrays the handler may change later.
        own.changed = {**own.changed, **{name: getattr(own.row, name) for name in values}}
        own.held_for = self.line.at
        self.line.hold(self._table.name, self._let_go)

    def _let_go(self) -> None:
        """Send what is held, and forget the row: what comes next may change it, or has to see it."""
        own = self._own
        if own is not None and own.changed:
            changed, key = own.changed, own.key
            update = self.composed.update_of_row(tuple(changed))
            self._later(
                update.statement,
                update.parameters([*changed.values(), *key.values()]),
                lambda: changed,
                lambda: RecordNotFound(self.name, key),
                own.held_for,
            )
        # Only now: an exception that comes between must not lose what was held.
        self._own = None

    def _note_written(self) -> None:
        self.writes += 1
        if self.line is not None:
            self.line.note_written(self._table.name)

    def translated(self, error: errors.UniqueViolation, values: Mapping[str, Any]) -> Exception:
        """Return DuplicateRecord if it was the primary key; other constraints are the table file's, and speak as the server does."""
        return translate_unique_violation(self.operations, error, values)


def translate_unique_violation(
    operations: RowOperations, error: errors.UniqueViolation, values: Mapping[str, Any]
) -> Exception:
    """Return DuplicateRecord for a violated primary key, the error itself for other constraints."""
    if error.diag.constraint_name not in operations.table.key_constraints:
        return error
    return DuplicateRecord(operations.name, {n: values[n] for n in operations.key_attributes if n in values})


def _runs(rows: Sequence[Values]) -> Iterable[Sequence[Values]]:
    """Cut rows into runs with the same columns that fit a statement. Runs keep the order, so that ids are drawn in it."""
    start = 0
    while start < len(rows):
        names = rows[start].keys()
        most = max(1, _PARAMETERS_PER_STATEMENT // len(names)) if names else 1
        end = start + 1
        while end < len(rows) and end - start < most and rows[end].keys() == names:
            end += 1
        yield rows[start:end]
        start = end
