"""The timestamp migrator and the way to it: sections E and F of the case list."""

from __future__ import annotations

from pathlib import Path

import pytest

from sequent_py.schema_migrations import choice
from sequent_py.schema_migrations.errors import (
    BrokenMigrationFile,
    InvalidMigrationsDirectory,
    MissingMigrationFiles,
    NotCurrent,
    TrackingTableError,
)
from sequent_py.schema_migrations.files import Direction
from sequent_py.schema_migrations.timestamp import TimestampMigrator

FIXTURES = Path(__file__).parent / "fixtures"
THREE = ("1273253849_a", "1273253851_b", "1273253853_c")
TRACE = "def up(op):\n    op.run(\"INSERT INTO trace (name) VALUES ('{0}')\")\n\n\ndef down(op):\n    op.run(\"INSERT INTO trace (name) VALUES ('-{0}')\")\n"


def recorded(*names: str) -> list[str]:
    return [f"{name}.py" for name in names]


@pytest.mark.rows(171, 172, 188)
def test_each_file_is_recorded_by_name(db, files):
    assert choice.run(db.engine, files.tables("1273253849_a", "1273253851_b", "1273253853_3_c")) is None
    assert db.filenames == recorded("1273253849_a", "1273253851_b", "1273253853_3_c")
    (column,) = db.sql(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 'schema_migrations'"
    )
    assert column == ("filename", "text", "NO")
    assert db.sql(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'schema_migrations'::regclass AND contype = 'p'"
    ) == [("PRIMARY KEY (filename)",)]
    assert choice.run(db.engine, files.path) is None
    assert choice.run(db.engine, files.path, 0) is None


@pytest.mark.rows(173)
def test_names_are_compared_in_lower_case(db, files):
    files.write(
        {
            "1273253849_CREATE_A.PY": "def up(op):\n    op.create_table('a')\n\n\ndef down(op):\n    op.drop_table('a')\n"
        }
    )
    choice.run(db.engine, files.path)
    assert db.filenames == ["1273253849_create_a.py"]
    (files.path / "1273253849_CREATE_A.PY").rename(files.path / "1273253849_create_a.py")
    assert choice.is_current(db.engine, files.path)
    choice.run(db.engine, files.path, 0)
    assert (db.filenames, db.tables) == ([], set())


@pytest.mark.rows(175, 176, 177, 178)
def test_targets(db, files):
    choice.run(db.engine, files.tables(*THREE), 1273253851)
    assert (db.filenames, db.tables) == (recorded(*THREE[:2]), {"a", "b"})
    choice.run(db.engine, files.path, 1273253850)
    assert (db.filenames, db.tables) == (recorded(*THREE[:1]), {"a"})
    choice.run(db.engine, files.path, 0)
    assert (db.filenames, db.all_tables) == ([], {"schema_migrations"})


@pytest.mark.rows(179)
@pytest.mark.parametrize(("target", "tables"), [(-1, set()), (99999999999999, {"a", "b", "c"})])
def test_targets_beyond_the_ends(db, files, target, tables):
    choice.run(db.engine, files.tables(*THREE), 1273253849)
    choice.run(db.engine, files.path, target)
    assert db.tables == tables


def test_a_target_is_a_whole_number(db, files):
    with pytest.raises(TypeError):
        choice.run(db.engine, files.tables(*THREE), "1273253849")
    assert db.all_tables == set()


@pytest.mark.rows(181, 182, 183, 201, 202)
def test_interleaved_files(db, files):
    choice.run(db.engine, files.tables(*THREE))
    assert choice.is_current(db.engine, files.path)
    assert not choice.is_current(db.engine, files.path, 1273253851)
    files.tables("1273253850_d", "1273253852_e")
    assert not choice.is_current(db.engine, files.path)
    with pytest.raises(NotCurrent, match=r"2 migrations to run, next 1273253850_d\.py up"):
        choice.check_current(db.engine, files.path)
    choice.run(db.engine, files.path, 1273253851)
    assert db.tables == {"a", "b", "d"}
    choice.run(db.engine, files.path, 0)
    assert db.tables == set()
    choice.run(db.engine, files.path)
    assert len(db.filenames) == 5


