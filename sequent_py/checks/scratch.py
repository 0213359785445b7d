"""Scratch tables: empty temporary copies of managed tables, for a fold to write to.

They have the columns, defaults, constraints and indexes of the original, and sequences of their own: a fold draws no number from a table
that serves. Each default that the database draws counts its draws, so that a comparison can tell a column whose values the fold drew, which
differ from one fold to the next, from one that merely has such a default while handlers give every value. Private to the connection;
gone with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.checks.comparison import ComparedColumn, compared_column, pairing_key
from sequent_py.persistors.tables import (
    ReflectedColumn,
    TableShape,
    is_constant,
    read_table_shape,
    reflect_columns,
)

Connection = psycopg.Connection[Any]

_NEXTVAL = re.compile(r"nextval\('(?:[^']|'')*'::regclass\)")
"""As the server prints it."""


@dataclass(frozen=True)
class ScratchTable:
    """The temporary copy of one managed table."""

    original: TableShape
    fold: TableShape
    """What a persistor writes to."""
    drawing: dict[str, str]
    """By column: the sequence that counts its draws."""
    columns: tuple[ReflectedColumn, ...]
    generated_from: dict[str, frozenset[str]] = field(default_factory=dict)
    """By generated column: what it is computed from."""
    has_triggers: bool = False

    @property
    def name(self) -> str:
        """The plain name of the table that it stands for."""
        return self.original.record_shape.table_name

    @property
    def aggregate_column(self) -> str | None:
        """The column that says whose a row is; None where rows cannot be attributed."""
        return aggregate_column(self.original)

    @property
    def relation(self) -> sql.Identifier:
        """The temporary table."""
        return sql.Identifier(self.fold.schema, self.fold.name)

    def empty(self, connection: Connection) -> None:
        """Remove what an earlier fold left, and forget what it drew."""
        connection.execute(sql.SQL("TRUNCATE {}").format(self.relation))
        for sequence in self.drawing.values():
            # Not TRUNCATE … RESTART IDENTITY: the sequences belong to no column.
            connection.execute(
                sql.SQL("ALTER SEQUENCE {} RESTART").format(sql.Identifier("pg_temp", sequence))
            )

    def drawn(self, connection: Connection) -> frozenset[str]:
        """Return the columns of which the fold, since :meth:`empty`, has drawn a value."""
        found = set()
        for column, sequence in self.drawing.items():
            row = connection.execute(
                sql.SQL("SELECT is_called FROM {}").format(sql.Identifier("pg_temp", sequence))
            ).fetchone()
            assert row is not None
            if row[0]:
                found.add(column)
        return frozenset(found)

    def compared(self, drawn: Collection[str]) -> list[ComparedColumn]:
        """Return the columns that can be compared once these were drawn.

        Left out are identities, what is computed from a column left out, and, where the table has triggers, which a copy has not, what
        the record does not know.
        """
        record = {column.name for column in self.original.record_shape.columns}
        left_out = {column.name for column in self.columns if column.identity or column.name in drawn}
        for name, sources in self.generated_from.items():
            if sources & left_out:
                left_out.add(name)
        if self.has_triggers:
            left_out |= {column.name for column in self.columns if column.name not in record}
        return [compared_column(column, column) for column in self.columns if column.name not in left_out]

    def key(self, connection: Connection, compared: Collection[str]) -> tuple[str, ...]:
        """Return what rows are paired by."""
        return pairing_key(
            connection, self.original.schema, self.original.name, compared, self.aggregate_column
        )


def aggregate_column(table: TableShape) -> str | None:
    """Return the name of the column that says which aggregate a row belongs to; None where there is none."""
    column = table.record_shape.by_attribute.get("aggregate_id")
    return column.name if column is not None and column.type.family == "uuid" else None


def create_scratch_table(
    connection: Connection,
    original: TableShape,
    number: int,
    *,
    for_one_transaction: bool = False,
    is_constrained: bool = True,
) -> ScratchTable:
    """Create the ``number``-th scratch table of this connection."""
    name = f"sequent_fold_{number}"
    connection.execute(
        sql.SQL(
            "CREATE TEMP TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING GENERATED{}){}"
        ).format(
            sql.Identifier("pg_temp", name),
            sql.Identifier(original.schema, original.name),
            sql.SQL(" INCLUDING CONSTRAINTS INCLUDING INDEXES" if is_constrained else ""),
            sql.SQL(" ON COMMIT DROP" if for_one_transaction else ""),
        )
    )
    row = connection.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
    assert row is not None
    schema = str(row[0])
    columns = reflect_columns(connection, original.schema, original.name)
    drawing: dict[str, str] = {}
    for place, column in enumerate(columns):
        if column.default is None or column.identity or column.is_generated or is_constant(column.default):
            continue
        sequence = f"{name}_draws_{place}"
        _count_draws(connection, sql.Identifier("pg_temp", name), column, sequence)
        drawing[column.name] = sequence
    return ScratchTable(
        original=original,
        fold=read_table_shape(connection, original.record_shape, schema, name),
        drawing=drawing,
        columns=columns,
        generated_from=generated_from(connection, original.schema, original.name),
        has_triggers=_has_triggers(connection, original),
    )


def _count_draws(
    connection: Connection, table: sql.Identifier, column: ReflectedColumn, sequence: str
) -> None:
    """Let a column's default count its draws in a sequence of its own, which also replaces any sequence that it drew from."""
    assert column.default is not None
    counter = sql.Identifier("pg_temp", sequence)
    connection.execute(sql.SQL("CREATE TEMP SEQUENCE {}").format(counter))
    draw = sql.SQL("nextval({}::regclass)").format(sql.Literal(counter.as_string(connection)))
    pieces = _NEXTVAL.split(column.default)
    if len(pieces) == 2:
        expression = sql.Composed([_server_text(pieces[0]), draw, _server_text(pieces[1])])
    else:
        expression = sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(
            draw, _server_text(column.default)
        )
    connection.execute(
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
            table, sql.Identifier(column.name), expression
        )
    )


def _server_text(text: str) -> sql.SQL:
    """Take an expression that the server itself printed."""
    return sql.SQL(text)


def generated_from(connection: Connection, schema: str, table: str) -> dict[str, frozenset[str]]:
    """Return, by generated column, the columns that it is computed from."""
    rows = connection.execute(_GENERATED, {"schema": schema, "table": table}).fetchall()
    return {name: frozenset(sources) for name, sources in rows}


def _has_triggers(connection: Connection, table: TableShape) -> bool:
    row = connection.execute(_TRIGGERS, {"schema": table.schema, "table": table.name}).fetchone()
    assert row is not None
    return bool(row[0])


_GENERATED = """
    SELECT a.attname::text, array_agg(s.attname::text)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped
    JOIN pg_catalog.pg_attrdef e ON e.adrelid = c.oid AND e.adnum = a.attnum
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid <> a.attnum
    JOIN pg_catalog.pg_attribute s ON s.attrelid = c.oid AND s.attnum = d.refobjsubid
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s
    GROUP BY a.attname"""

_TRIGGERS = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND NOT t.tgisinternal)"""
