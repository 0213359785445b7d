"""Comparing two relations as multisets, set-based, with the differences paired by key. Reads only.

Values are equal when PostgreSQL says so (NaN equals NaN, ``1.0`` equals ``1.00``), with three exceptions: texts are compared byte by byte,
whatever their type or collation thinks of case and accents; ``json`` as ``jsonb``; and types without an equality of their own as text.
Everything is one statement, which sorts or hashes on disk what does not fit in memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from sequent_py.persistors.tables import ReflectedColumn

Connection = psycopg.Connection[Any]

LONGEST_SHOWN_VALUE = 80
"""Characters of a value that an example shows."""
NUMBERS = frozenset({"integer", "float", "numeric"})


@dataclass(frozen=True, slots=True)
class Change:
    """A row that both sides have, with other values."""

    key: Mapping[str, Any]
    """What the sides were paired by, the aggregate's id included where there is one."""
    columns: Mapping[str, tuple[Any, Any]]
    """Of each column that differs: the left value, the right value."""

    def __str__(self) -> str:
        changes = ", ".join(
            f"{name}: {shown(old)} -> {shown(new)}" for name, (old, new) in self.columns.items()
        )
        return f"{described(self.key)}: {changes}"


@dataclass(frozen=True, slots=True)
class RelationComparison:
    """How two relations differ. Counts are exact, examples are few."""

    only_left: int = 0
    only_right: int = 0
    changed: int = 0
    changed_columns: Mapping[str, int] = field(default_factory=dict)
    """In how many of the changed rows each column differs."""
    only_left_examples: tuple[Mapping[str, Any], ...] = ()
    only_right_examples: tuple[Mapping[str, Any], ...] = ()
    changed_examples: tuple[Change, ...] = ()

    @property
    def differences(self) -> int:
        """Rows that differ, a changed one counted once."""
        return self.only_left + self.only_right + self.changed

    @property
    def described_left(self) -> tuple[str, ...]:
        """Examples of rows that only the left side has, for people."""
        return tuple(map(described, self.only_left_examples))

    @property
    def described_right(self) -> tuple[str, ...]:
        """Examples of rows that only the right side has, for people."""
        return tuple(map(described, self.only_right_examples))

    def plus(self, other: RelationComparison, *, examples: int) -> RelationComparison:
        """Return both comparisons, which are of disjoint rows, as one."""
        names = dict.fromkeys((*self.changed_columns, *other.changed_columns))
        return RelationComparison(
            self.only_left + other.only_left,
            self.only_right + other.only_right,
            self.changed + other.changed,
            {name: self.changed_columns.get(name, 0) + other.changed_columns.get(name, 0) for name in names},
            (*self.only_left_examples, *other.only_left_examples)[:examples],
            (*self.only_right_examples, *other.only_right_examples)[:examples],
            (*self.changed_examples, *other.changed_examples)[:examples],
        )


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """A column that both relations have."""

    name: str
    cast_to: LiteralString | None
    """The type (SQL text) that makes values of both sides comparable; None where they are."""
    has_collation: bool = False

    def expression(self) -> sql.Composed:
        """Return what is selected of either side."""
        parts: list[sql.Composable] = [sql.Identifier(self.name)]
        if self.cast_to is not None:
            parts.append(sql.SQL("::" + self.cast_to))
        if self.has_collation:
            parts.append(sql.SQL(' COLLATE "C"'))
        return sql.Composed(parts)


def compared_column(left: ReflectedColumn, right: ReflectedColumn) -> ComparedColumn:
    """Say how a column of both sides is compared."""
    types = [column.type for column in (left, right)]
    families = {None if item is None else item.family for item in types}
    if families == {"text"}:
        return ComparedColumn(left.name, "text", has_collation=True)
    if families == {"json"}:
        return ComparedColumn(left.name, "jsonb")
    if families == {"array"} and left.type_text == right.type_text:
        assert left.type is not None
        assert left.type.element is not None
        if left.type.element.family == "text":
            return ComparedColumn(left.name, "text[]", has_collation=True)
        return ComparedColumn(left.name, None)
    if left.type is not None and left.type_text == right.type_text:
        return ComparedColumn(left.name, None)
    if None not in families and families <= NUMBERS:
        return ComparedColumn(left.name, "numeric")
    return ComparedColumn(left.name, "text", has_collation=True)


