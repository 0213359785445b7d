"""Determinism: one sample of aggregates, folded twice under different circumstances, must make the same rows.

The first fold takes all aggregates together, in position order. The second takes each alone, in the opposite order, with another clock
and, where it runs in a process of its own, another hash seed. What differs names the table, the column and the projector. A handler that
opens a database connection of its own is reported too: what it reads there is not in its events.

Folds run through the replay persistor into unconstrained scratch tables, in a transaction that is rolled back: nothing is written.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.checks.clock import shifted_clock
from sequent_py.checks.comparison import described, shown
from sequent_py.checks.omissions import NOTHING, Omissions
from sequent_py.checks.partial_fold import PartialFold
from sequent_py.checks.scratch import ScratchTable, create_scratch_table
from sequent_py.errors import ProjectionFailed
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import TableShape
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, record_shape
from sequent_py.replay.ledger import Connection
from sequent_py.replay.reader import aggregates_query, read_events

CLOCK_SHIFT_SECONDS = 403 * 86_400 + 5 * 3_600 + 7 * 60 + 11
"""Another year, month, day of the week, hour and minute."""

CAUSES = "its handler depends on the clock, on chance, on hash order or on other tables"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How a sample is folded."""

    is_apart: bool
    """Each aggregate alone, the last first, instead of all together."""
    clock_shift_seconds: float = 0.0


