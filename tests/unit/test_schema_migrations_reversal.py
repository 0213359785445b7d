"""What is reversed, without a database; and the text of dumps."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.operations import ops
from sqlalchemy.dialects import postgresql

from sequent_py.schema_migrations.ddl import SQLType, as_written
from sequent_py.schema_migrations.dump_types import column_type, stored_type
from sequent_py.schema_migrations.dumper import escaped
from sequent_py.schema_migrations.errors import IrreversibleMigration
from sequent_py.schema_migrations.reversal import Recorder, reverse, reversed_operations
from sequent_py.schema_migrations.sql_dump import for_one_transaction

PATH = Path("001_x.py")
REVERSIBLE = {
    "CreateTableOp", "AddColumnOp", "CreateIndexOp", "CreateViewOp", "CreateEnumOp", "RenameEnumOp", "RenameTableOp", "CreateCheckConstraintOp",
    "CreateForeignKeyOp", "AlterColumnOp",
}  # fmt: skip


def test_only_what_is_listed_is_ever_reversed():
    registered = {cls.__name__ for cls in reverse.registry} - {"object"}
    assert registered == REVERSIBLE


def test_every_operation_of_alembic_is_reversed_or_refused():
    """A new version of Alembic may bring operations; none of them is reversed unasked."""
    pending = [ops.MigrateOperation]
    found = set()
    while pending:
        for cls in pending.pop().__subclasses__():
            if cls not in found:
                found.add(cls)
                pending.append(cls)
    reversible = {cls.__name__ for cls in found if reverse.dispatch(cls) is not reverse.dispatch(object)}
    assert reversible == REVERSIBLE


def test_reversal_can_be_asked_for_twice():
    def change(op):
        op.create_table("t", sa.Column("a", sa.Integer))
        op.rename_table("t", "u")

    for _ in range(2):
        assert [type(op).__name__ for op in reversed_operations(change, PATH)] == [
            "RenameTableOp",
            "DropTableOp",
        ]


def test_a_recorded_table_can_be_used():
    def change(op):
        table = op.create_table("t", sa.Column("a", sa.Integer))
        assert table.c.a.name == "a"

    assert len(reversed_operations(change, PATH)) == 1


def test_the_outermost_verb_is_named():
    def change(op):
        with op.alter_table("a") as table:
            table.add_primary_key(["x"])

    with pytest.raises(IrreversibleMigration, match='irreversible migration method "add_primary_key" used'):
        reversed_operations(change, PATH)


def test_the_schema_of_the_event_store_is_known_while_recording():
    assert Recorder(event_store_schema='"s"').event_store_schema == '"s"'


SQL = [
    ":x",
    "a::text",
    "'12:30:00'",
    "x[1:2]",
    r"'\:z'",
    "q:z",
    "100%",
    "a := b",
    "':a:b:'",
    "'::t'",
    r"'\\:'",
    "plain",
]


@pytest.mark.parametrize("sql", SQL)
def test_escaped_text_compiles_to_what_it_was(sql):
    dialect = postgresql.dialect(paramstyle="named")
    once = str(sa.text(escaped(sql)).compile(dialect=dialect))
    assert once == sql
    twice = str(sa.text(escaped(escaped(sql))).compile(dialect=dialect))
    assert str(sa.text(twice).compile(dialect=dialect)) == sql


@pytest.mark.parametrize("sql", ["a <> ':b'", "a::text = ':c'", r"a <> '\:b'", "x[1:2] = 1"])
def test_a_check_written_as_text_has_no_parameters(sql):
    compiled = sa.schema.CreateTable(
        sa.Table("t", sa.MetaData(), sa.CheckConstraint(as_written(sql)))
    ).compile(dialect=postgresql.dialect())
    assert sql.replace("\\:", ":") in str(compiled)


EXACT = [
    "smallint", "integer", "bigint", "numeric", "numeric(5,2)", "numeric(5,-2)", "real", "double precision", "boolean", "text", "character varying",
    "character varying(60)", "character(4)", "date", "timestamp without time zone", "timestamp(3) with time zone", "time(2) without time zone", "interval",
    "interval day to second", "interval(3)", "uuid", "json", "jsonb", "bytea", "inet", "xml", '"char"', "name", "money", "bit(3)", "bit varying(5)", "integer[]",
    "character varying(10)[]", "mood", '"Quoted Enum"', "other.mood", "int4range",
]  # fmt: skip


@pytest.mark.parametrize("sql", EXACT)
def test_exact_types_are_stored_as_they_were(sql):
    assert stored_type(column_type(sql, "exact")) == sql


@pytest.mark.parametrize("sql", EXACT)
def test_portable_types_are_sqlalchemys_own(sql):
    kind = column_type(sql, "portable")
    assert not isinstance(kind, SQLType)
    assert type(kind).__module__.startswith("sqlalchemy.sql")


def test_a_script_of_pg_dump_leaves_no_setting_behind():
    body = "CREATE FUNCTION f() AS $$\nUPDATE t\nSET x = 1;\nSET lock_timeout_like = 0;\n\\restrict\n$$;\n"
    script = (
        "\\restrict abc\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET default_tablespace = '';\n"
        "SELECT pg_catalog.set_config('search_path', '', false);\n" + body + "\\unrestrict abc\n"
    )
    assert for_one_transaction(script) == (
        "SET LOCAL lock_timeout = 0;\nSET LOCAL default_tablespace = '';\n"
        "SELECT pg_catalog.set_config('search_path', '', true);\n" + body
    )
