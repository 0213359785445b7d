"""The operations that Alembic lacks, as objects, and how each is run.

An implementation is registered for all of Alembic's ``Operations`` in the process; nothing of Alembic's own is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations, ops
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import UserDefinedType

from sequent_py.schema_migrations.connections import ask
from sequent_py.schema_migrations.errors import MissingObject

FOREIGN_KEYS = sa.text(
    "SELECT c.conname FROM pg_catalog.pg_constraint c"
    " WHERE c.contype = 'f' AND c.conrelid = pg_catalog.to_regclass(:relation) AND ARRAY("
    "SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, position)"
    " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum ORDER BY k.position"
    ") = CAST(:columns AS text[]) ORDER BY c.conname"
)
"""The foreign keys of a table on exactly these columns, in this order."""


class SQLType(UserDefinedType[Any]):
    """A column type given as the SQL that names it: ``sa.Column("address", SQLType("inet"))``."""

    cache_ok = True

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def __repr__(self) -> str:
        return f"SQLType({self.sql!r})"

    def get_col_spec(self, **_: Any) -> str:
        return self.sql


class RunOp(MigrateOperation):
    """SQL exactly as written."""

    def __init__(self, sql: str) -> None:
        self.sql = sql


class CreateViewOp(MigrateOperation):
    """A view or a materialized view of a query."""

    def __init__(
        self, name: str, query: str | sa.Select[Any], *, schema: str | None = None, materialized: bool = False
    ) -> None:
        self.name, self.query, self.schema, self.materialized = name, query, schema, materialized

    def reverse(self) -> DropViewOp:
        return DropViewOp(self.name, schema=self.schema, materialized=self.materialized)


class DropViewOp(MigrateOperation):
    """Drop a view or a materialized view."""

    def __init__(self, name: str, *, schema: str | None = None, materialized: bool = False) -> None:
        self.name, self.schema, self.materialized = name, schema, materialized


class CreateEnumOp(MigrateOperation):
    """An enum type."""

    def __init__(self, name: str, values: Sequence[str], *, schema: str | None = None) -> None:
        self.name, self.values, self.schema = name, tuple(values), schema

    def reverse(self) -> DropEnumOp:
        return DropEnumOp(self.name, schema=self.schema)


class DropEnumOp(MigrateOperation):
    """Drop an enum type."""

    def __init__(self, name: str, *, schema: str | None = None) -> None:
        self.name, self.schema = name, schema


class RenameEnumOp(MigrateOperation):
    """Give an enum type another name."""

    def __init__(self, name: str, new_name: str, *, schema: str | None = None) -> None:
        self.name, self.new_name, self.schema = name, new_name, schema

    def reverse(self) -> RenameEnumOp:
        return RenameEnumOp(self.new_name, self.name, schema=self.schema)


class DropForeignKeyOp(MigrateOperation):
    """Drop the one foreign key on these columns; its name is looked up when this runs."""

    def __init__(self, table: str, columns: Sequence[str], *, schema: str | None = None) -> None:
        self.table, self.columns, self.schema = table, tuple(columns), schema


def quoted(*parts: str | None) -> str:
    """Return a quoted, perhaps qualified name; parts that are None are left out."""
    return sql.Identifier(*(part for part in parts if part is not None)).as_string()


def literal(value: Any) -> str:
    """Return a value as a SQL literal."""
    return sql.Literal(value).as_string().strip()


UNESCAPED_COLON = re.compile(r"(?<![:\w\\]):(?=[\w$])")
"""What SQLAlchemy's ``text()`` takes for a parameter."""


def as_written(sql: str | sa.ColumnElement[Any] | sa.TextClause) -> Any:
    """Return SQL text in a form that SQLAlchemy leaves as it is: in DDL ``':x'`` would silently become ``'NULL'``."""
    return sa.text(UNESCAPED_COLON.sub(r"\\:", sql)) if isinstance(sql, str) else sql


def written_exactly(operation: MigrateOperation) -> MigrateOperation:
    """Protect SQL text in an operation from being read as having parameters; ones with values are left alone."""
    match operation:
        case ops.CreateCheckConstraintOp():
            operation.condition = as_written(operation.condition)
        case ops.CreateIndexOp():
            if isinstance(where := operation.kw.get("postgresql_where"), str):
                operation.kw["postgresql_where"] = as_written(where)
            _protect(operation.columns)
        case ops.CreateTableOp():
            _protect(operation.columns)
        case ops.AddColumnOp():
            _protect([operation.column])
        case ops.AlterColumnOp():
            _protect([operation.modify_server_default])
    return operation