@pytest.mark.rows(184, 185)
def test_equal_versions_are_ordered_by_the_rest_of_the_name(db, files):
    db.sql("CREATE TABLE trace (id serial, name text)")
    files.write({f"1273253853_{name}": TRACE.format(name) for name in "zam"})
    choice.run(db.engine, files.path)
    assert db.filenames == recorded("1273253853_a", "1273253853_m", "1273253853_z")
    choice.run(db.engine, files.path, 1273253853)
    choice.run(db.engine, files.path, 1273253849)
    assert [row[0] for row in db.sql("SELECT name FROM trace ORDER BY id")] == [
        "a",
        "m",
        "z",
        "-z",
        "-m",
        "-a",
    ]


@pytest.mark.rows(187)
def test_small_versions_may_repeat_and_have_gaps(db, files):
    choice.run(db.engine, files.tables("001_a", "001_b", "005_e", "20200101_d"))
    assert db.tables == {"a", "b", "e", "d"}


@pytest.mark.rows(189)
def test_a_failure_going_up(db):
    with pytest.raises(ArithmeticError, match="boom"):
        choice.run(db.engine, FIXTURES / "timestamp_fails_going_up")
    assert (db.filenames, db.tables) == (recorded("1273253849_a"), {"a"})


@pytest.mark.rows(190)
def test_a_failure_going_down(db):
    directory = FIXTURES / "timestamp_fails_going_down"
    choice.run(db.engine, directory)
    with pytest.raises(ArithmeticError, match="never"):
        choice.run(db.engine, directory, 0)
    assert (db.filenames, db.tables) == (recorded("1273253849_a"), {"a"})


@pytest.mark.rows(191, 193)
def test_a_recorded_file_that_is_missing_is_an_error(db, files):
    choice.run(db.engine, files.tables(*THREE))
    files.remove("1273253851_b")
    said = r"Applied migration files not in file system: 1273253851_b\.py"
    for work in (choice.run, choice.is_current, choice.check_current, choice.status):
        with pytest.raises(MissingMigrationFiles, match=said):
            work(db.engine, files.path)
    with pytest.raises(MissingMigrationFiles, match=said):
        choice.run(db.engine, files.path, 0)
    assert (db.filenames, db.tables) == (recorded(*THREE), {"a", "b", "c"})


@pytest.mark.rows(194, 195)
def test_a_missing_file_can_be_allowed(db, files):
    options = {"allow_missing_migration_files": True}
    choice.run(db.engine, files.tables(*THREE))
    files.remove("1273253851_b")
    choice.run(db.engine, files.tables("1273253855_d"), **options)
    assert db.filenames == recorded(*THREE, "1273253855_d")
    assert choice.is_current(db.engine, files.path, **options)
    choice.run(db.engine, files.path, 0, **options)
    assert (db.filenames, db.tables) == (recorded("1273253851_b"), {"b"})
    assert choice.is_current(db.engine, files.path, 0, **options)


@pytest.mark.rows(196, 197)
def test_table_and_column(db, files):
    options = {"table": "sm", "column": "fn"}
    choice.run(db.engine, files.tables(*THREE), **options)
    assert db.sql("SELECT fn FROM sm ORDER BY 1") == [(name,) for name in recorded(*THREE)]
    with pytest.raises(Exception, match="already exists"):
        choice.run(db.engine, files.path, table="another")
    choice.run(db.engine, files.path, 0, **options)
    assert db.sql("SELECT fn FROM sm") == []


@pytest.mark.rows(199)
def test_relative_and_current_are_ignored(db, files):
    choice.run(db.engine, files.tables(*THREE))
    choice.run(db.engine, files.path, relative=-1)
    choice.run(db.engine, files.path, 1273253853, current=0)
    assert db.tables == {"a", "b", "c"}


@pytest.mark.rows(200)
def test_an_empty_directory_has_nothing_to_do(db, files):
    TimestampMigrator(db.engine, files.path).run()
    assert (db.all_tables, db.filenames) == ({"schema_migrations"}, [])


