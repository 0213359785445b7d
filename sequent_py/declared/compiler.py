"""The statement of a group: all rows that a window's events make in all of its tables, in one reading of them.

::

    e        the window's events
    w        the same by aggregate and position: fields of payloads by name, and every check of them                  (materialized)

    of each table:
    k        the key (k0, k1, …)
    l        how many deletions came before: the life that an event is in        (only where rules delete)
    t        running totals                                                      (only where there are any)
    f0, f1   one row per life: its columns, whether it is the key's last, whether something was odd       (materialized)
    w0, w1   INSERT of those that are alive

Where no two events have one key and nothing is deleted, every event is a row, and nothing is folded.

It reads in one snapshot; it locks what an INSERT locks. It is only right for tables that hold no row of its aggregates yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from psycopg import sql

from sequent_py.declared.declaration import Declaration
from sequent_py.declared.life import ColumnLife, case_by_type, is_of
from sequent_py.declared.lives import RunningTotal, among_all, column_lives, running_totals
from sequent_py.declared.payloads import Inexpressible
from sequent_py.declared.projection import TableProjection
from sequent_py.declared.readings import EventReadings, RuleReading
from sequent_py.declared.rules import RuleKind
from sequent_py.events import Event
from sequent_py.persistors.tables import TableShape

Source = Callable[[Sequence[int]], sql.Composable]
"""From event types to ``FROM … AS e WHERE …``: their events in the window of a group."""

_KEY_FAMILIES = ("integer", "uuid", "text", "date", "boolean")
"""In which equal values are the same value: 1.0 and 1.00 would be one key, and two rows."""
_BEGINNINGS = (RuleKind.INSERT, RuleKind.UPSERT)
_ENDS = (RuleKind.DELETE, RuleKind.DELETE_ALL)


@dataclass(frozen=True)
class CompiledTable:
    """A declared projection as parts of a statement, over the event types that are stored."""

    declaration: Declaration
    type_ids: tuple[int, ...]
    needs_order: bool
    """Whether anything depends on which event came first."""
    compose: Callable[[int, Collection[int]], TableParts]
    """From its number in the statement, and the types of all events that it reads."""
    table: TableShape
    rule_kinds: Mapping[int, RuleKind]
    """By event type."""
    are_events_rows: bool
    """Whether every event makes a row that nothing changes afterwards."""
    keys: Mapping[str, sql.Composable]
    """The key's values by column."""
    lives: Sequence[ColumnLife]
    totals: Mapping[str, RunningTotal]


@dataclass(frozen=True)
class TableParts:
    """What a table adds to a statement."""

    queries: tuple[sql.Composable, ...]
    """For WITH."""
    odd: sql.Composable
    """How many lives there are in which something is odd, as an expression."""
    rows: sql.Composable
    """How many rows are written, as an aggregate over the window's events, or an expression without them."""


