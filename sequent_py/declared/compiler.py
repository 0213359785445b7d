"""The statement of a table: all rows that a window's events make, in one INSERT.

::

    w        the window's events; fields of payloads by name, is_plain           (fenced: each is computed once)
    v        the key (k0, k1, …) and is_sound
    l        how many deletions came before: the life that an event is in        (only where rules delete)
    t        running totals                                                      (only where there are any)
    folded   one row per life: its columns, whether it is the key's last, whether something was odd
    written  INSERT of those that are alive

Where no two events have one key and nothing is deleted, every event is a row, and nothing is folded.

It reads in one statement, and so in one snapshot; it locks what an INSERT locks. It is only right for tables that hold no row of its aggregates yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from sequent_py.declared.declaration import Declaration
from sequent_py.declared.life import case_by_type, is_of
from sequent_py.declared.lives import column_lives, running_totals
from sequent_py.declared.payloads import Inexpressible
from sequent_py.declared.readings import Names, RuleReading
from sequent_py.declared.rules import Change, ChangeKind, RuleKind
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
    """A declared projection as SQL, for the event types that are stored."""

    declaration: Declaration
    table: TableShape
    type_ids: tuple[int, ...]
    compose: Callable[[Source, tuple[int, ...]], sql.Composed]

    def statement(self, source: Source, counted: Sequence[int]) -> sql.Composed:
        """Return the statement that writes the rows of a window.

        It answers with one row: how many events of the types ``counted`` there were, how many lives in which something was odd, how many
        rows were written. What is odd may also be an error of its own (SQLSTATE class 22 or 23).
        """
        return self.compose(source, tuple(type_id for type_id in self.type_ids if type_id in counted))


def compile_table(
    declaration: Declaration, table: TableShape, type_ids: Mapping[type[Event], tuple[int, ...]]
) -> CompiledTable:
    """Compile a declared projection; ``type_ids`` are the stored types of its event classes, aliases included.

    Raises
    ------
    Inexpressible
        SQL cannot do what its handlers do.
    """
    stored = tuple(type_id for event_class in declaration.rules for type_id in type_ids.get(event_class, ()))
    return CompiledTable(declaration, table, stored, _Compiler(declaration, table, type_ids).statement)


class _Compiler:
    def __init__(
        self, declaration: Declaration, table: TableShape, type_ids: Mapping[type[Event], tuple[int, ...]]
    ) -> None:
        self._declaration, self._table = declaration, table
        self._names = Names()
        self._readings = [
            RuleReading(table, event_class, rule, type_ids.get(event_class, ()), self._names)
            for event_class, rule in declaration.rules.items()
        ]
        self._types = tuple(type_id for reading in self._readings for type_id in reading.type_ids)
        self._keys = self._key_values()
        self._totals = running_totals(table, self._readings)
        self._lives = column_lives(table, self._readings, declaration.key)
        self._refuse_odd_primary_key()
        self._has_ends = any(reading.rule.kind in _ENDS for reading in self._readings)

    def statement(self, source: Source, counted: tuple[int, ...]) -> sql.Composed:
        """Compose the statement; see :class:`CompiledTable`."""
        if self._declaration.is_per_event and all(
            reading.rule.kind is RuleKind.INSERT for reading in self._readings
        ):
            return self._events_as_rows(source, counted)
        return self._lives_as_rows(source, counted)

    def _key_values(self) -> list[sql.Composable]:
        values: list[sql.Composable] = []
        for name, source in self._declaration.key.items():
            column = self._table.record_shape.by_attribute[name]
            if column.type.family not in _KEY_FAMILIES or column.type.unfilterable:
                raise Inexpressible(f"{column.record_name}.{name} is part of the key, and {column.type}")
            change = Change(ChangeKind.ASSIGN, source)
            cases = {
                reading.type_ids: reading.column_value(column, change).expression
                for reading in self._readings
                if reading.rule.kind is not RuleKind.DELETE_ALL
            }
            values.append(case_by_type(cases))
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

    def _read_events(self, source: Source) -> sql.Composable:
        """w: OFFSET 0 keeps the planner from computing an expression wherever its name stands."""
        is_plain = case_by_type({reading.type_ids: reading.is_plain() for reading in self._readings})
        items = [sql.SQL("e.aggregate_id, e.position, e.event_type_id, e.sequence_number, e.created_at")]
        return sql.SQL("SELECT {}, {} AS is_plain {} OFFSET 0").format(
            sql.SQL(", ").join([*items, *self._names.selected()]), is_plain, source(self._types)
        )

    def _check_events(self, source: Source) -> sql.Composable:
        """v"""
        is_sound = case_by_type({reading.type_ids: reading.is_sound() for reading in self._readings})
        keys = [
            sql.SQL("{} AS {}").format(value, name)
            for value, name in zip(self._keys, self._key_names, strict=True)
        ]
        items = [sql.SQL("w.*"), *keys, sql.SQL("({}) IS TRUE AS is_sound").format(is_sound)]
        return sql.SQL("SELECT {} FROM ({}) AS w").format(
            sql.SQL(", ").join(items), self._read_events(source)
        )

    def _tell_lives(self, source: Source) -> sql.Composable:
        """l: life_of_all counts deletions of the aggregate's rows, life_of_key those of the key's row; an end opens the life after it."""
        keys = self._names_of(self._key_names)
        items = [
            self._life_number("life_of_all", RuleKind.DELETE_ALL, sql.Identifier("aggregate_id")),
            self._life_number("life_of_key", RuleKind.DELETE, keys),
        ]
        return sql.SQL("SELECT v.*, {} FROM ({}) AS v").format(
            sql.SQL(", ").join(items), self._check_events(source)
        )

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
        items = [
            sql.SQL(
                "(sum({}) OVER (PARTITION BY {} ORDER BY position ROWS UNBOUNDED PRECEDING))::{} AS {}"
            ).format(amounts, scope, type_name, sql.Identifier(name))
            for name, (amounts, type_name) in self._totals.items()
        ]
        return sql.SQL("SELECT l.*, {} FROM ({}) AS l").format(sql.SQL(", ").join(items), events)

    def _events_as_rows(self, source: Source, counted: tuple[int, ...]) -> sql.Composed:
        # A row that is odd must not be written, nor looked for in a second reading: its aggregate_id is an error.
        aggregate_id = sql.SQL("CASE WHEN is_sound THEN aggregate_id ELSE ('event ' || position)::uuid END")
        values = [aggregate_id, *self._key_names, *(life.contribution() for life in self._lives)]
        events = self._sum_up(self._check_events(source))
        if set(counted) == set(self._types):
            count: sql.Composable = sql.SQL("count(*)")
        else:
            count = sql.SQL("(SELECT count(*) {})").format(source(counted))
        return sql.SQL("WITH written AS ({} SELECT {} FROM ({}) AS t RETURNING 1) SELECT {}, 0, count(*) FROM written").format(
            self._insert(), sql.SQL(", ").join(values), events, count
        )  # fmt: skip

    def _lives_as_rows(self, source: Source, counted: tuple[int, ...]) -> sql.Composed:
        events = self._sum_up(self._tell_lives(source)) if self._has_ends else self._check_events(source)
        results = {f"c{number}": life.result() for number, life in enumerate(self._lives)}
        items = [
            *self._by(),
            sql.SQL("count(*) FILTER (WHERE {}) AS counted").format(is_of(counted)),
            sql.SQL("({}) AS is_odd").format(sql.SQL(" OR ").join(self._oddities())),
            sql.SQL("({}) AS is_alive").format(sql.SQL(" AND ").join(self._signs_of_life())),
            *(sql.SQL("{} AS {}").format(result, sql.Identifier(name)) for name, result in results.items()),
        ]
        written = [sql.Identifier("aggregate_id"), *self._key_names, *map(sql.Identifier, results)]
        return sql.SQL(
            "WITH folded AS MATERIALIZED (SELECT {} FROM ({}) AS t GROUP BY {}),"
            " written AS ({} SELECT {} FROM folded WHERE is_alive RETURNING 1)"
            " SELECT coalesce(sum(counted), 0)::bigint, count(*) FILTER (WHERE is_odd IS NOT FALSE), (SELECT count(*) FROM written) FROM folded"
        ).format(
            sql.SQL(", ").join(items),
            events,
            sql.SQL(", ").join(self._by()),
            self._insert(),
            sql.SQL(", ").join(written),
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
            sql.SQL("NOT bool_and(is_sound)"),
            # Something happens to a row before there is one.
            sql.SQL("min(position) FILTER (WHERE {}) IS DISTINCT FROM {}").format(begins, first),
            # There is a row already.
            sql.SQL("coalesce(max(position) FILTER (WHERE {}) > {}, false)").format(inserts, first),
        ]
        return oddities + [beyond for life in self._lives if (beyond := life.is_beyond()) is not None]

    def _signs_of_life(self) -> list[sql.Composable]:
        signs: list[sql.Composable] = [sql.SQL("bool_or(NOT {})").format(is_of(self._ids(*_ENDS)))]
        if self._has_ends:
            signs += [
                sql.SQL("life_of_all = max(life_of_all) OVER (PARTITION BY aggregate_id)"),
                sql.SQL("life_of_key = max(life_of_key) OVER (PARTITION BY {})").format(
                    self._names_of(self._key_names)
                ),
            ]
        return signs

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
