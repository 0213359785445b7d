"""The integer migrator: section D of the case list."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from sequent_py.schema_migrations import choice
from sequent_py.schema_migrations.errors import (
    MissingMigrationFiles,
    NoMigrationFiles,
    NotCurrent,
    TrackingTableError,
)
from sequent_py.schema_migrations.files import Direction
from sequent_py.schema_migrations.integer import IntegerMigrator

FIXTURES = Path(__file__).parent / "fixtures"
THREE = ("001_a", "002_b", "003_c")


@pytest.mark.rows(109, 123, 128)
def test_the_tracking_table_is_made_on_first_use(db, files):
    assert choice.run(db.engine, files.tables("001_a"), 0) == 0
    (column,) = db.sql(
        "SELECT column_name, data_type, column_default, is_nullable FROM information_schema.columns"
        " WHERE table_name = 'schema_info'"
    )
    assert column == ("version", "integer", "0", "NO")
    assert db.sql("SELECT * FROM schema_info") == [(0,)]
    assert db.sql(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'schema_info'::regclass AND contype = 'p'"
    ) == [(0,)]
    assert db.tables == set()


@pytest.mark.rows(110, 111)
def test_table_column_and_schema_of_the_tracking_table(db, files):
    db.sql('CREATE SCHEMA "s c""h"')
    IntegerMigrator(db.engine, files.tables("001_a"), table="si", column="sic", schema='s c"h').run()
    assert db.sql('SELECT sic FROM "s c""h".si') == [(1,)]
    assert db.all_tables == {"a"}


@pytest.mark.rows(112)
def test_two_applications_share_a_table(db, directory_of):
    one, two = directory_of("one").tables("001_a", "002_b"), directory_of("two").tables("001_c", "002_d")
    IntegerMigrator(db.engine, one, column="app1").run(1)
    IntegerMigrator(db.engine, two, column="app2").run()
    assert db.sql("SELECT app1, app2 FROM schema_info") == [(1, 2)]
    IntegerMigrator(db.engine, two, column="app2").run(0)
    assert db.sql("SELECT app1, app2 FROM schema_info") == [(1, 0)]
    assert db.tables == {"a"}


@pytest.mark.rows(113)
def test_a_missing_column_is_added(db, files):
    db.sql("CREATE TABLE schema_info (other integer); INSERT INTO schema_info VALUES (7)")
    assert not choice.is_current(db.engine, files.tables("001_a"))
    choice.run(db.engine, files.path)
    assert db.sql("SELECT other, version FROM schema_info") == [(7, 1)]


@pytest.mark.rows(115)
def test_null_counts_as_zero(db, files):
    db.sql("CREATE TABLE schema_info (version integer); INSERT INTO schema_info VALUES (NULL)")
    assert choice.run(db.engine, files.tables(*THREE)) == 3
    assert (db.version, db.tables) == (3, {"a", "b", "c"})


@pytest.mark.rows(116)
def test_several_rows_are_an_error(db, files):
    db.sql("CREATE TABLE schema_info (version integer); INSERT INTO schema_info VALUES (1), (2)")
    files.tables(*THREE)
    for work in (choice.run, choice.is_current):
        with pytest.raises(TrackingTableError, match="More than 1 row in migrator table"):
            work(db.engine, files.path)
    assert db.sql("SELECT version FROM schema_info ORDER BY 1") == [(1,), (2,)]
    assert db.tables == set()


@pytest.mark.rows(117)
def test_a_deleted_row_counts_as_zero(db, files):
    choice.run(db.engine, files.tables("001_a"))
    db.sql("DELETE FROM schema_info")
    assert not choice.is_current(db.engine, files.path)
    assert db.sql("SELECT * FROM schema_info") == []
    assert choice.run(db.engine, files.path, 0) == 0
    assert db.version == 0


@pytest.mark.rows(118, 119, 121, 122, 123)
def test_up_down_and_nothing(db, files):
    migrator = IntegerMigrator(db.engine, files.tables(*THREE))
    assert migrator.run() == 3
    assert (db.version, db.tables) == (3, {"a", "b", "c"})
    assert migrator.migrate().is_empty
    assert migrator.run() == 3
    assert migrator.run(1) == 1
    assert (db.version, db.tables) == (1, {"a"})
    assert migrator.run(1) == 1
    assert migrator.run(0) == 0
    assert (db.version, db.all_tables) == (0, {"schema_info"})


@pytest.mark.rows(118, 121)
def test_versions_are_written_one_by_one(db, files):
    db.sql(
        "CREATE TABLE schema_info (version integer NOT NULL DEFAULT 0); INSERT INTO schema_info VALUES (0); CREATE TABLE seen (id serial, v int);"
        " CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen (v) VALUES (NEW.version); RETURN NEW; END';"
        " CREATE TRIGGER see AFTER UPDATE ON schema_info FOR EACH ROW EXECUTE FUNCTION see()"
    )
    choice.run(db.engine, files.tables(*THREE))
    choice.run(db.engine, files.path, 1)
    assert [row[0] for row in db.sql("SELECT v FROM seen ORDER BY id")] == [1, 2, 3, 2, 1]


@pytest.mark.rows(124, 125)
@pytest.mark.parametrize(("target", "reached"), [(100, 3), (-5, 0)])
def test_targets_are_clamped(db, files, target, reached):
    choice.run(db.engine, files.tables(*THREE), 2)
    assert choice.run(db.engine, files.path, target) == reached
    assert db.version == reached


@pytest.mark.rows(127)
@pytest.mark.parametrize("target", ["1", 1.0, True])
def test_a_target_is_a_whole_number(db, files, target):
    for work in (choice.run, choice.is_current):
        with pytest.raises(TypeError, match="target must be an int"):
            work(db.engine, files.tables("001_a"), target)
    assert db.all_tables == set()


@pytest.mark.rows(129, 130, 131, 133)
@pytest.mark.parametrize(
    ("start", "options", "reached"),
    [
        (0, {"relative": 2}, 2),
        (2, {"relative": -1}, 1),
        (2, {"relative": 0}, 2),
        (1, {"relative": 100}, 3),
        (3, {"relative": -200}, 0),
        (0, {"target": 1, "relative": 3}, 1),
    ],
)
def test_relative_targets(db, files, start, options, reached):
    choice.run(db.engine, files.tables(*THREE), start)
    assert choice.run(db.engine, files.path, **options) == reached
    assert (db.version, db.tables) == (reached, set("abc"[:reached]))


@pytest.mark.rows(134, 135)
def test_the_current_version_can_be_given(db, files, directory_of, other_db):
    db.sql("CREATE TABLE schema_info (version integer); INSERT INTO schema_info VALUES (1)")
    assert choice.run(db.engine, files.tables(*THREE), 3, current=2) == 3
    assert (db.version, db.tables) == (3, {"c"})

    choice.run(other_db.engine, files.path)
    assert choice.run(other_db.engine, files.path, 0, current=1) == 0
    assert (other_db.version, other_db.tables) == (0, {"b", "c"})


@pytest.mark.rows(142, 143)
def test_version_zero_is_never_run(db, files, directory_of):
    zero = directory_of("zero")
    zero.write({"000_x": "raise RuntimeError('loaded')"})
    assert choice.run(db.engine, zero.path) == 0
    assert choice.is_current(db.engine, zero.path)
    assert choice.run(db.engine, zero.tables("001_a")) == 1
    assert choice.run(db.engine, zero.path, 0) == 0
    assert db.tables == set()


@pytest.mark.rows(145, 146, 147, 148)
@pytest.mark.parametrize("options", [{}, {"target": 2}, {"allow_missing_migration_files": True}])
def test_an_empty_directory_is_an_error(db, files, options):
    files.write({"README.md": "", "1.py": ""})
    with pytest.raises(
        NoMigrationFiles, match=r"No target and/or latest version available, probably because .* It has 1\.py"
    ):
        choice.run(db.engine, files.path, **options)
    assert db.all_tables == set()


@pytest.mark.rows(149, 151, 152)
def test_a_database_ahead_of_the_files_is_an_error(db, files):
    choice.run(db.engine, files.tables(*THREE, "004_d"))
    files.remove("004_d")
    said = r"needed to migrate down to target version \(current: 4, target: 3\)"
    for work in (choice.run, choice.is_current, choice.check_current):
        with pytest.raises(MissingMigrationFiles, match=said):
            work(db.engine, files.path)
    with pytest.raises(MissingMigrationFiles, match="target: 1"):
        choice.run(db.engine, files.path, 1)
    assert (db.version, db.tables) == (4, {"a", "b", "c", "d"})
    for target in (3, 4, 5):
        with pytest.raises(MissingMigrationFiles):
            choice.run(db.engine, files.path, target, current=4)


@pytest.mark.rows(153, 155)
def test_gaps_are_skipped_if_allowed(db):
    options = {"allow_missing_migration_files": True}
    assert choice.run(db.engine, FIXTURES / "gap", **options) == 3
    assert (db.version, db.tables) == (3, {"a", "c"})
    assert choice.run(db.engine, FIXTURES / "gap", **options) == 3
    assert choice.run(db.engine, FIXTURES / "gap", 0, **options) == 0
    assert (db.version, db.tables) == (0, set())


@pytest.mark.rows(154, 159)
def test_a_database_ahead_stays_there_if_allowed(db, files):
    choice.run(db.engine, files.tables(*THREE))
    files.remove("002_b", "003_c")
    options = {"allow_missing_migration_files": True}
    assert choice.run(db.engine, files.path, **options) == 1
    assert (db.version, db.tables) == (3, {"a", "b", "c"})
    assert not choice.is_current(db.engine, files.path, **options)
    with pytest.raises(NotCurrent):
        choice.check_current(db.engine, files.path, **options)


@pytest.mark.rows(157, 158)
def test_with_files_missing_the_target_is_what_is_stored(db):
    """Sequel stores 2 where the target was 1, and 1 where it was 2."""
    options = {"allow_missing_migration_files": True}
    assert choice.run(db.engine, FIXTURES / "gap", 2, **options) == 2
    assert (db.version, db.tables) == (2, {"a"})
    assert choice.is_current(db.engine, FIXTURES / "gap", 2, **options)
    choice.run(db.engine, FIXTURES / "gap", **options)
    assert choice.run(db.engine, FIXTURES / "gap", 1, **options) == 1
    assert (db.version, db.tables) == (1, {"a"})
    assert choice.run(db.engine, FIXTURES / "gap", 2, **options) == 2
    assert choice.run(db.engine, FIXTURES / "gap", 1, **options) == 1
    assert (db.version, db.tables) == (1, {"a"})


@pytest.mark.rows(160, 161, 163)
def test_a_failure_going_up_keeps_what_came_before(db, files):
    with pytest.raises(ArithmeticError, match=r"^boom$"):
        choice.run(db.engine, FIXTURES / "fails_going_up")
    assert (db.version, db.tables) == (1, {"a"})
    assert choice.run(db.engine, files.tables(*THREE)) == 3
    assert db.tables == {"a", "b", "c"}


def test_a_failure_going_down_keeps_what_is_left(db):
    choice.run(db.engine, FIXTURES / "fails_going_down")
    with pytest.raises(ArithmeticError):
        choice.run(db.engine, FIXTURES / "fails_going_down", 0)
    assert (db.version, db.tables) == (1, {"a"})


@pytest.mark.rows(163)
def test_a_database_error_arrives_as_it_is(db):
    with pytest.raises(sa.exc.ProgrammingError) as raised:
        choice.run(db.engine, FIXTURES / "wrong_sql")
    assert type(raised.value.orig).__name__ == "SyntaxError"
    assert (db.version, db.tables) == (1, {"a"})


@pytest.mark.rows(164, 165, 166, 167, 169)
def test_questions_write_nothing(db, files):
    files.tables("001_a")
    assert not choice.is_current(db.engine, files.path)
    assert choice.is_current(db.engine, files.path, 0)
    with pytest.raises(
        NotCurrent, match=r"(?i)current migration version does not match latest available version"
    ):
        choice.check_current(db.engine, files.path)
    choice.status(db.engine, files.path)
    assert db.all_tables == set()
    choice.run(db.engine, files.path)
    before = db.dump()
    assert choice.is_current(db.engine, files.path)
    assert choice.check_current(db.engine, files.path) is None
    assert not choice.is_current(db.engine, files.path, 0)
    assert db.dump() == before


def test_questions_need_no_right_to_write(db, files):
    files.tables("001_a")
    with db.engine.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = on")
        connection.commit()
        assert not choice.is_current(connection, files.path)
        assert choice.status(connection, files.path).pending == ("001_a.py",)


@pytest.mark.rows(170)
def test_a_plan_is_a_value(db, files):
    migrator = IntegerMigrator(db.engine, files.tables("001_a"))
    plan = migrator.plan()
    assert (plan.current, plan.target, plan.direction) == (0, 1, Direction.UP)
    assert [step.file.name for step in plan.steps] == ["001_a.py"]
    assert [file.version for file in migrator.files] == [1]
    assert (migrator.table, migrator.column) == ("schema_info", "version")
    assert db.all_tables == set()


@pytest.mark.rows(251)
def test_a_migration_that_deletes_the_record_fails(db):
    """Sequel lets it, and loses the version."""
    with pytest.raises(TrackingTableError, match="version 2 was not recorded"):
        choice.run(db.engine, FIXTURES / "deletes_its_own_record")
    assert (db.version, db.tables) == (1, {"a"})
