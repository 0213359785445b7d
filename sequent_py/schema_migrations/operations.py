"""``op``: what a migration is given.

Alembic's :class:`~alembic.operations.Operations` under their own names, and beside them Sequel's verbs: ``run``, views, join tables, enum types,
``alter_table``, full-text and spatial indexes. A verb builds the same operation objects as the Alembic method that does its work, so that there is
one way only in which anything is run, recorded and reversed.

Text is SQL as written: a ``:name`` in a check, an index condition or ``run`` is no parameter. (Alembic's ``execute`` keeps its own rules.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from alembic.operations import BatchOperations, MigrateOperation, Operations
from alembic.operations.batch import BatchOperationsImpl
from alembic.runtime.migration import MigrationContext

from sequent_py.schema_migrations.alter_table import AlterTable, Columns, listed
from sequent_py.schema_migrations.ddl import (
    CreateEnumOp,
    CreateViewOp,
    DropEnumOp,
    DropViewOp,
    RenameEnumOp,
    RunOp,
    as_written,
    default_index_name,
    foreign_key_column,
    literal,
    written_exactly,
)

Method = TypeVar("Method", bound=Callable[..., Any])


def verb(method: Method) -> Method:
    """Let errors name the method that the migration called, and not those that it works by."""

    @wraps(method)
    def named(self: Schema, *args: Any, **kwargs: Any) -> Any:
        with self.called(method.__name__):
            return method(self, *args, **kwargs)

    return cast(Method, named)


class Schema(Operations):
    """The operations of one migration, on the migrator's own connection (``get_bind()``)."""

    calling: str | None = None

    def __init__(self, context: MigrationContext, *, event_store_schema: str | None = None) -> None:
        super().__init__(context)
        self.event_store_schema = event_store_schema
        """The schema that the migrator was given, as quoted SQL text; None if it was given none."""

    # SQL -------------------------------------------------------------------------------------------------------------------

    def run(self, sql: str) -> Any:
        """Run SQL exactly as written: no ``:name`` is a parameter, no ``%`` is special, several statements may be given."""
        return self.invoke(RunOp(sql))

    # Views and types ---------------------------------------------------------------------------------------------------------

    def create_view(
        self, name: str, query: str | sa.Select[Any], *, schema: str | None = None, materialized: bool = False
    ) -> None:
        """Create a view of a query, given as SQL text or as a SQLAlchemy select."""
        self.invoke(CreateViewOp(name, query, schema=schema, materialized=materialized))

    def drop_view(self, name: str, *, schema: str | None = None, materialized: bool = False) -> None:
        """Drop a view."""
        self.invoke(DropViewOp(name, schema=schema, materialized=materialized))

    def create_enum(self, name: str, values: Sequence[str], *, schema: str | None = None) -> None:
        """Create an enum type; columns of it are declared with ``postgresql.ENUM(name=…, create_type=False)``."""
        self.invoke(CreateEnumOp(name, values, schema=schema))

    def drop_enum(self, name: str, *, schema: str | None = None) -> None:
        """Drop an enum type."""
        self.invoke(DropEnumOp(name, schema=schema))

    def rename_enum(self, name: str, new_name: str, *, schema: str | None = None) -> None:
        """Rename an enum type."""
        self.invoke(RenameEnumOp(name, new_name, schema=schema))

    # Join tables -------------------------------------------------------------------------------------------------------------

    @verb
    def create_join_table(
        self,
        references: Mapping[str, str | Mapping[str, Any]] | None = None,
        /,
        *,
        name: str | None = None,
        schema: str | None = None,
        no_index: bool = False,
        index_name: str | None = None,
        **more: str | Mapping[str, Any],
    ) -> None:
        """Create the table between two: ``create_join_table(artist_id="artists", album_id="albums")``.

        Two foreign keys that are not null, a composite primary key of both and an index of both in the other order. The name is the two
        table names, sorted. Instead of a table name, options: ``{"table": …, "key": "id", "type": sa.Integer, "null": False, "on_delete": …}``.
        """
        columns = join_columns({**(references or {}), **more})
        table = name or join_table_name({**(references or {}), **more})
        first, second = (column.name for column in columns)
        self.create_table(table, *columns, sa.PrimaryKeyConstraint(first, second), schema=schema)
        if not no_index:
            self.add_index(table, [second, first], name=index_name, schema=schema)

    @verb
    def drop_join_table(
        self,
        references: Mapping[str, str | Mapping[str, Any]] | None = None,
        /,
        *,
        name: str | None = None,
        schema: str | None = None,
        **more: str | Mapping[str, Any],
    ) -> None:
        """Drop what :meth:`create_join_table` with the same arguments creates."""
        self.drop_table(name or join_table_name({**(references or {}), **more}), schema=schema)

    # Indexes -------------------------------------------------------------------------------------------------------------------

    @verb
    def add_index(
        self,
        table: str,
        columns: Columns | Sequence[str | sa.ColumnElement[Any] | sa.TextClause],
        *,
        name: str | None = None,
        unique: bool = False,
        where: str | sa.ColumnElement[bool] | None = None,
        include: Columns = (),
        using: str | None = None,
        concurrently: bool = False,
        schema: str | None = None,
        **options: Any,
    ) -> None:
        """Create an index, named ``table_columns_index`` unless told otherwise. ``concurrently`` needs ``transaction = False``."""
        parts = [columns] if isinstance(columns, str) else list(columns)
        if name is None:
            if not all(isinstance(part, str) for part in parts):
                raise TypeError("an index on expressions needs a name")
            name = default_index_name(table, [str(part) for part in parts])
        if where is not None:
            options["postgresql_where"] = as_written(where)
        if include:
            options["postgresql_include"] = listed(include)
        if using is not None:
            options["postgresql_using"] = using
        if concurrently:
            options["postgresql_concurrently"] = True
        self.create_index(name, table, parts, schema=schema, unique=unique, **options)

    @verb
    def add_full_text_index(
        self,
        table: str,
        columns: Columns,
        *,
        name: str | None = None,
        language: str = "simple",
        using: str = "gin",
        schema: str | None = None,
        **options: Any,
    ) -> None:
        """Index the words of one or several text columns; NULL counts as empty."""
        texts: list[sa.ColumnElement[Any]] = [
            sa.func.coalesce(sa.column(column), sa.literal_column("''")) for column in listed(columns)
        ]
        joined: sa.ColumnElement[Any] = texts[0]
        for text in texts[1:]:
            joined = joined.op("||")(sa.literal_column("' '")).op("||")(text)
        configuration: sa.ColumnElement[Any] = sa.literal_column(f"{literal(language)}::regconfig")
        vector = sa.func.to_tsvector(configuration, joined)
        name = name or default_index_name(table, listed(columns))
        self.create_index(name, table, [vector], schema=schema, postgresql_using=using, **options)

    @verb
    def add_spatial_index(
        self,
        table: str,
        columns: Columns,
        *,
        name: str | None = None,
        schema: str | None = None,
        **options: Any,
    ) -> None:
        """Index geometric columns (GiST)."""
        self.add_index(table, listed(columns), name=name, using="gist", schema=schema, **options)

    # Columns -------------------------------------------------------------------------------------------------------------------

    @verb
    def rename_column(self, table: str, column: str, new_name: str, *, schema: str | None = None) -> None:
        """Rename a column."""
        self.alter_column(table, column, new_column_name=new_name, schema=schema)

    @verb
    def set_column_allow_null(
        self, table: str, column: str, allow_null: bool = True, *, schema: str | None = None
    ) -> None:
        """Let a column be NULL, or forbid it."""
        self.alter_column(table, column, nullable=allow_null, schema=schema)

    @verb
    def set_column_not_null(self, table: str, column: str, *, schema: str | None = None) -> None:
        """Forbid NULL in a column."""
        self.alter_column(table, column, nullable=False, schema=schema)

    @contextmanager
    def alter_table(self, table: str, *, schema: str | None = None) -> Iterator[AlterTable]:
        """Yield the verbs for one table: ``with op.alter_table("artists") as table: table.rename_column("nme", "name")``."""
        yield AlterTable(self, table, schema)

    # How operations travel ---------------------------------------------------------------------------------------------------

    @contextmanager
    def called(self, name: str) -> Iterator[None]:
        """Remember the outermost verb while it works."""
        outermost, self.calling = self.calling, self.calling or name
        try:
            yield
        finally:
            self.calling = outermost

    @contextmanager
    def batch_alter_table(  # type: ignore[override]
        self, table_name: str, schema: str | None = None, **_options: Any
    ) -> Iterator[BatchOperations]:
        """Yield Alembic's operations for one table. They run at once: PostgreSQL needs no table rebuilt."""
        target = cast(BatchOperationsImpl, SimpleNamespace(table_name=table_name, schema=schema))
        batch = BatchOperations(self.migration_context, impl=target)
        batch.invoke = self.invoke  # type: ignore[method-assign]
        yield batch

    def invoke(self, operation: MigrateOperation) -> Any:
        """Run an operation. Everything that a migration does passes here."""
        return super().invoke(written_exactly(operation))


def join_columns(references: Mapping[str, str | Mapping[str, Any]]) -> list[sa.Column[Any]]:
    """Return the two columns of a join table, by name."""
    if len(references) != 2:
        raise TypeError(f"a join table has two foreign keys, not {len(references)}")
    return [
        foreign_key_column(column, **({"table": table} if isinstance(table, str) else table), null=False)
        for column, table in sorted(references.items())
    ]


def join_table_name(references: Mapping[str, str | Mapping[str, Any]]) -> str:
    """Return the two table names, sorted and joined: ``albums_artists``."""
    tables = [table if isinstance(table, str) else str(table["table"]) for table in references.values()]
    return "_".join(sorted(name.rpartition(".")[2] for name in tables))