@dataclass(frozen=True)
class CompiledTables:
    """Declared projections that one statement runs."""

    by_projector: Mapping[type[TableProjection], CompiledTable]
    events: EventReadings
    _composed: dict[frozenset[int], sql.SQL] = field(default_factory=dict, compare=False)

    @property
    def stored(self) -> tuple[type[TableProjection], ...]:
        """Those with events in the store."""
        return tuple(projector for projector, table in self.by_projector.items() if table.type_ids)

    def statement(self, source: Source, counted: Collection[int]) -> sql.Composed:
        """Return the statement that writes the rows of a window for all of :attr:`stored`, of which there must be some.

        It answers with one row: how many events of the types ``counted`` there were, in how many lives something was odd, and an array of how
        many rows were written of each. What is odd may also be an error of its own (SQLSTATE class 22 or 23).
        """
        events = sql.SQL("WITH e AS (SELECT e.* {}), ").format(source(self.events.type_ids))
        return events + self._behind_events(frozenset(counted))

    def _behind_events(self, counted: frozenset[int]) -> sql.SQL:
        """Return what the statements of all groups have in common, composed once."""
        if counted not in self._composed:
            self._composed[counted] = sql.SQL(cast(Any, self._compose(counted).as_string(None)))
        return self._composed[counted]

    def _compose(self, counted: frozenset[int]) -> sql.Composed:
        tables = [self.by_projector[projector] for projector in self.stored]
        type_ids = self.events.type_ids
        parts = [table.compose(number, type_ids) for number, table in enumerate(tables)]
        window = self.events.select(is_ordered=any(table.needs_order for table in tables))
        counted_ids = tuple(type_id for type_id in type_ids if type_id in counted)
        return sql.SQL(
            "w AS MATERIALIZED ({}), {} SELECT count(*) FILTER (WHERE {}), {}, ARRAY[{}] FROM w"
        ).format(
            window,
            sql.SQL(", ").join([query for part in parts for query in part.queries]),
            is_of(counted_ids, type_ids),
            sql.SQL(" + ").join([part.odd for part in parts]),
            sql.SQL(", ").join([part.rows for part in parts]),
        )


def compile_table(
    declaration: Declaration,
    table: TableShape,
    type_ids: Mapping[type[Event], tuple[int, ...]],
    events: EventReadings,
) -> CompiledTable:
    """Compile a declared projection; ``type_ids`` are the stored types of its event classes, aliases included.

    What it reads is added to ``events``, which is spoiled if this raises.

    Raises
    ------
    Inexpressible
        SQL cannot do what its handlers do.
    """
    compiler = _Compiler(declaration, table, type_ids, events)
    return compiler.compiled()


