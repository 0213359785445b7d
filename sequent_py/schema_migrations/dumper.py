"""Dump a database's tables as a migration.

One ``change`` with the enum types, the tables in the order of their foreign keys, and their indexes; so a dump can be migrated down as well. It runs on an
empty database. What it cannot say is not written but named in ``Dump.left_out``, object by object: views, functions, triggers, grants,
partitioning, and so on. For a copy without loss use ``pg_dump`` (:mod:`.sql_dump`).

With ``exact`` types the tables are those of the database; with ``portable`` ones columns have the nearest type that other databases know, and what depends on a
type that changed (a default, a check, an index) is left out.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import sqlalchemy as sa
from alembic.autogenerate import render_python_code
from alembic.operations import MigrateOperation, ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import sort_tables_and_constraints

from sequent_py.schema_migrations.catalog import FIRST_USER_OID, read
from sequent_py.schema_migrations.ddl import SQLType
from sequent_py.schema_migrations.dump_parts import Choices, choose
from sequent_py.schema_migrations.dump_types import Types, stored_type
from sequent_py.schema_migrations.errors import DumpFailed
from sequent_py.schema_migrations.tracking import FILENAME_TABLE, VERSION_TABLE

TRACKING_TABLES = (VERSION_TABLE, FILENAME_TABLE)

HEADER = '''"""{title}"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from sequent_py.schema_migrations import SQLType


