"""Running a migration backwards.

``change`` is called with a recorder instead of the database; what it recorded is reversed, each operation and their order. Only what is listed
here is reversed. Alembic's own ``reverse()`` is never called on anything else: for some operations it silently does nothing, for a dropped
table or index it invents one.

Every operation is reversed before the first is run, so that an irreversible migration changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import singledispatch
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import sqlalchemy as sa
from alembic.operations import MigrateOperation, ops
from alembic.runtime.migration import MigrationContext

from sequent_py.schema_migrations.ddl import (
    CreateEnumOp,
    CreateViewOp,
    DropEnumOp,
    DropForeignKeyOp,
    RenameEnumOp,
    written_exactly,
)
from sequent_py.schema_migrations.errors import IrreversibleMigration
from sequent_py.schema_migrations.files import Block
from sequent_py.schema_migrations.operations import Schema


class _Irreversible(Exception):
    """An operation that is not listed; ``detail`` says which form of it, if others can be reversed."""

    def __init__(self, detail: str = "", method: str | None = None) -> None:
        self.detail, self.method = detail, method


@singledispatch
def reverse(op: MigrateOperation) -> Sequence[MigrateOperation]:
    """Return the operations that undo ``op``; what is not registered here cannot be undone."""
    raise _Irreversible


@reverse.register
def _(op: ops.CreateTableOp) -> Sequence[MigrateOperation]:
    return [op.reverse(), *_enums_made_by(op.columns, op.schema)]


@reverse.register(ops.AddColumnOp)
@reverse.register(ops.CreateIndexOp)
@reverse.register(CreateViewOp)
@reverse.register(CreateEnumOp)
@reverse.register(RenameEnumOp)
def _(op: Any) -> Sequence[MigrateOperation]:
    return [op.reverse()]


@reverse.register
def _(op: ops.RenameTableOp) -> Sequence[MigrateOperation]:
    return [ops.RenameTableOp(op.new_table_name, op.table_name, schema=op.schema)]


@reverse.register
def _(op: ops.CreateCheckConstraintOp) -> Sequence[MigrateOperation]:
    if op.constraint_name is None:
        raise _Irreversible("of a constraint without a name")
    return [op.reverse()]


@reverse.register
def _(op: ops.CreateForeignKeyOp) -> Sequence[MigrateOperation]:
    if op.constraint_name is not None:
        return [op.reverse()]
    return [DropForeignKeyOp(op.source_table, op.local_cols, schema=op.kw.get("source_schema"))]


@reverse.register
def _(op: ops.AlterColumnOp) -> Sequence[MigrateOperation]:
    if op.modify_type is not None:
        raise _Irreversible("of a type")
    if op.modify_server_default is not False:
        raise _Irreversible("of a default")
    if op.modify_comment is not False:
        raise _Irreversible("of a comment")
    if op.modify_name is None and op.modify_nullable is None:
        raise _Irreversible("of something else than name or nullability")
    back = None if op.modify_nullable is None else not op.modify_nullable
    return [
        ops.AlterColumnOp(
            op.table_name,
            op.modify_name or op.column_name,
            schema=op.schema,
            existing_type=op.existing_type,
            modify_name=op.modify_name and op.column_name,
            modify_nullable=back,
        )
    ]


def _enums_made_by(columns: Sequence[Any], schema: str | None) -> list[MigrateOperation]:
    """Return the drops of the enum types that creating the table creates: dropping the table leaves them behind."""
    found: dict[tuple[str | None, str], MigrateOperation] = {}
    for column in columns:
        kind = column.type if isinstance(column, sa.Column) else None
        if isinstance(kind, sa.ARRAY):
            kind = kind.item_type
        if (
            isinstance(kind, sa.Enum)
            and kind.native_enum
            and kind.name
            and getattr(kind, "create_type", True)
        ):
            found[kind.schema, kind.name] = DropEnumOp(kind.name, schema=kind.schema)
    return list(found.values())


class Recorder(Schema):
    """Notes every operation down instead of running it. It has no connection: a migration that reads cannot be reversed."""

    def __init__(self, *, event_store_schema: str | None = None) -> None:
        context = MigrationContext.configure(
            dialect_name="postgresql", opts={"as_sql": True, "output_buffer": StringIO()}
        )
        super().__init__(context, event_store_schema=event_store_schema)
        self.recorded: list[tuple[str, MigrateOperation]] = []

    def invoke(self, operation: MigrateOperation) -> Any:
        """Record the operation under the name that the migration used."""
        self.recorded.append((self.calling or method_name(operation), written_exactly(operation)))
        # op.create_table() returns the table, and migrations use it.
        return (
            operation.to_table(self.migration_context) if isinstance(operation, ops.CreateTableOp) else None
        )

    def get_bind(self) -> NoReturn:
        """Refuse: there is no database to read while recording."""
        raise _Irreversible(method=self.calling or "get_bind")


def method_name(operation: MigrateOperation) -> str:
    """Return the method of ``op`` that makes this operation."""
    name = type(operation).__name__.removesuffix("Op")
    return "execute" if name == "ExecuteSQL" else re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def reversed_operations(
    block: Block, path: Path, event_store_schema: str | None = None
) -> list[MigrateOperation]:
    """Return the operations that undo what ``block`` does, in order; runs nothing.

    Raises
    ------
    IrreversibleMigration
        The block uses a method that has no reversal, or fails without a database.
    """
    recorder = Recorder(event_store_schema=event_store_schema)
    name = ""
    found: list[MigrateOperation] = []
    try:
        block(recorder)
        for called, operation in reversed(recorder.recorded):
            name = called
            found.extend(reverse(operation))
    except _Irreversible as error:
        detail = f" {error.detail}" if error.detail else ""
        raise IrreversibleMigration(
            path, f'irreversible migration method "{error.method or name}"{detail} used'
        ) from None
    except Exception as error:
        raise IrreversibleMigration(
            path, f"unable to reverse migration due to {type(error).__name__} ({error})"
        ) from error
    return found
