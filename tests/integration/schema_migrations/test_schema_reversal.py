"""Reversible migrations: section C of the case list. Up, down, up leaves the same schema."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from sequent_py.schema_migrations import choice
from sequent_py.schema_migrations.errors import IrreversibleMigration, MissingObject
from sequent_py.schema_migrations.sql_log import SqlLog

FIXTURES = Path(__file__).parent / "fixtures"
HEAD = "import sqlalchemy as sa\n\n\ndef change(op):\n"
BASE = (
    "CREATE TABLE a (x integer, y integer, pp integer, name text, other text, g point, nn integer NOT NULL DEFAULT 1);"
    "CREATE TABLE b (id integer PRIMARY KEY, p integer, q integer, UNIQUE (p, q));"
    "CREATE TABLE artists (id integer PRIMARY KEY); CREATE TABLE albums (id bigint PRIMARY KEY)"
)


def change(body: str) -> str:
    return f"{HEAD}    {body}\n"


def rows(*numbers: int):
    return pytest.mark.rows(*numbers)


def case(name: str, body: str, *numbers: int):
    return pytest.param(body, id=name, marks=rows(*numbers))


def altering(*calls: str) -> str:
    return "with op.alter_table('a') as t:\n" + "\n".join(f"        t.{call}" for call in calls)


REVERSIBLE = [
    case("create_table", "op.create_table('t', sa.Column('id', sa.Integer, primary_key=True), sa.Column('n', sa.Text, index=True))", 52),
    case("create_table_options", "op.create_table('t', sa.Column('n', sa.Text), prefixes=['UNLOGGED'], if_not_exists=True)", 53),
    case("create_table_enum", "op.create_table('t', sa.Column('m', sa.Enum('x', 'y', name='mood')), sa.Column('l', sa.ARRAY(sa.Enum('z', name='mood2'))))", 93),
    case("join_table", "op.create_join_table(artist_id='artists', album_id={'table': 'albums', 'type': sa.BigInteger})", 55),
    case("join_table_options", "op.create_join_table({'name': 'artists', 'album_id': {'table': 'albums', 'type': sa.BigInteger}}, name='jt', no_index=True)", 56),
    case("view", "op.create_view('v', \"SELECT x, 'a:b%c' AS t FROM a WHERE x % 2 = 0\")", 58),
    case("view_of_select", "op.create_view('v', sa.select(sa.column('x')).select_from(sa.table('a')).where(sa.column('name') != ':q%'))", 58),
    case("materialized_view", "op.create_view('v', 'SELECT 1 AS one', materialized=True)", 59),
    case("add_column", "op.add_column('a', sa.Column('z', sa.Integer, server_default='3'))", 61),
    case("add_column_foreign_key", "op.add_column('a', sa.Column('z', sa.Integer, sa.ForeignKey('b.id'), unique=True))", 61),
    case("add_index", "op.add_index('a', 'x')", 62),
    case("add_index_options", "op.add_index('a', ['x', 'name'], unique=True, name='foo', where=\"name <> ':q' AND x % 2 = 0\", include='y')", 63),
    case("create_index", "op.create_index('ii', 'a', ['x', sa.text('lower(name)')])", 62),
    case("rename_column", "op.rename_column('a', 'x', 'xx')", 65),
    case("rename_table", "op.rename_table('a', 'aa')", 67),
    case("alter_add_column", altering("add_column('z', sa.Integer, nullable=False)"), 68),
    case("alter_add_column_index", altering("add_column('z', sa.Integer, index=True)"), 69),
    case("alter_add_constraint", altering("add_constraint('pos', \"x > 0 OR name = ':a' OR name LIKE '5%'\")"), 70, 71),
    case("alter_add_constraint_expression", altering("add_constraint('pos', sa.column('x') > 0)"), 70),
    case("create_check_constraint", "op.create_check_constraint('pos', 'a', \"name <> ':b'\")", 70),
    case("alter_add_foreign_key", altering("add_foreign_key('b_id', 'b')"), 74),
    case("alter_add_foreign_key_name", altering("add_foreign_key('b_id', 'b', name='fk')"), 75),
    case("alter_add_foreign_key_type", altering("add_foreign_key('b_id', 'b', type=sa.BigInteger, on_delete='CASCADE')"), 76),
    case("alter_add_foreign_keys_name", altering("add_foreign_key(['x'], 'b', name='fkn')"), 77),
    case("alter_add_foreign_keys", altering("add_foreign_key(['x'], 'b')"), 74, 77),
    case("alter_add_foreign_key_composite", altering("add_foreign_key(['x', 'pp'], 'b', key=['p', 'q'], deferrable=True)"), 79),
    case("alter_add_primary_key", altering("add_primary_key('id')"), 82),
    case("alter_add_index", altering("add_index(['x', 'y'])"), 62),
    case("full_text_index", altering("add_full_text_index('name')"), 85),
    case("full_text_index_of_two", "op.add_full_text_index('a', ['name', 'other'], language='english', name='ft')", 85),
    case("spatial_index", altering("add_spatial_index('g')"), 86),
    case("alter_rename_column", altering("rename_column('x', 'xx')"), 87),
    case("set_column_allow_null", altering("set_column_allow_null('nn')"), 88),
    case("set_column_allow_null_true", altering("set_column_allow_null('nn', True)"), 89),
    case("set_column_allow_null_false", altering("set_column_allow_null('x', False)"), 91),
    case("set_column_not_null", altering("set_column_not_null('x')"), 91),
    case("alter_column_nullable", "op.alter_column('a', 'x', nullable=False)", 91),
    case("alter_column_both", "op.alter_column('a', 'x', new_column_name='xx', nullable=False)", 65),
    case("batch_alter_table", "with op.batch_alter_table('a') as t:\n        t.add_column(sa.Column('z', sa.Integer))\n        t.create_check_constraint('c', \"name <> ':y'\")\n        t.alter_column('z', new_column_name='zz')", 51),
    case("create_enum", "op.create_enum('mood', ['sad', \"it's ok\", 'b\\\\s'])", 93),
    case("several", "op.create_table('t', sa.Column('a', sa.Integer))\n    op.add_index('t', 'a')\n    op.rename_column('t', 'a', 'b')\n    op.rename_table('t', 'u')", 50),
    case("alter_several", altering("add_column('z', sa.Integer)", "rename_column('z', 'zz')", "add_index('zz')"), 51),
]  # fmt: skip


@pytest.mark.parametrize("body", REVERSIBLE)
def test_up_down_up_leaves_the_same_schema(db, files, body):
    db.sql(BASE)
    choice.run(db.engine, files.write({"001_x": change(body)}), 0)
    before = db.dump()
    choice.run(db.engine, files.path)
    after = db.dump()
    assert after != before
    choice.run(db.engine, files.path, 0)
    assert db.dump() == before
    choice.run(db.engine, files.path)
    assert db.dump() == after


@pytest.mark.parametrize("body", REVERSIBLE)
def test_revert_does_what_down_does(db, files, directory_of, body):
    db.sql(BASE)
    choice.run(db.engine, files.write({"001_x": change(body)}))
    after = db.dump()
    reverting = directory_of("reverting").write({"001_x": change(body).replace("def change", "def revert")})
    choice.run(db.engine, reverting, table="another")
    choice.run(db.engine, reverting, 0, table="another")
    db.sql("DROP TABLE another")
    assert db.dump() == after


@rows(94)
def test_an_enum_is_renamed_back(db, files):
    db.sql("CREATE TYPE mood AS ENUM ('sad')")
    choice.run(db.engine, files.write({"001_x": change("op.rename_enum('mood', 'temper')")}))
    assert db.sql("SELECT count(*) FROM pg_type WHERE typname = 'temper'") == [(1,)]
    choice.run(db.engine, files.path, 0)
    assert db.sql("SELECT count(*) FROM pg_type WHERE typname = 'mood'") == [(1,)]


@rows(50, 52, 62, 65, 67)
def test_actions_are_reversed_in_reverse_order(db, files):
    body = "op.create_table('t', sa.Column('a', sa.Integer))\n    op.add_index('t', 'a')\n    op.rename_column('t', 'a', 'b')\n    op.rename_table('t', 'u')"
    choice.run(db.engine, files.write({"001_x": change(body)}))
    lines: list[str] = []
    choice.run(db.engine, files.path, 0, log=SqlLog([lines.append]))
    ran = [line.split("s) ")[1].strip() for line in lines if "s) " in line]
    assert ran == [
        "ALTER TABLE u RENAME TO t",
        "ALTER TABLE t RENAME b TO a",
        "DROP INDEX t_a_index",
        "DROP TABLE t",
        "UPDATE schema_info SET version=0",
    ]


@rows(55, 56, 57)
def test_names_of_a_join_table(db, files):
    db.sql("CREATE TABLE cats (id integer PRIMARY KEY); CREATE TABLE dogs (id integer PRIMARY KEY)")
    for references in ("dog_id='dogs', cat_id='cats'", "cat_id='cats', dog_id='dogs'"):
        choice.run(db.engine, files.write({"001_x": f"{HEAD}    op.create_join_table({references})\n"}))
        assert "cats_dogs" in db.tables
        assert db.sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'cats_dogs' ORDER BY indexname") == [
            ("CREATE INDEX cats_dogs_dog_id_cat_id_index ON public.cats_dogs USING btree (dog_id, cat_id)",),
            ("CREATE UNIQUE INDEX cats_dogs_pkey ON public.cats_dogs USING btree (cat_id, dog_id)",),
        ]
        assert db.sql(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'cats_dogs'::regclass AND contype = 'f'"
        ) == [(2,)]
        assert db.sql(
            "SELECT bool_and(attnotnull) FROM pg_attribute WHERE attrelid = 'cats_dogs'::regclass AND attnum > 0"
        ) == [(True,)]
        choice.run(db.engine, files.path, 0)


@rows(74, 76)
def test_a_foreign_key_column_goes_with_its_constraint(db, files):
    db.sql(BASE)
    choice.run(db.engine, files.write({"001_x": change(altering("add_foreign_key('b_id', 'b')"))}))
    assert db.sql("SELECT conname FROM pg_constraint WHERE conrelid = 'a'::regclass AND contype = 'f'") == [
        ("a_b_id_fkey",)
    ]
    choice.run(db.engine, files.path, 0)
    assert db.sql(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'a'::regclass AND attname = 'b_id'"
    ) == [(0,)]


@rows(80, 81)
@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        (
            "ALTER TABLE a ADD CONSTRAINT second FOREIGN KEY (x) REFERENCES b",
            r"Ambiguous foreign key for .*\(x\)",
        ),
        ("ALTER TABLE a DROP CONSTRAINT a_x_fkey", r"Missing foreign key for .*\(x\)"),
    ],
)
def test_a_foreign_key_without_a_name_is_looked_up(db, files, meddle, said):
    db.sql(BASE)
    body = altering("add_column('z', sa.Integer)", "add_foreign_key(['x'], 'b')")
    choice.run(db.engine, files.write({"001_x": change(body)}))
    db.sql(meddle)
    before = db.dump()
    with pytest.raises(MissingObject, match=said):
        choice.run(db.engine, files.path, 0)
    assert (db.dump(), db.version) == (before, 1)


@rows(83, 97, 98, 101, 73)
@pytest.mark.parametrize(
    ("body", "method"),
    [
        (altering("add_primary_key(['x'])"), "add_primary_key"),
        (altering("add_constraint(None, 'x > 0')"), "add_constraint"),
        (altering("drop_column('x')"), "drop_column"),
        (altering("drop_constraint('c')"), "drop_constraint"),
        (altering("drop_index('x')"), "drop_index"),
        (altering("drop_foreign_key(['y'])"), "drop_foreign_key"),
        (altering("set_column_type('x', sa.BigInteger)"), "set_column_type"),
        (altering("set_column_default('x', 3)"), "set_column_default"),
        (altering("set_column_default('nn', None)"), "set_column_default"),
        (altering("add_unique_constraint('x')"), "add_unique_constraint"),
        (altering("add_unique_constraint(['x', 'y'], name='u')"), "add_unique_constraint"),
        ("op.create_unique_constraint('u', 'a', ['x'])", "create_unique_constraint"),
        ("op.create_primary_key('k', 'a', ['x'])", "create_primary_key"),
        ("op.create_check_constraint(None, 'a', 'x > 0')", "create_check_constraint"),
        ("op.create_exclude_constraint('ex', 'a', ('x', '='), using='btree')", "create_exclude_constraint"),
        ("op.drop_table('artists')", "drop_table"),
        ("op.drop_index('a_x_index')", "drop_index"),
        ("op.drop_view('v')", "drop_view"),
        ("op.alter_column('a', 'x', type_=sa.BigInteger, existing_type=sa.Integer)", "alter_column"),
        ("op.alter_column('a', 'x', comment='c')", "alter_column"),
        ("op.create_table_comment('a', 'c')", "create_table_comment"),
        ("op.run('SELECT 1')", "run"),
        ("op.execute('SELECT 1')", "execute"),
        ("op.bulk_insert(sa.table('artists', sa.column('id')), [{'id': 1}])", "bulk_insert"),
        ("op.get_bind().execute(sa.text('SELECT 1'))", "get_bind"),
        ("op.drop_enum('mood')", "drop_enum"),
        ("op.drop_join_table(name='albums_artists', a='artists', b='albums')", "drop_join_table"),
    ],
)  # fmt: skip
def test_everything_else_is_irreversible_and_says_so(db, files, body, method):
    db.sql(
        f"{BASE}; ALTER TABLE a ADD CONSTRAINT c CHECK (x > 0); CREATE INDEX a_x_index ON a (x); CREATE VIEW v AS SELECT 1 AS one;"
        " CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE albums_artists (); ALTER TABLE a ADD FOREIGN KEY (y) REFERENCES b"
    )
    # A reversible step after it: nothing of the migration may run.
    choice.run(db.engine, files.write({"001_x": change(f"{body}\n    op.create_table('later')")}))
    before = db.dump()
    with pytest.raises(IrreversibleMigration) as raised:
        choice.run(db.engine, files.path, 0)
    assert f'irreversible migration method "{method}"' in str(raised.value)
    assert f"used in {files.path / '001_x.py'}, you may need to write your own down method" in str(
        raised.value
    )
    assert (db.dump(), db.version) == (before, 1)


@rows(99)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (altering("add_foreign_key(['x'])"), "unable to reverse migration due to TypeError"),
        ("raise ArithmeticError('once')", "unable to reverse migration due to ArithmeticError"),
    ],
)
def test_other_failures_while_recording(db, files, body, said):
    db.sql(BASE)
    choice.run(db.engine, files.write({"001_x": change("pass")}))
    files.write({"001_x": change(body)})
    with pytest.raises(IrreversibleMigration, match=said):
        choice.run(db.engine, files.path, 0)
    assert db.version == 1


@rows(100)
def test_a_read_of_the_database_makes_a_change_irreversible(db, files):
    body = "if op.get_bind().dialect.name == 'postgresql':\n        op.create_table('t')"
    choice.run(db.engine, files.write({"001_x": change(body)}))
    with pytest.raises(IrreversibleMigration, match="get_bind"):
        choice.run(db.engine, files.path, 0)
    assert (db.version, db.tables) == (1, {"t"})


@rows(92)
def test_reversing_can_fail_on_the_data(db, files):
    db.sql(BASE)
    choice.run(db.engine, files.write({"001_x": change(altering("set_column_allow_null('nn')"))}))
    db.sql("INSERT INTO a (nn) VALUES (NULL)")
    with pytest.raises(sa.exc.IntegrityError, match="NotNullViolation"):
        choice.run(db.engine, files.path, 0)
    assert db.version == 1
    assert db.sql(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'a'::regclass AND attname = 'nn'"
    ) == [(False,)]


@rows(95)
def test_an_empty_change_is_reversible(db, files):
    choice.run(db.engine, files.write({"001_x": change("pass")}))
    assert db.version == 1
    choice.run(db.engine, files.path, 0)
    assert db.version == 0


@rows(103)
def test_steps_above_an_irreversible_one_stay_undone(db):
    choice.run(db.engine, FIXTURES / "irreversible")
    with pytest.raises(IrreversibleMigration):
        choice.run(db.engine, FIXTURES / "irreversible", 0)
    assert (db.version, db.tables) == (2, {"a", "b"})


@rows(104)
def test_reverting_something_irreversible_fails_going_up(db, files):
    files.write({"001_x": change("op.run('SELECT 1')").replace("def change", "def revert")})
    with pytest.raises(IrreversibleMigration, match='"run"'):
        choice.run(db.engine, files.path)
    assert db.version == 0


@rows(82)
def test_a_primary_key_column_is_an_identity(db, files):
    db.sql(BASE)
    choice.run(db.engine, files.write({"001_x": change(altering("add_primary_key('id')"))}))
    assert db.sql(
        "SELECT attidentity::text, (SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = attrelid AND contype = 'p')"
        " FROM pg_attribute WHERE attrelid = 'a'::regclass AND attname = 'id'"
    ) == [("d", "PRIMARY KEY (id)")]


@rows(85, 86)
def test_what_full_text_and_spatial_indexes_are(db, files):
    db.sql(BASE)
    choice.run(
        db.engine,
        files.write(
            {"001_x": change(altering("add_full_text_index(['name', 'other'])", "add_spatial_index('g')"))}
        ),
    )
    definitions = [
        row[0] for row in db.sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'a' ORDER BY 1")
    ]
    assert definitions == [
        "CREATE INDEX a_g_index ON public.a USING gist (g)",
        "CREATE INDEX a_name_other_index ON public.a USING gin (to_tsvector('simple'::regconfig,"
        " ((COALESCE(name, ''::text) || ' '::text) || COALESCE(other, ''::text))))",
    ]


def test_sql_runs_exactly_as_written(db, files):
    text = (
        "def up(op):\n    op.run(\"CREATE TABLE t (v text); INSERT INTO t VALUES (':x'), ('100%'), ('a%sb'), ('12:30::x')\")\n"
        "    op.create_check_constraint('c', 't', \"v <> ':b' AND v NOT LIKE '%%zz'\")\n"
    )
    choice.run(db.engine, files.write({"001_x": text}))
    assert db.sql('SELECT v FROM t ORDER BY v COLLATE "C"') == [("100%",), ("12:30::x",), (":x",), ("a%sb",)]
    ((definition,),) = db.sql("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'c'")
    assert "':b'" in definition
    assert "'%%zz'" in definition


def test_the_same_statements_may_be_run_many_times(db, files):
    """A statement that was prepared by the driver could not hold several."""
    text = "def up(op):\n    op.run('CREATE TABLE t (v integer)')\n    for _ in range(12):\n        op.run('INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)')\n"
    choice.run(db.engine, files.write({"001_x": text}))
    assert db.sql("SELECT count(*) FROM t") == [(24,)]


def test_text_in_operations_has_no_parameters(db, files):
    """By itself SQLAlchemy writes 'NULL' for ':x' in definitions, without a word."""
    body = (
        "op.create_table('t', sa.Column('a', sa.Text, sa.CheckConstraint(\"a <> ':b'\"), server_default=sa.text(\"':c'\")),"
        " sa.Column('g', sa.Text, sa.Computed(\"a || ':d'\", persisted=True)), sa.CheckConstraint(\"a <> ':e'\", name='e'))\n"
        "    op.create_index('i', 't', [sa.text(\"(a || ':f')\")], postgresql_where=\"a <> ':g'\")\n"
        "    op.add_column('t', sa.Column('h', sa.Text, server_default=sa.text(\"':h'\")))\n"
        "    op.alter_column('t', 'h', server_default=sa.text(\"':i'\"))\n"
        "    with op.batch_alter_table('t') as t:\n        t.create_check_constraint('j', \"a <> ':j'\")"
    )
    choice.run(db.engine, files.write({"001_x": change(body)}))
    dump = db.dump()
    assert "NULL'" not in dump
    for letter in "bcdefgij":
        assert f"':{letter}'" in dump, letter