def change(op):
'''


@dataclass(frozen=True, slots=True)
class Dump:
    """A migration's text, and a line for everything that is not in it."""

    text: str
    left_out: tuple[str, ...]


def dump_tables(
    connection: sa.Connection,
    *,
    types: Types = "portable",
    schema: str | None = None,
    skip: Collection[str] = TRACKING_TABLES,
    silent_schemas: Collection[str] = (),
) -> Dump:
    """Return the tables of a schema as a migration: of ``schema``, qualified, or of the first in the search path, unqualified.

    ``skip`` names tables that are left out without a word, as the tracking tables are; ``silent_schemas`` schemas whose objects are not named.

    Raises
    ------
    DumpFailed
        There is no such schema.
    """
    found = read(connection, "schema", schema=schema)
    if not found:
        raise DumpFailed(
            f"There is no schema {schema!r}." if schema else "The search path names no schema that exists."
        )
    here = found[0].oid
    tables = [table for table in read(connection, "tables", schema=here) if table.name not in skip]
    oids = [table.oid for table in tables]
    sequences = {row.name: row for row in read(connection, "sequences", schema=here)}
    columns = read(connection, "columns", tables=oids, schema=here)
    parts = read(connection, "parts", tables=oids, first_user_oid=FIRST_USER_OID)
    choices = choose(tables, columns, parts, sequences, types)
    metadata = _reflect(connection, schema, [table.name for table in tables], choices)
    operations = _operations(metadata, choices)
    others = read(
        connection,
        "others",
        schema=here,
        tables=oids,
        skip=list(skip),
        silent=list(silent_schemas),
        with_enums=types == "exact",
        first_user_oid=FIRST_USER_OID,
    )
    comments = read(connection, "comments", tables=oids)
    left_out = [
        *choices.notes,
        *(f"{row.name} is not dumped" for row in others),
        *(f"the comment on {row.name} is not dumped" for row in comments),
    ]
    enums = read(connection, "enums", schema=here) if types == "exact" else []
    lines = [
        f"    op.create_enum({row.name!r}, {row.labels!r}{'' if schema is None else f', schema={schema!r}'})\n"
        for row in enums
    ]
    title = f"The tables as they were dumped, with {types} types."
    text = HEADER.format(title=title) + "".join(lines) + _render(operations, is_empty=not enums)
    return Dump(text, tuple(sorted(left_out)))


def _reflect(
    connection: sa.Connection, schema: str | None, names: Sequence[str], choices: Choices
) -> sa.MetaData:
    metadata = sa.MetaData()

    @sa.event.listens_for(metadata, "column_reflect")
    def reflected(inspector: Any, table: sa.Table, column: dict[str, Any]) -> None:
        choice = choices.columns[table.name, column["name"]]
        column["type"] = choice.type
        column["default"] = None if choice.default is None else sa.text(escaped(escaped(choice.default)))
        column["autoincrement"] = True if choice.is_serial else "auto"
        if "computed" in column:
            if choice.is_generated:
                column["computed"]["sqltext"] = sa.text(escaped(escaped(column["computed"]["sqltext"])))
            else:
                del column["computed"]

    with warnings.catch_warnings():
        # Types that it does not know, which were chosen above, and constraints with options, which are noted.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        metadata.reflect(connection, schema=schema, only=list(names), resolve_fks=False)
    for table in metadata.tables.values():
        _prune(table, choices)
    return metadata


def _prune(table: sa.Table, choices: Choices) -> None:
    """Take what is left out off a reflected table, and protect the text of the rest."""
    for constraint in list(table.constraints):
        is_dotted = _has_dotted_target(constraint)
        if is_dotted:
            choices.notes.append(
                f"foreign key {constraint.name} of table {table.name}: a name has a dot in it"
            )
        if is_dotted or (table.name, constraint.name) in choices.dropped:
            table.constraints.discard(constraint)
            if isinstance(constraint, sa.ForeignKeyConstraint):
                for element in constraint.elements:
                    element.parent.foreign_keys.discard(element)
                    table.foreign_keys.discard(element)
        elif isinstance(constraint, sa.CheckConstraint):
            # Made anew: options that were reflected (NO INHERIT) cannot be created from what was reflected.
            table.constraints.discard(constraint)
            expression = sa.text(escaped(escaped(cast(sa.TextClause, constraint.sqltext).text)))
            table.append_constraint(sa.CheckConstraint(expression, name=constraint.name))
        elif (key := (table.name, str(constraint.name))) in choices.deferrable:
            constraint.deferrable, constraint.initially = True, choices.deferrable[key]
        _drop_empty(constraint.dialect_kwargs)
    for index in list(table.indexes):
        if (table.name, index.name) in choices.dropped:
            table.indexes.discard(index)
        else:
            _protect_index(index)
    for option in ("inherits", "partition_by"):
        table.dialect_options["postgresql"][option] = None
    _choose_serial(table, choices)


def _protect_index(index: sa.Index) -> None:
    for expression in index.expressions:
        if isinstance(expression, sa.TextClause):
            # Written as literal_column(), which reads no parameters.
            expression.text, expression._bindparams = escaped(expression.text), {}
    where = index.dialect_options["postgresql"]["where"]
    if where is not None:
        text = where.text if isinstance(where, sa.TextClause) else str(where)
        index.dialect_options["postgresql"]["where"] = sa.text(escaped(escaped(text)))
    _drop_empty(index.dialect_kwargs)


def _drop_empty(options: MutableMapping[str, Any]) -> None:
    for key in [key for key, value in options.items() if not _is_said(value)]:
        del options[key]


def _is_said(value: object) -> bool:
    """Whether an option is worth writing; clauses have no truth value."""
    return isinstance(value, sa.ClauseElement) or bool(value)


def _choose_serial(table: sa.Table, choices: Choices) -> None:
    """Make serial what is serial, and nothing else: by itself SQLAlchemy makes every single integer key so, and no other column."""
    key = list(table.primary_key.columns)
    for column in table.columns:
        is_key = key == [column] and isinstance(column.type, sa.Integer)
        if not choices.columns[table.name, column.name].is_serial:
            if is_key and column.identity is None:
                column.autoincrement = False
        elif not is_key:
            serial = {"smallint": "smallserial", "bigint": "bigserial"}.get(
                stored_type(column.type), "serial"
            )
            column.type, column.autoincrement = SQLType(serial), "auto"


def _operations(metadata: sa.MetaData, choices: Choices) -> list[MigrateOperation]:
    """Return the tables in the order of their foreign keys, each with its indexes; a key that closes a cycle comes last."""
    found: list[MigrateOperation] = []
    late: list[MigrateOperation] = []
    tables = sorted(metadata.tables.values(), key=lambda table: table.name)
    for table, foreign_keys in sort_tables_and_constraints(tables):  # type: ignore[no-untyped-call]
        if table is None:
            late = [
                ops.CreateForeignKeyOp.from_constraint(key)
                for key in sorted(foreign_keys, key=lambda key: (key.table.name, str(key.name)))
            ]
            continue
        create = ops.CreateTableOp.from_table(table)
        later = table.foreign_key_constraints - set(foreign_keys)
        create.columns = [item for item in create.columns if item not in later]
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        made: list[ops.CreateTableOp | ops.CreateIndexOp] = [
            create,
            *map(ops.CreateIndexOp.from_index, indexes),
        ]
        for operation in made:
            operation.kw = {key: value for key, value in operation.kw.items() if _is_said(value)}
        found += made
    return [*found, *late]


def _render(operations: list[MigrateOperation], *, is_empty: bool) -> str:
    if not operations:
        return "    pass\n" if is_empty else ""
    # Without %-placeholders: or every % of a literal would be doubled.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]

    def render_item(kind: str, item: object, context: object) -> str | Literal[False]:
        return repr(item) if isinstance(item, SQLType) else False

    code = render_python_code(
        ops.UpgradeOps(operations),
        migration_context=MigrationContext.configure(dialect=dialect),
        render_item=render_item,
    )
    lines = [line for line in code.splitlines() if not line.strip().startswith("#")]
    return textwrap.indent(textwrap.dedent("\n".join(lines)), "    ") + "\n"


def escaped(sql: str) -> str:
    """Return text that SQLAlchemy reads as ``sql``: none of its colons begins a parameter.

    What is written into the dump is read twice, now and when the dump is run.
    """
    return re.sub(r"(?<!:):(?!:)", r"\\:", sql)


def _has_dotted_target(constraint: sa.Constraint) -> bool:
    """Whether the name of a foreign key's target cannot be told from ``table.column``."""
    return isinstance(constraint, sa.ForeignKeyConstraint) and any(
        name is not None and "." in name for element in constraint.elements for name in element.target_tokens
    )