@pytest.mark.rows(203)
def test_two_developers_on_one_day(db, files):
    choice.run(db.engine, files.tables("20100512_do_that_b"))
    choice.run(db.engine, files.tables("20100512_do_this_a"))
    assert db.filenames == recorded("20100512_do_that_b", "20100512_do_this_a")


@pytest.mark.rows(205)
def test_a_plan_is_a_value(db, files):
    migrator = TimestampMigrator(db.engine, files.tables(THREE[0]))
    ((file, direction),) = [(step.file.name, step.direction) for step in migrator.plan().steps]
    assert (file, direction) == ("1273253849_a.py", Direction.UP)
    assert migrator.applied() == ()
    assert db.all_tables == set()


@pytest.mark.rows(206, 207, 208, 209)
def test_a_single_file_up_and_down(db, files):
    files.tables(*THREE)
    choice.run_single(db.engine, files.path / "1273253851_b.py")
    choice.run_single(db.engine, files.path / "1273253851_b.py")
    assert (db.filenames, db.tables) == (recorded("1273253851_b"), {"b"})
    choice.run_single(db.engine, files.path / "1273253849_a.py", "down")
    choice.run_single(db.engine, files.path / "1273253849_a.py", "up")
    assert db.tables == {"a", "b"}
    choice.run_single(db.engine, files.path / "1273253849_a.py", Direction.DOWN)
    assert (db.filenames, db.tables) == (recorded("1273253851_b"), {"b"})


@pytest.mark.rows(211)
def test_a_single_file_must_be_there(db, files):
    with pytest.raises(InvalidMigrationsDirectory, match="Must supply a valid migration path"):
        choice.run_single(db.engine, "/nonexistent/1273253849_a.py")
    for name in ("1273253849_a.py", "create.py"):
        with pytest.raises(BrokenMigrationFile):
            choice.run_single(db.engine, files.path / name)
    assert db.tables == set()


@pytest.mark.rows(212, 214)
def test_a_single_file_in_other_bookkeeping(db, files):
    choice.run_single(db.engine, files.tables("001_a") / "001_a.py", table="sm", column="fn")
    assert db.sql("SELECT fn FROM sm") == [("001_a.py",)]


@pytest.mark.rows(213)
def test_a_single_file_that_fails_leaves_nothing(db):
    with pytest.raises(ArithmeticError):
        choice.run_single(db.engine, FIXTURES / "timestamp_fails_going_up" / "1273253851_b.py")
    assert (db.filenames, db.tables) == ([], set())


@pytest.mark.rows(215)
def test_a_single_file_is_loaded_alone(db, files):
    """Sequel loads every pending file."""
    files.tables(*THREE)
    files.write({"1273253849_a": "raise RuntimeError('loaded')"})
    choice.run_single(db.engine, files.path / "1273253851_b.py")
    assert db.tables == {"b"}


@pytest.mark.rows(217, 220, 221)
def test_the_first_timestamp_run_takes_the_integers_over(db, files):
    integers = ("001_a", "002_b", "003_c")
    choice.run(db.engine, files.tables(*integers))
    choice.run(db.engine, files.tables("1273253850_d", "1273253852_e"))
    assert db.filenames == recorded(*integers, "1273253850_d", "1273253852_e")
    assert db.version == 3
    choice.run(db.engine, files.path, 4)
    assert (db.filenames, db.tables) == (recorded(*integers), {"a", "b", "c"})
    choice.run(db.engine, files.path, 0)
    assert (db.filenames, db.tables, db.version) == ([], set(), 3)


@pytest.mark.rows(218)
def test_only_applied_integers_are_taken_over(db, files):
    choice.run(db.engine, files.tables("001_a", "002_b"))
    choice.run(db.engine, files.tables("003_c", "1273253850_d"))
    assert db.tables == {"a", "b", "c", "d"}