def _protect(items: Iterable[object]) -> None:
    for item in items:
        match item:
            case sa.Column():
                _protect([item.server_default, item.computed, *item.constraints])
            case sa.CheckConstraint() | sa.Computed():
                _protect([item.sqltext])
            case sa.DefaultClause():
                _protect([item.arg])
            case sa.TextClause() if any(parameter.required for parameter in item._bindparams.values()):
                item.text, item._bindparams = UNESCAPED_COLON.sub(r"\\:", item.text), {}


def default_index_name(table: str, columns: Sequence[str]) -> str:
    """Return the name that Sequel gives an index: table, columns, ``index``."""
    return "_".join((table, *columns, "index"))


def foreign_key_column(
    column: str,
    table: str,
    *,
    key: str = "id",
    type: Any = sa.Integer,
    name: str | None = None,
    null: bool = True,
    **options: Any,
) -> sa.Column[Any]:
    """Return a column that references ``table(key)``; ``options`` are those of :class:`sqlalchemy.ForeignKey` and ``on_delete``, ``on_update``."""
    return sa.Column(
        column,
        type,
        sa.ForeignKey(f"{table}.{key}", name=name, **foreign_key_options(options)),
        nullable=null,
    )


def foreign_key_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Take Sequel's ``on_delete`` for SQLAlchemy's ``ondelete``."""
    spelled = {"on_delete": "ondelete", "on_update": "onupdate"}
    return {spelled.get(key, key): value for key, value in options.items()}


def run(operations: Operations, statement: str) -> Any:
    """Run SQL exactly as written, or print it if this is a dry run."""
    if operations.migration_context.as_sql:
        return operations.migration_context.impl.static_output(f"{statement.rstrip().rstrip(';')};")
    return operations.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def view_kind(op: CreateViewOp | DropViewOp) -> str:
    return "MATERIALIZED VIEW" if op.materialized else "VIEW"


@Operations.implementation_for(RunOp)
def _run(operations: Operations, op: RunOp) -> Any:
    return run(operations, op.sql)


@Operations.implementation_for(CreateViewOp)
def _create_view(operations: Operations, op: CreateViewOp) -> None:
    query = op.query
    if not isinstance(query, str):
        # Named parameters: no % is doubled, and run() takes none.
        dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
        query = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    run(operations, f"CREATE {view_kind(op)} {quoted(op.schema, op.name)} AS {query}")


@Operations.implementation_for(DropViewOp)
def _drop_view(operations: Operations, op: DropViewOp) -> None:
    run(operations, f"DROP {view_kind(op)} {quoted(op.schema, op.name)}")


@Operations.implementation_for(CreateEnumOp)
def _create_enum(operations: Operations, op: CreateEnumOp) -> None:
    values = ", ".join(literal(value) for value in op.values)
    run(operations, f"CREATE TYPE {quoted(op.schema, op.name)} AS ENUM ({values})")


@Operations.implementation_for(DropEnumOp)
def _drop_enum(operations: Operations, op: DropEnumOp) -> None:
    run(operations, f"DROP TYPE {quoted(op.schema, op.name)}")


@Operations.implementation_for(RenameEnumOp)
def _rename_enum(operations: Operations, op: RenameEnumOp) -> None:
    run(operations, f"ALTER TYPE {quoted(op.schema, op.name)} RENAME TO {quoted(op.new_name)}")


@Operations.implementation_for(DropForeignKeyOp)
def _drop_foreign_key(operations: Operations, op: DropForeignKeyOp) -> None:
    rows = ask(
        operations.get_bind(),
        FOREIGN_KEYS,
        relation=quoted(op.schema, op.table),
        columns=list(op.columns),
    )
    names = [row[0] for row in rows]
    if len(names) != 1:
        found = f" ({', '.join(names)})" if names else ""
        raise MissingObject(
            f"{'Ambiguous' if names else 'Missing'} foreign key for {quoted(op.schema, op.table)}"
            f"({', '.join(op.columns)}){found}.",
            remedy="Name the constraint in the migration, or write your own down method.",
        )
    operations.invoke(ops.DropConstraintOp(names[0], op.table, "foreignkey", schema=op.schema))
