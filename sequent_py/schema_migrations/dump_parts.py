"""What of a table a dump leaves out, or can only say approximately. Pure: from catalog rows to decisions and their reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from sequent_py.schema_migrations.ddl import SQLType
from sequent_py.schema_migrations.dump_types import Types, column_type, stored_type

TABLE_NOTES = {
    "is_partitioned": "is partitioned; dumped as a plain table",
    "is_partition": "is a partition; dumped as a plain table",
    "inherits": "inherits from another; dumped as a plain table",
    "is_typed": "is of a composite type; dumped as a plain table",
    "is_unlogged": "is unlogged; dumped as logged",
    "has_replica_identity": "has a replica identity, which is not dumped",
    "has_row_security": "has row-level security, which is not dumped",
    "has_tablespace": "is in a tablespace, which is not dumped",
    "has_grants": "has grants, which are not dumped",
}
COLUMN_NOTES = {
    "has_storage": "has a storage mode, which is not dumped",
    "has_compression": "has a compression method, which is not dumped",
    "has_statistics_target": "has a statistics target, which is not dumped",
    "has_grants": "has grants, which are not dumped",
}
PART_NAMES = {
    "c": "check constraint",
    "f": "foreign key",
    "p": "primary key",
    "u": "unique constraint",
    "x": "exclusion constraint",
    "i": "index",
    "default": "default of column",
    "generated": "generation of column",
}

SIMPLE_INDEX = re.compile(
    r'.* USING btree \((?:\w+|"(?:[^"]|"")+")(?:, (?:\w+|"(?:[^"]|"")+"))*\)', re.DOTALL
)
SIMPLE_DEFAULT = re.compile(r"('(?:[^']|'')*'|-?[0-9.]+|true|false)(?:::[^']+)?")
NEXTVAL = re.compile(r"nextval\('.*'::regclass\)", re.DOTALL)


class TableRow(Protocol):
    """A row of ``tables.sql``."""

    oid: int
    name: str


@dataclass(slots=True)
class ColumnChoice:
    """How one column is written."""

    type: sa.types.TypeEngine[Any]
    is_changed: bool = False
    """The database's type and the dump's differ, so that an expression over the column may not fit any more."""
    default: str | None = None
    is_serial: bool = False
    is_generated: bool = False


@dataclass(slots=True)
class Choices:
    """Everything that is decided before the tables are reflected."""

    columns: dict[tuple[str, str], ColumnChoice] = field(default_factory=dict)
    dropped: set[tuple[str, str]] = field(default_factory=set)
    """Table and name of the constraints and indexes that are left out."""
    deferrable: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """Unique constraints that are deferrable, and what they are initially: reflection does not say."""
    notes: list[str] = field(default_factory=list)


def choose(
    tables: Iterable[Any],
    columns: Iterable[Any],
    parts: Sequence[Any],
    plain_sequences: Mapping[str, Any],
    types: Types,
) -> Choices:
    """Decide on the rows of ``tables.sql``, ``columns.sql``, ``parts.sql`` and ``sequences.sql``."""
    choices = Choices()
    for table in tables:
        choices.notes += [
            f"table {table.name} {text}" for key, text in TABLE_NOTES.items() if getattr(table, key)
        ]
    defaults = {(part.table_name, part.name): part for part in parts if part.kind == "default"}
    for column in columns:
        _choose_column(
            choices, column, defaults.get((column.table_name, column.name)), plain_sequences, types
        )
    for part in parts:
        _choose_part(choices, part)
    return choices


def _choose_column(
    choices: Choices, column: Any, default: Any, plain_sequences: Mapping[str, Any], types: Types
) -> None:
    key = (column.table_name, column.name)
    label = f"column {column.table_name}.{column.name}"
    choices.notes += [f"{label} {text}" for name, text in COLUMN_NOTES.items() if getattr(column, name)]
    choice = ColumnChoice(*_type_of(choices, column, label, types))
    choices.columns[key] = choice
    if default is None:
        return
    if (
        column.sequence
        and not column.is_identity
        and NEXTVAL.fullmatch(default.definition)
        and not default.uses
    ):
        _choose_serial(choices, column, choice, label, plain_sequences)
    else:
        choice.default = default.definition


def _type_of(
    choices: Choices, column: Any, label: str, types: Types
) -> tuple[sa.types.TypeEngine[Any], bool]:
    sql: str = column.type_sql
    if column.is_domain and column.has_plain_base:
        choices.notes.append(f"{label}: domain {sql} is dumped as {column.base_sql}")
        written = column_type(column.base_sql, types)
        return written, stored_type(written) != column.base_sql
    if column.is_enum and types == "portable":
        choices.notes.append(f"{label}: enum {sql} is dumped as text")
        return sa.Text(), True
    if column.is_user_defined and not column.is_enum:
        choices.notes.append(f"{label}: type {sql} is dumped as text")
        return sa.Text(), True
    written = column_type(sql, types)
    is_changed = stored_type(written) != sql
    if is_changed:
        choices.notes.append(f"{label}: {sql} is dumped as {stored_type(written)}")
    if column.collation:
        if types == "portable" or column.has_own_collation:
            choices.notes.append(f"{label}: collation {column.collation} is not dumped")
        else:
            written = SQLType(f"{sql} COLLATE {column.collation}")
    return written, is_changed


def _choose_serial(
    choices: Choices, column: Any, choice: ColumnChoice, label: str, plain_sequences: Mapping[str, Any]
) -> None:
    sequence = plain_sequences.get(column.sequence)
    if sequence is None or sequence.type_sql != column.type_sql or not column.is_not_null:
        choices.notes.append(
            f"{label}: default from sequence {column.sequence}, which has options of its own, is not dumped"
        )
        return
    choice.is_serial = True
    if sequence.plain_name != f"{column.table_name}_{column.name}_seq":
        choices.notes.append(f"{label}: its sequence {column.sequence} gets the name that serial gives it")


def _choose_part(choices: Choices, part: Any) -> None:
    label = f"{PART_NAMES[part.kind]} {part.name} of table {part.table_name}"
    reason = _why_not(choices, part)
    key = (part.table_name, part.name)
    if part.kind in ("default", "generated"):
        choice = choices.columns[key]
        choice.is_generated = part.kind == "generated" and reason is None
        if part.kind == "default" and choice.default is not None and choice.is_changed and reason is None:
            choice.default = _changed_default(part.definition, choice.type)
            reason = None if choice.default else "its type is changed"
        if reason is not None:
            choice.default = None
    elif reason is not None:
        choices.dropped.add(key)
    if reason is not None:
        choices.notes.append(f"{label}: {reason}")
    elif part.kind == "u" and _says(part.definition, "DEFERRABLE"):
        choices.deferrable[key] = "DEFERRED" if _says(part.definition, "INITIALLY DEFERRED") else None
    elif note := _approximation(part):
        choices.notes.append(f"{label}: {note} is not dumped")


def _changed_default(definition: str, kind: sa.types.TypeEngine[Any]) -> str | None:
    """Return a constant as a default for another type; None where there is no telling whether it fits."""
    if definition in ("now()", "CURRENT_TIMESTAMP", "CURRENT_DATE"):
        return definition if isinstance(kind, sa.DateTime | sa.Date) else None
    if (constant := SIMPLE_DEFAULT.fullmatch(definition)) is None:
        return None
    # With the cast that the server would add: a dump of the dump's result says the same.
    return f"{constant[1]}::{stored_type(kind)}" if constant[1].startswith("'") else constant[1]


def _why_not(choices: Choices, part: Any) -> str | None:
    if part.kind == "x":
        return "exclusion constraints are not dumped"
    if part.uses:
        return f"needs {', '.join(sorted(part.uses))}"
    if part.kind == "i" and part.definition.endswith(" INVALID"):
        return "it is invalid"
    changed = [
        choices.columns[part.table_name, name]
        for name in {*part.columns, *([part.name] if part.kind == "generated" else [])}
        if choices.columns[part.table_name, name].is_changed
    ]
    if not changed:
        return None
    if part.kind in ("c", "generated") or (part.kind == "i" and not SIMPLE_INDEX.fullmatch(part.definition)):
        return "the type of a column is changed"
    if part.kind in ("i", "p", "u", "f") and any(isinstance(column.type, sa.JSON) for column in changed):
        return "the type of a column is changed to one that cannot be compared"
    return None


def _approximation(part: Any) -> str | None:
    """Return the option of a dumped constraint or index that a dump cannot say."""
    definition: str = part.definition
    options = {
        "c": ("NO INHERIT", "NOT VALID", "NOT ENFORCED"),
        "f": ("NOT VALID", "NOT ENFORCED"),
        "p": ("INCLUDE", "DEFERRABLE", "WITHOUT OVERLAPS"),
        "u": ("WITHOUT OVERLAPS",),
        "i": (" COLLATE ",),
    }
    found = [option.strip() for option in options.get(part.kind, ()) if _says(definition, option)]
    return ", ".join(found) or None


def _says(definition: str, option: str) -> bool:
    # Outside of quotes only: a check may well compare with 'NOT VALID'.
    return option in re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", "", definition)
