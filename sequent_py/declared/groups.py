"""Replaying a group in SQL: which projections can be, and running them, or giving the group back.

Everything is written on the connection that holds the group's claim, in its transaction, within a savepoint of its own: what was written before something odd was found is
taken back, and nothing of it shows. Commits nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from sequent_py.declared.compiler import CompiledTable, CompiledTables, Source, compile_table
from sequent_py.declared.oddities import Odd, unless_odd
from sequent_py.declared.payloads import Inexpressible, payload_fields
from sequent_py.declared.program import Program, program_of
from sequent_py.declared.projection import TableProjection
from sequent_py.declared.readings import EventReadings
from sequent_py.declared.transfer import transfer
from sequent_py.events import Event, aliases_of, event_type_of
from sequent_py.persistors.tables import TableShape
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, record_shape

WORK_MEM = "64MB"
"""Holds the sort of a group of 100 000 events, of which nothing but the fields that count is sorted."""


@dataclass(frozen=True)
class FoldedInSql:
    """What the statements of a group did."""

    events: int
    row_changes: Mapping[str, int]
    """By plain table name."""


def replayed_by_handlers(projectors: Sequence[type[Projector]]) -> dict[type[Projector], str]:
    """Return the declared projections among those to be replayed that SQL cannot do, and why, as far as their classes tell."""
    found: dict[type[Projector], str] = {}
    for projector in projectors:
        if issubclass(projector, TableProjection) and (why := _why_not(projector, projectors)):
            found[projector] = why
    return found


def described(refused: Mapping[type[Projector], str]) -> tuple[str, ...]:
    """Say what will be slower than it was declared for."""
    return tuple(
        f"{projector.__name__} will be replayed by handlers instead of SQL: {why}."
        for projector, why in refused.items()
    )


def _why_not(projector: type[TableProjection], projectors: Sequence[type[Projector]]) -> str:
    if projector.ordering != "aggregate":
        return f'its ordering is "{projector.ordering}"'
    for other in projectors:
        if other is not projector and projector.table in projector_definition(other).records:
            return f"{other.__name__} writes to its table, too"
    for event_class in projector.declaration.rules:
        try:
            payload_fields(event_class)
        except Inexpressible as error:
            return str(error)
    return ""


def compile_tables(
    projectors: Sequence[type[Projector]],
    tables: Mapping[type[Record], TableShape],
    stored_types: Mapping[str, int],
) -> tuple[CompiledTables, dict[type[Projector], str]]:
    """Return what can be replayed as SQL, and of the other declared projections why they cannot."""
    declared = [projector for projector in projectors if issubclass(projector, TableProjection)]
    refused: dict[type[Projector], str] = {
        projector: why for projector in declared if (why := _why_not(projector, projectors))
    }
    while True:
        compiled: dict[type[TableProjection], CompiledTable] = {}
        events, before = EventReadings(), len(refused)
        for projector in declared:
            if projector in refused:
                continue
            type_ids = {cls: stored_ids(cls, stored_types) for cls in projector.declaration.rules}
            try:
                compiled[projector] = compile_table(
                    projector.declaration, tables[projector.table], type_ids, events
                )
            except Inexpressible as error:
                refused[projector] = str(error)
        if len(refused) == before:
            return CompiledTables(compiled, events), refused
        # Once more without them: what they asked of events before they failed need not hold.


class Compilations:
    """What :func:`compile_tables` returns, once for all groups of a worker with the same projectors; and again when an event type is new."""

    def __init__(self, tables: Mapping[type[Record], TableShape]) -> None:
        self._tables = tables
        self._latest: tuple[object, CompiledTables] | None = None
        self._program: tuple[CompiledTables, Program | None] | None = None

    def of(self, projectors: Sequence[type[Projector]], stored_types: Mapping[str, int]) -> CompiledTables:
        """Return what can be replayed as SQL."""
        asked = (tuple(projectors), dict(stored_types))
        if self._latest is None or self._latest[0] != asked:
            self._latest = asked, compile_tables(projectors, self._tables, stored_types)[0]
        return self._latest[1]

    def program(self, compiled: CompiledTables, connection: psycopg.Connection[Any]) -> Program | None:
        """Return what :func:`.program_of` returns, asked for once."""
        if self._program is None or self._program[0] is not compiled:
            self._program = compiled, program_of(compiled, connection)
        return self._program[1]


def stored_ids(event_class: type[Event], stored_types: Mapping[str, int]) -> tuple[int, ...]:
    """Return the ids under which events of a class are stored, aliases included."""
    names = (event_type_of(event_class), *aliases_of(event_class))
    return tuple(dict.fromkeys(stored_types[name] for name in names if name in stored_types))


def fold_in_server(
    reader: psycopg.Connection[Any],
    writer: psycopg.Connection[Any],
    compilations: Compilations,
    compiled: CompiledTables,
    source: Source,
    *,
    counted_elsewhere: Collection[int] = (),
) -> FoldedInSql | None:
    """Write the rows of all tables, by a program where they have one, else by a statement; see :func:`fold_in_sql`."""
    program = compilations.program(compiled, writer)
    if program is None or reader.info.transaction_status != TransactionStatus.IDLE:
        return fold_in_sql(writer, compiled, source, counted_elsewhere=counted_elsewhere)
    done = transfer(reader, writer, program, source, set(compiled.events.type_ids) - set(counted_elsewhere))
    return None if done is None else FoldedInSql(*done)


def fold_in_sql(
    connection: psycopg.Connection[Any],
    tables: CompiledTables,
    source: Source,
    *,
    counted_elsewhere: Collection[int] = (),
) -> FoldedInSql | None:
    """Write the rows of all tables; None, and nothing written, where something is for the handlers to judge.

    Events of the types ``counted_elsewhere`` are not counted, others once.

    Raises
    ------
    psycopg.Error
        It says nothing of the rows: the connection, a lock, the disk.
    """
    if not tables.stored:
        return FoldedInSql(0, {})
    counted = set(tables.events.type_ids) - set(counted_elsewhere)

    def run() -> FoldedInSql:
        connection.execute(
            "SELECT set_config('work_mem', %s, true), set_config('jit', 'off', true)", (WORK_MEM,)
        )
        row = connection.execute(tables.statement(source, counted)).fetchone()
        assert row is not None
        events, odd, rows = row
        if odd:
            raise Odd
        names = [record_shape(projector.table).table_name for projector in tables.stored]
        return FoldedInSql(events, dict(zip(names, rows, strict=True)))

    return unless_odd(connection, run)