@pytest.mark.rows(219)
def test_taking_over_with_a_small_target(db, files):
    choice.run(db.engine, files.tables("001_a"))
    choice.run(db.engine, files.tables("002_b", "003_c", "1273253850_d"), 2)
    assert (db.filenames, db.tables) == (recorded("001_a", "002_b"), {"a", "b"})
    choice.run(db.engine, files.path)
    assert db.tables == {"a", "b", "c", "d"}


@pytest.mark.rows(223)
@pytest.mark.parametrize(
    "bookkeeping",
    [
        "CREATE TABLE schema_info (version integer, other integer); INSERT INTO schema_info VALUES (1, 1)",
        "CREATE TABLE schema_info (v integer); INSERT INTO schema_info VALUES (1)",
        "CREATE TABLE schema_info (version integer); INSERT INTO schema_info VALUES (1), (1)",
        "CREATE TABLE schema_info (version integer); INSERT INTO schema_info VALUES (NULL)",
        "CREATE TABLE schema_info (version text); INSERT INTO schema_info VALUES ('1')",
    ],
)
def test_other_tables_are_not_taken_over(db, files, bookkeeping):
    db.sql(f"{bookkeeping}; CREATE TABLE a (a integer)")
    with pytest.raises(Exception, match='relation "a" already exists'):
        choice.run(db.engine, files.tables("001_a", "1273253850_d"))
    assert db.filenames == []


@pytest.mark.rows(224)
def test_integer_bookkeeping_elsewhere_is_not_looked_at(db, files):
    choice.run(db.engine, files.tables("001_a"), table="si")
    with pytest.raises(Exception, match="already exists"):
        choice.run(db.engine, files.tables("1273253850_d"))


@pytest.mark.rows(225)
def test_an_integer_file_that_is_missing_is_not_taken_over(db, files):
    choice.run(db.engine, files.tables("001_a", "002_b", "003_c"))
    files.remove("002_b", "003_c")
    choice.run(db.engine, files.tables("1273253850_d"))
    assert db.filenames == recorded("001_a", "1273253850_d")


@pytest.mark.rows(226)
def test_asking_takes_nothing_over(db, files):
    """Sequel converts when asked whether it is current."""
    choice.run(db.engine, files.tables("001_a"))
    files.tables("1273253850_d")
    assert not choice.is_current(db.engine, files.path)
    assert [file.name for file in TimestampMigrator(db.engine, files.path).plan().converted] == ["001_a.py"]
    assert db.all_tables == {"a", "schema_info"}


@pytest.mark.rows(227)
def test_the_timestamp_migrator_takes_over_an_integer_directory(db, files):
    choice.run(db.engine, files.tables("001_a", "002_b", "003_c"))
    assert TimestampMigrator(db.engine, files.path).is_current()
    TimestampMigrator(db.engine, files.path).run()
    assert db.filenames == recorded("001_a", "002_b", "003_c")


@pytest.mark.rows(229)
def test_going_back_to_integers_uses_the_old_number(db, files):
    """A documented hazard."""
    choice.run(db.engine, files.tables("001_a", "002_b", "003_c"))
    TimestampMigrator(db.engine, files.path).run(2)
    assert choice.run(db.engine, files.path) == 3
    assert db.tables == {"a", "b"}


@pytest.mark.rows(230)
def test_what_was_taken_over_stays_if_a_migration_fails(db, files):
    choice.run(db.engine, files.tables("001_a"))
    files.write({"1273253850_d": "def up(op):\n    raise ArithmeticError\n"})
    with pytest.raises(ArithmeticError):
        choice.run(db.engine, files.path)
    assert db.filenames == recorded("001_a")


def test_a_migration_that_deletes_its_row_fails(db, files):
    text = "def up(op):\n    op.create_table('a')\n\n\ndef down(op):\n    op.run('DROP TABLE a; DELETE FROM schema_migrations')\n"
    choice.run(db.engine, files.write({"20200101_a": text}))
    with pytest.raises(TrackingTableError, match="has lost its row"):
        choice.run(db.engine, files.path, 0)
    assert (db.filenames, db.tables) == (["20200101_a.py"], {"a"})