@dataclass(frozen=True)
class FoldedRows:
    """What one fold of the sample made; JSON-able."""

    rows: Mapping[str, list[str]]
    """By table: each row as JSON text of its columns, in no order."""
    drawn: Mapping[str, list[str]]
    """By table: columns of which the database drew values, which may differ."""
    keys: Mapping[str, list[str]]
    """By table: what its rows are paired by."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """By aggregate: why it could not be folded alone."""
    connecting: Mapping[str, str] = field(default_factory=dict)
    """By handler: what it connected to."""


@dataclass(frozen=True, slots=True)
class Nondeterminism:
    """What differs between two folds of the same events."""

    table: str
    column: str | None
    """None where whole rows are there in one fold and not in the other."""
    projectors: tuple[str, ...]
    rows: int
    example: str

    def __str__(self) -> str:
        where = f"{self.table}.{self.column}" if self.column else f"{self.table}"
        return (
            f"{where} (written by {', '.join(self.projectors)}) differs between two folds of the same events: {CAUSES};"
            f" {self.rows} row{'s'[: self.rows != 1]}, for example {self.example}"
        )


def fold_sample(
    connection: Connection,
    reader: Connection,
    *,
    schema: str,
    projectors: Sequence[type[Projector]],
    tables: Mapping[type[Record], TableShape],
    event_types: EventTypes,
    aggregate_ids: Sequence[UUID],
    until: str,
    circumstances: Circumstances,
    omissions: Omissions = NOTHING,
) -> FoldedRows:
    """Fold the aggregates' events visible in ``until`` and return the rows; without those that tables are known to lack.

    Raises
    ------
    ProjectionFailed, InvalidPayload
        The fold of all together fails; one that fails only alone is part of the result.
    """
    packages = {item.__module__.partition(".")[0] for item in projectors}
    batches = (
        [[aggregate_id] for aggregate_id in reversed(aggregate_ids)]
        if circumstances.is_apart
        else [list(aggregate_ids)]
    )
    failures: dict[str, str] = {}
    rows: dict[str, list[str]] = {}
    with connection.transaction(force_rollback=True), _watched_connections() as connecting:
        stored_types = stored_event_types(connection, schema)
        scratch = {
            record: create_scratch_table(
                connection, table, number, for_one_transaction=True, is_constrained=False
            )
            for number, (record, table) in enumerate(tables.items())
        }
        for batch in batches:
            persistor = ReplayPersistor(connection, {record: item.fold for record, item in scratch.items()})
            fold = PartialFold(projectors, persistor, event_types, stored_types, omissions.among(batch))
            query = aggregates_query(schema, batch, event_type_ids=fold.event_type_ids, until=until)
            with closing(read_events(reader, query)) as raw_events:
                events = list(raw_events)
            try:
                with shifted_clock(packages, circumstances.clock_shift_seconds):
                    fold.apply(events)
            except ProjectionFailed as error:
                if not circumstances.is_apart:
                    raise
                failures[str(batch[0])] = error.message
                continue
            persistor.flush()
        for item in scratch.values():
            rows[item.name] = _rows(connection, item)
        drawn = {item.name: sorted(item.drawn(connection)) for item in scratch.values()}
        keys = {
            item.name: list(item.key(connection, [column.name for column in item.compared(drawn[item.name])]))
            for item in scratch.values()
        }
    return FoldedRows(rows, drawn, keys, failures, connecting)


def _rows(connection: Connection, table: ScratchTable) -> list[str]:
    # What was drawn is left out when both folds are known.
    columns = table.compared(())
    if not columns:
        return []
    selected = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(column.expression(), sql.Identifier(column.name)) for column in columns
    )
    found = connection.execute(
        sql.SQL("SELECT to_json(d)::text FROM (SELECT {} FROM {}) d").format(selected, table.relation)
    ).fetchall()
    return [text for (text,) in found]  # type: ignore[misc]


def compare_folds(
    together: FoldedRows, apart: FoldedRows, projectors: Sequence[type[Projector]]
) -> list[Nondeterminism]:
    """Say what differs. Pure."""
    found: list[Nondeterminism] = []
    for table in together.rows:
        names = _projectors_of(table, projectors)
        drawn = {*together.drawn[table], *apart.drawn[table]}
        key = [name for name in together.keys[table] if name not in drawn]
        found += _compare_rows(
            table,
            names,
            key,
            _without(together.rows[table], drawn),
            _without(apart.rows[table], drawn, leave_out=apart.failures),
            apart.failures,
        )
    for aggregate_id, message in apart.failures.items():
        found.append(
            Nondeterminism(
                ", ".join(together.rows),
                None,
                tuple(item.__name__ for item in projectors),
                1,
                f"aggregate {aggregate_id}, which can be folded together with others and not alone: {message}",
            )
        )
    connecting = {**together.connecting, **apart.connecting}
    for handler, database in connecting.items():
        projector = handler.partition(".")[0]
        managed = [
            record_shape(record).table_name
            for item in projectors
            if item.__name__ == projector
            for record in projector_definition(item).records
        ]
        found.append(
            Nondeterminism(
                ", ".join(managed),
                None,
                (projector,),
                1,
                f"{handler}, which opens a connection of its own to {database}",
            )
        )
    return found


def _projectors_of(table: str, projectors: Sequence[type[Projector]]) -> tuple[str, ...]:
    return tuple(
        item.__name__
        for item in projectors
        if any(record_shape(record).table_name == table for record in projector_definition(item).records)
    )


def _without(
    rows: Sequence[str], drawn: set[str], leave_out: Mapping[str, str] | None = None
) -> Counter[str]:
    if not drawn:
        return Counter(rows)
    return Counter(
        json.dumps({name: value for name, value in json.loads(row).items() if name not in drawn})
        for row in rows
    )


def _compare_rows(
    table: str,
    projectors: tuple[str, ...],
    key: Sequence[str],
    together: Counter[str],
    apart: Counter[str],
    failures: Mapping[str, str],
) -> list[Nondeterminism]:
    only_together = [json.loads(row) for row in (together - apart).elements()]
    only_apart = [json.loads(row) for row in (apart - together).elements()]
    # What could not be folded alone is reported as that.
    only_together = [row for row in only_together if row.get("aggregate_id") not in failures]
    waiting: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in only_apart:
        waiting.setdefault(_key_of(row, key), []).append(row)
    differing: dict[str, list[str]] = {}
    unpaired: list[str] = []
    for row in only_together:
        partners = waiting.get(_key_of(row, key), []) if key else []
        if not partners:
            unpaired.append(f"only when folded together: {described(row)}")
            continue
        partner = partners.pop(0)
        identity = {name: row[name] for name in dict.fromkeys((*_aggregate(row), *key))}
        for name, value in row.items():
            if value != partner[name]:
                differing.setdefault(name, []).append(
                    f"{described(identity)}: {shown(value)} and {shown(partner[name])}"
                )
    unpaired += [f"only when folded apart: {described(row)}" for rows in waiting.values() for row in rows]
    found = [
        Nondeterminism(table, name, projectors, len(examples), examples[0])
        for name, examples in differing.items()
    ]
    if unpaired:
        found.append(Nondeterminism(table, None, projectors, len(unpaired), unpaired[0]))
    return found


def _aggregate(row: Mapping[str, Any]) -> tuple[str, ...]:
    return ("aggregate_id",) if "aggregate_id" in row else ()


def _key_of(row: Mapping[str, Any], key: Sequence[str]) -> tuple[str, ...]:
    return tuple(json.dumps(row[name]) for name in key)


@contextmanager
def _watched_connections() -> Iterator[dict[str, str]]:
    """Note handlers that open a database connection while the block lasts; connections of others are let pass unseen."""
    seen: dict[str, str] = {}
    connection_class: Any = psycopg.Connection
    real_function, real_method = psycopg.connect, vars(connection_class)["connect"]

    def noting(open_connection: Callable[..., Any]) -> Callable[..., Any]:
        def connect(*arguments: Any, **keywords: Any) -> Any:
            handler = _handler_on_the_stack()
            opened = open_connection(*arguments, **keywords)
            if handler is not None:
                seen[handler] = f"the database {opened.info.dbname}"
            return opened

        return connect

    psycopg.connect = noting(real_function)
    connection_class.connect = classmethod(
        lambda cls, *arguments, **keywords: noting(real_method.__get__(None, cls))(*arguments, **keywords)
    )
    try:
        yield seen
    finally:
        psycopg.connect = real_function
        connection_class.connect = real_method


def _handler_on_the_stack() -> str | None:
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Projector):
            return f"{type(owner).__name__}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return None