def compare(
    connection: Connection,
    left: sql.Composable,
    right: sql.Composable,
    *,
    columns: Sequence[ComparedColumn],
    key: Sequence[str],
    examples: int,
) -> RelationComparison:
    """Compare two relations (FROM items, or parenthesised queries) as multisets of ``columns``.

    What only one side has is paired with what only the other has by ``key``, a subset of the columns, and within equal keys in the order
    of the values; so a key need not be unique. Without one nothing is paired.
    """
    if not columns:
        return RelationComparison()
    aliases = {column.name: f"c{number}" for number, column in enumerate(columns)}
    names = [sql.Identifier(alias) for alias in aliases.values()]
    selected = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(column.expression(), name)
        for column, name in zip(columns, names, strict=True)
    )
    keys = [sql.Identifier(aliases[name]) for name in key]
    partition = sql.SQL("PARTITION BY {} ").format(sql.SQL(", ").join(keys)) if keys else sql.SQL("")
    paired = sql.SQL(" AND ").join(
        [*(sql.SQL("l.{0} = r.{0}").format(item) for item in keys), sql.SQL("l.n = r.n")]
        if keys
        # Nothing to pair by; but a FULL JOIN needs a condition that it can sort or hash.
        else [sql.SQL("l.n = -r.n")]
    )
    differs = sql.SQL(", ").join(sql.SQL("l.{0} IS DISTINCT FROM r.{0}").format(item) for item in names)
    query = sql.SQL(_COMPARE).format(
        selected=selected,
        left=left,
        right=right,
        partition=partition,
        order=sql.SQL(", ").join(names),
        paired=paired,
        differs=differs,
        examples=sql.Literal(examples),
        numbers=sql.SQL(", ").join(
            sql.SQL("count(*) FILTER (WHERE changed[{}])").format(sql.Literal(number + 1))
            for number in range(len(columns))
        ),
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    only_left, only_right, changed, counts, shown_left, shown_right, shown_changed = row
    by_alias = {alias: name for name, alias in aliases.items()}
    return RelationComparison(
        only_left,
        only_right,
        changed,
        {column.name: count for column, count in zip(columns, counts, strict=True) if count},
        tuple(_named(item, by_alias) for item in _loaded(shown_left)),
        tuple(_named(item, by_alias) for item in _loaded(shown_right)),
        tuple(
            _change(_named(pair[0], by_alias), _named(pair[1], by_alias), flags, columns, key)
            for *pair, flags in _loaded(shown_changed)
        ),
    )


_COMPARE = """
    WITH only_left AS (
        SELECT d.*, row_number() OVER ({partition}ORDER BY {order}) AS n
        FROM (SELECT {selected} FROM {left} EXCEPT ALL SELECT {selected} FROM {right}) d
    ), only_right AS (
        SELECT d.*, row_number() OVER ({partition}ORDER BY {order}) AS n
        FROM (SELECT {selected} FROM {right} EXCEPT ALL SELECT {selected} FROM {left}) d
    ), pairs AS MATERIALIZED (
        SELECT l.n IS NULL AS lacks_left, r.n IS NULL AS lacks_right, l, r,
            CASE WHEN l.n IS NOT NULL AND r.n IS NOT NULL THEN ARRAY[{differs}] END AS changed
        FROM only_left l FULL JOIN only_right r ON {paired}
    )
    SELECT count(*) FILTER (WHERE lacks_right), count(*) FILTER (WHERE lacks_left),
        count(*) FILTER (WHERE changed IS NOT NULL), ARRAY[{numbers}],
        (SELECT json_agg(e.shown) FROM (SELECT to_json(l) AS shown FROM pairs WHERE lacks_right LIMIT {examples}) e)::text,
        (SELECT json_agg(e.shown) FROM (SELECT to_json(r) AS shown FROM pairs WHERE lacks_left LIMIT {examples}) e)::text,
        (SELECT json_agg(e.shown) FROM (
            SELECT json_build_array(l, r, changed) AS shown FROM pairs WHERE changed IS NOT NULL LIMIT {examples}) e)::text
    FROM pairs"""


def lacking(
    connection: Connection,
    left: sql.Composable,
    right: sql.Composable,
    *,
    columns: Sequence[ComparedColumn],
    examples: int,
) -> RelationComparison:
    """Return rows of the right relation that the left one lacks, up to ``examples`` of them; what else the left one has is not looked at."""
    if not columns:
        return RelationComparison()
    selected = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(column.expression(), sql.Identifier(column.name)) for column in columns
    )
    rows = connection.execute(
        sql.SQL(
            "SELECT to_json(d)::text FROM (SELECT {selected} FROM {right} EXCEPT ALL SELECT {selected} FROM {left} LIMIT {examples}) d"
        ).format(selected=selected, left=left, right=right, examples=sql.Literal(examples))
    ).fetchall()
    found = tuple(json.loads(text) for (text,) in rows)
    return RelationComparison(only_right=len(found), only_right_examples=found)


def _loaded(text: str | None) -> list[Any]:
    return [] if text is None else list(json.loads(text))


def _named(values: Mapping[str, Any], by_alias: Mapping[str, str]) -> dict[str, Any]:
    return {by_alias[alias]: value for alias, value in values.items() if alias in by_alias}


def _change(
    left: Mapping[str, Any],
    right: Mapping[str, Any],
    flags: Sequence[bool],
    columns: Sequence[ComparedColumn],
    key: Sequence[str],
) -> Change:
    identity = dict.fromkeys((*(["aggregate_id"] if "aggregate_id" in left else []), *key))
    differing = [column.name for column, is_changed in zip(columns, flags, strict=True) if is_changed]
    return Change(
        {name: left[name] for name in identity if name not in differing},
        {name: (left[name], right[name]) for name in differing},
    )


def pairing_key(
    connection: Connection,
    schema: str,
    table: str,
    compared: Collection[str],
    aggregate_column: str | None = "aggregate_id",
) -> tuple[str, ...]:
    """Return the columns that rows are paired by: a primary key, a unique key or the aggregate's id, of compared columns only; else none."""
    rows = connection.execute(_KEYS, {"schema": schema, "table": table}).fetchall()
    for (names,) in rows:
        if all(name in compared for name in names):
            return tuple(names)
    return (aggregate_column,) if aggregate_column in compared else ()  # type: ignore[return-value]


_KEYS = """
    SELECT (SELECT array_agg(a.attname::text ORDER BY k.place)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
            WHERE k.place <= i.indnkeyatts)
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s
        AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid"""


def described(values: Mapping[str, Any]) -> str:
    """Return values for people."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    """Return one value for people: as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN_VALUE else text[: LONGEST_SHOWN_VALUE - 1] + "…"
