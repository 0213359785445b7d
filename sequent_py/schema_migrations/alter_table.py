"""Sequel's ``alter_table``: the verbs for one table.

Each is handed on to ``op`` at once and under its own name; nothing is collected into one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from sequent_py.schema_migrations.ddl import (
    DropForeignKeyOp,
    default_index_name,
    foreign_key_column,
    foreign_key_options,
    literal,
)

if TYPE_CHECKING:
    from sequent_py.schema_migrations.operations import Schema

Columns = str | Sequence[str]


def listed(columns: Columns) -> list[str]:
    """Return a list of one name or several."""
    return [columns] if isinstance(columns, str) else list(columns)


class AlterTable:
    """What can be done to one table."""

    def __init__(self, op: Schema, table: str, schema: str | None) -> None:
        self._op, self._table, self._schema = op, table, schema

    # Columns

    def add_column(
        self, column: str | sa.Column[Any], type: Any = None, *, index: bool = False, **options: Any
    ) -> None:
        """Add a column, given as a SQLAlchemy column or as name, type and options; ``index=True`` gives it an index."""
        with self._op.called("add_column"):
            added = column if isinstance(column, sa.Column) else sa.Column(column, type, **options)
            self._op.add_column(self._table, added, schema=self._schema)
            if index:
                self._op.add_index(self._table, added.name, schema=self._schema)

    def drop_column(self, column: str) -> None:
        """Drop a column."""
        self._op.drop_column(self._table, column, schema=self._schema)

    def rename_column(self, column: str, new_name: str) -> None:
        """Rename a column."""
        self._op.rename_column(self._table, column, new_name, schema=self._schema)

    def set_column_allow_null(self, column: str, allow_null: bool = True) -> None:
        """Let a column be NULL, or forbid it."""
        self._op.set_column_allow_null(self._table, column, allow_null, schema=self._schema)

    def set_column_not_null(self, column: str) -> None:
        """Forbid NULL in a column."""
        self._op.set_column_not_null(self._table, column, schema=self._schema)

    def set_column_type(self, column: str, type: Any, *, using: str | None = None) -> None:
        """Change a column's type; ``using`` is the SQL expression that converts the values."""
        options: dict[str, Any] = {} if using is None else {"postgresql_using": using}
        with self._op.called("set_column_type"):
            self._op.alter_column(self._table, column, type_=type, schema=self._schema, **options)

    def set_column_default(self, column: str, default: Any) -> None:
        """Change a column's default: a value, or SQL as ``sa.text``; None for no default."""
        with self._op.called("set_column_default"):
            if default is not None and not isinstance(default, str | sa.ClauseElement):
                default = sa.literal_column(literal(default))
            self._op.alter_column(self._table, column, server_default=default, schema=self._schema)

    # Constraints

    def add_constraint(self, name: str | None, expression: str | sa.ColumnElement[bool]) -> None:
        """Add a check. One without a name can be made, but not reversed."""
        with self._op.called("add_constraint"):
            self._op.create_check_constraint(name, self._table, cast(Any, expression), schema=self._schema)

    def add_unique_constraint(self, columns: Columns, *, name: str | None = None, **options: Any) -> None:
        """Add a unique constraint."""
        with self._op.called("add_unique_constraint"):
            self._op.create_unique_constraint(
                name, self._table, listed(columns), schema=self._schema, **options
            )

    def drop_constraint(self, name: str) -> None:
        """Drop a constraint."""
        self._op.drop_constraint(name, self._table, schema=self._schema)

    def add_primary_key(self, columns: Columns, *, name: str | None = None, type: Any = sa.Integer) -> None:
        """Add an identity column that is the primary key, given one name; or make a list of columns the primary key."""
        with self._op.called("add_primary_key"):
            if isinstance(columns, str):
                added: sa.Column[Any] = sa.Column(columns, type, sa.Identity(), primary_key=True)
                self._op.add_column(self._table, added, schema=self._schema, inline_primary_key=True)
            else:
                self._op.create_primary_key(name, self._table, list(columns), schema=self._schema)

    def add_foreign_key(
        self,
        columns: Columns,
        table: str,
        *,
        key: Columns | None = None,
        name: str | None = None,
        referenced_schema: str | None = None,
        **options: Any,
    ) -> None:
        """Add a column that references ``table``, given one name; or a constraint on a list of columns.

        ``key`` names the referenced columns: ``id`` unless told otherwise. ``options``: ``on_delete``, ``on_update``, ``deferrable``,
        ``initially``, ``match``; for a new column also ``type`` (integer) and ``null``.
        """
        with self._op.called("add_foreign_key"):
            if isinstance(columns, str):
                target = table if referenced_schema is None else f"{referenced_schema}.{table}"
                (referenced,) = listed(key or "id")
                added = foreign_key_column(columns, target, key=referenced, name=name, **options)
                self._op.add_column(self._table, added, schema=self._schema)
                return
            keys = ["id"] if key is None and len(columns) == 1 else listed(key or ())
            if len(keys) != len(columns):
                raise TypeError(f"{len(columns)} columns cannot reference {len(keys)}: give as many in key")
            schemas: dict[str, Any] = {"source_schema": self._schema, "referent_schema": referenced_schema}
            self._op.create_foreign_key(
                name, self._table, table, list(columns), keys, **schemas, **foreign_key_options(options)
            )

    def drop_foreign_key(self, columns: Columns) -> None:
        """Drop a foreign key column, given one name; or the foreign key on a list of columns."""
        with self._op.called("drop_foreign_key"):
            self._op.invoke(DropForeignKeyOp(self._table, listed(columns), schema=self._schema))
            if isinstance(columns, str):
                self._op.drop_column(self._table, columns, schema=self._schema)

    # Indexes

    def add_index(self, columns: Columns, **options: Any) -> None:
        """Create an index; options as for ``op.add_index``."""
        self._op.add_index(self._table, columns, schema=self._schema, **options)

    def add_full_text_index(self, columns: Columns, **options: Any) -> None:
        """Index the words of text columns; options as for ``op.add_full_text_index``."""
        self._op.add_full_text_index(self._table, columns, schema=self._schema, **options)

    def add_spatial_index(self, columns: Columns, **options: Any) -> None:
        """Index geometric columns; options as for ``op.add_spatial_index``."""
        self._op.add_spatial_index(self._table, columns, schema=self._schema, **options)

    def drop_index(self, columns: Columns, *, name: str | None = None, **options: Any) -> None:
        """Drop an index by its columns, or by its name."""
        with self._op.called("drop_index"):
            name = name or default_index_name(self._table, listed(columns))
            self._op.drop_index(name, self._table, schema=self._schema, **options)