class _Compiler:
    def __init__(
        self,
        declaration: Declaration,
        table: TableShape,
        type_ids: Mapping[type[Event], tuple[int, ...]],
        events: EventReadings,
    ) -> None:
        self._declaration, self._table = declaration, table
        self._readings = [
            RuleReading(table, rule, events.of(event_class, type_ids.get(event_class, ())))
            for event_class, rule in declaration.rules.items()
        ]
        self.type_ids = among_all(self._readings)
        self._keys = self._key_values()
        self._totals = running_totals(table, self._readings)
        self._lives = column_lives(table, self._readings, declaration.key)
        self._refuse_odd_primary_key()
        # Rules for events that nobody has stored yet make nothing dearer.
        kinds = {reading.rule.kind for reading in self._readings if reading.type_ids}
        self._has_ends = not kinds.isdisjoint(_ENDS)
        self._are_events_rows = declaration.is_per_event and kinds <= {RuleKind.INSERT}
        self.needs_order = (
            bool(self._totals)
            or self._has_ends
            or (not self._are_events_rows and any(life.needs_order for life in self._lives))
        )

    def compiled(self) -> CompiledTable:
        return CompiledTable(
            self._declaration,
            self.type_ids,
            self.needs_order,
            self.compose,
            self._table,
            {type_id: reading.rule.kind for reading in self._readings for type_id in reading.type_ids},
            self._are_events_rows,
            dict(zip(self._declaration.key, self._keys, strict=True)),
            self._lives,
            self._totals,
        )

    def compose(self, number: int, among: Collection[int]) -> TableParts:
        """Compose the table's parts; see :class:`CompiledTable`."""
        is_ours = is_of(self.type_ids, among)
        events = self._sum_up(self._tell_lives(self._add_keys(is_ours)))
        if self._are_events_rows:
            return self._events_as_rows(events, number, is_ours)
        return self._lives_as_rows(events, number)

    def _key_values(self) -> list[sql.Composable]:
        values: list[sql.Composable] = []
        for name, source in self._declaration.key.items():
            column = self._table.record_shape.by_attribute[name]
            if column.type.family not in _KEY_FAMILIES or column.type.unfilterable:
                raise Inexpressible(f"{column.record_name}.{name} is part of the key, and {column.type}")
            cases = {
                reading.type_ids: reading.key_value(column, source)
                for reading in self._readings
                if reading.rule.kind is not RuleKind.DELETE_ALL
            }
            values.append(case_by_type(cases, self.type_ids))
        return values

    def _refuse_odd_primary_key(self) -> None:
        shape = self._table.record_shape
        is_drawn = all(
            column.attribute in self._table.drawn_defaults
            and all(column.attribute not in reading.rule.changes for reading in self._readings)
            for column in shape.key_columns
        )
        if not self._declaration.is_key_primary and not is_drawn:
            raise Inexpressible(
                f"{shape.name} has a primary key that is neither the aggregate and the key, nor drawn from a default"
            )

    # The steps of a statement

    def _add_keys(self, is_ours: sql.Composable) -> sql.Composable:
        """k"""
        keys = [
            sql.SQL("{} AS {}").format(value, name)
            for value, name in zip(self._keys, self._key_names, strict=True)
        ]
        return sql.SQL("SELECT {} FROM w WHERE {}").format(
            sql.SQL(", ").join([sql.SQL("w.*"), *keys]), is_ours
        )

    def _tell_lives(self, events: sql.Composable) -> sql.Composable:
        """l: life_of_all counts deletions of the aggregate's rows, life_of_key those of the key's row; an end opens the life after it."""
        if not self._has_ends:
            return events
        keys = self._names_of(self._key_names)
        items = [
            self._life_number("life_of_all", RuleKind.DELETE_ALL, sql.Identifier("aggregate_id")),
            self._life_number("life_of_key", RuleKind.DELETE, keys),
        ]
        return sql.SQL("SELECT k.*, {} FROM ({}) AS k").format(sql.SQL(", ").join(items), events)

    def _life_number(self, name: str, end: RuleKind, scope: sql.Composable) -> sql.Composed:
        ids = self._ids(end)
        if not ids:
            return sql.SQL("0 AS {}").format(sql.Identifier(name))
        return sql.SQL(
            "count(*) FILTER (WHERE {}) OVER (PARTITION BY {} ORDER BY position ROWS UNBOUNDED PRECEDING) AS {}"
        ).format(is_of(ids), scope, sql.Identifier(name))

    def _sum_up(self, events: sql.Composable) -> sql.Composable:
        """t"""
        if not self._totals:
            return events
        scope = sql.SQL("aggregate_id, life_of_all") if self._has_ends else sql.SQL("aggregate_id")
        # A total goes by the row of the number before. Where positions were edited, that is not the event before: an error of SQLSTATE class 22.
        items = [
            sql.SQL(
                "CASE WHEN sequence_number > lag(sequence_number, 1, 0) OVER events THEN (sum({amounts}) OVER events)::{type}"
                " ELSE ('event ' || position)::{type} END AS {name}"
            ).format(
                amounts=case_by_type(
                    {type_ids: amount.expression for type_ids, amount in total.amounts.items()}, self.type_ids
                ),
                type=total.type,
                name=sql.Identifier(name),
            )
            for name, total in self._totals.items()
        ]
        return sql.SQL(
            "SELECT l.*, {} FROM ({}) AS l WINDOW events AS (PARTITION BY {} ORDER BY position ROWS UNBOUNDED PRECEDING)"
        ).format(sql.SQL(", ").join(items), events, scope)

    def _events_as_rows(self, events: sql.Composable, number: int, is_ours: sql.Composable) -> TableParts:
        values = [
            sql.Identifier("aggregate_id"),
            *self._key_names,
            *(life.contribution() for life in self._lives),
        ]
        written = sql.SQL("{} AS ({} SELECT {} FROM ({}) AS t)").format(
            sql.Identifier(f"w{number}"), self._insert(), sql.SQL(", ").join(values), events
        )
        return TableParts((written,), sql.SQL("0"), sql.SQL("count(*) FILTER (WHERE {})").format(is_ours))

    def _lives_as_rows(self, events: sql.Composable, number: int) -> TableParts:
        results = {f"c{place}": life.result() for place, life in enumerate(self._lives)}
        items = [
            *self._by(),
            sql.SQL("({}) AS is_odd").format(sql.SQL(" OR ").join(self._oddities())),
            sql.SQL("({}) AS is_alive").format(sql.SQL(" AND ").join(self._signs_of_life())),
            *(sql.SQL("{} AS {}").format(result, sql.Identifier(name)) for name, result in results.items()),
        ]
        lives = sql.Identifier(f"f{number}")
        folded = sql.SQL("{} AS MATERIALIZED (SELECT {} FROM ({}) AS t GROUP BY {})").format(
            lives, sql.SQL(", ").join(items), events, sql.SQL(", ").join(self._by())
        )
        columns = [sql.Identifier("aggregate_id"), *self._key_names, *map(sql.Identifier, results)]
        written = sql.SQL("{} AS ({} SELECT {} FROM {} WHERE is_alive)").format(
            sql.Identifier(f"w{number}"), self._insert(), sql.SQL(", ").join(columns), lives
        )
        count = sql.SQL("(SELECT count(*) FROM {} WHERE {})")
        return TableParts(
            (folded, written),
            count.format(lives, sql.SQL("is_odd IS NOT FALSE")),
            count.format(lives, sql.SQL("is_alive")),
        )

    def _by(self) -> list[sql.Composable]:
        lives = [sql.Identifier("life_of_all"), sql.Identifier("life_of_key")] if self._has_ends else []
        return [sql.Identifier("aggregate_id"), *self._key_names, *lives]

    def _oddities(self) -> list[sql.Composable]:
        """Return what must not be in a life: it is for the handlers to say what it is."""
        begins, inserts, ends = (
            is_of(self._ids(*_BEGINNINGS)),
            is_of(self._ids(RuleKind.INSERT)),
            is_of(self._ids(*_ENDS)),
        )
        first = sql.SQL("min(position) FILTER (WHERE NOT {})").format(ends)
        oddities: list[sql.Composable] = [
            # Something happens to a row before there is one.
            sql.SQL("min(position) FILTER (WHERE {}) IS DISTINCT FROM {}").format(begins, first),
            # There is a row already.
            sql.SQL("coalesce(max(position) FILTER (WHERE {}) > {}, false)").format(inserts, first),
        ]
        return oddities + [beyond for life in self._lives if (beyond := life.is_beyond()) is not None]

    def _signs_of_life(self) -> list[sql.Composable]:
        if not self._has_ends:
            return [sql.SQL("true")]
        return [
            sql.SQL("bool_or(NOT {})").format(is_of(self._ids(*_ENDS))),
            sql.SQL("life_of_all = max(life_of_all) OVER (PARTITION BY aggregate_id)"),
            sql.SQL("life_of_key = max(life_of_key) OVER (PARTITION BY {})").format(
                self._names_of(self._key_names)
            ),
        ]

    def _insert(self) -> sql.Composable:
        columns = self._table.record_shape.by_attribute
        attributes = ["aggregate_id", *self._declaration.key, *(life.name for life in self._lives)]
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE").format(
            sql.Identifier(self._table.schema, self._table.name),
            sql.SQL(", ").join(sql.Identifier(columns[name].name) for name in attributes),
        )

    @property
    def _key_names(self) -> list[sql.Identifier]:
        return [sql.Identifier(f"k{number}") for number in range(len(self._declaration.key))]

    @staticmethod
    def _names_of(keys: Sequence[sql.Identifier]) -> sql.Composed:
        return sql.SQL(", ").join([sql.Identifier("aggregate_id"), *keys])

    def _ids(self, *kinds: RuleKind) -> tuple[int, ...]:
        return tuple(
            type_id
            for reading in self._readings
            if reading.rule.kind in kinds
            for type_id in reading.type_ids
        )
