"""Which migrator, which files, and what a file must be: rows of section A and B of the case list."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from sequent_py.schema_migrations import choice
from sequent_py.schema_migrations.errors import (
    BrokenMigrationFile,
    DuplicateMigrationVersion,
    InvalidMigrationsDirectory,
    IrreversibleMigration,
    MigrationVersionTooLarge,
    MissingMigrationVersion,
)
from sequent_py.schema_migrations.integer import IntegerMigrator
from sequent_py.schema_migrations.timestamp import TimestampMigrator

FIXTURES = Path(__file__).parent / "fixtures"
TRACE = "def up(op):\n    op.run(\"INSERT INTO trace (name) VALUES ('{0}')\")\n\n\ndef down(op):\n    op.run(\"INSERT INTO trace (name) VALUES ('-{0}')\")\n"


@pytest.mark.rows(1, 2)
def test_the_path_must_be_a_directory(db, files):
    files.tables("001_a")
    for path in ("/nonexistent", files.path / "001_a.py"):
        with pytest.raises(InvalidMigrationsDirectory, match="Must supply a valid migration path"):
            choice.run(db.engine, path)
    assert db.all_tables == set()


@pytest.mark.rows(3)
def test_timestamps_are_chosen_above_the_boundary(db, files):
    choice.run(db.engine, files.tables("20000102_a"))
    assert db.all_tables == {"a", "schema_migrations"}
    assert db.filenames == ["20000102_a.py"]


@pytest.mark.rows(4)
def test_integers_are_chosen_otherwise(db, files):
    choice.run(db.engine, files.tables("001_a"))
    assert db.all_tables == {"a", "schema_info"}
    assert db.version == 1


@pytest.mark.rows(5)
def test_the_boundary_itself_is_an_integer_version(db):
    """Sequel refuses it in both modes; here it is a large integer, and so has a gap below it."""
    assert choice.migrator_class(FIXTURES / "boundary") is IntegerMigrator
    with pytest.raises(MissingMigrationVersion, match="Missing migration version: 1"):
        choice.run(db.engine, FIXTURES / "boundary")
    assert db.all_tables == set()
    assert choice.run(db.engine, FIXTURES / "boundary", allow_missing_migration_files=True) == 20000101


@pytest.mark.rows(7)
def test_one_timestamp_makes_all_files_timestamps(db, files):
    choice.run(db.engine, files.tables("001_a", "002_b", "003_c", "1273253850_d"))
    assert db.filenames == ["001_a.py", "002_b.py", "003_c.py", "1273253850_d.py"]
    assert "schema_info" not in db.all_tables


@pytest.mark.rows(8)
def test_the_integer_migrator_refuses_timestamps(db):
    with pytest.raises(MigrationVersionTooLarge, match=r"must use TimestampMigrator: 1273253849_a\.py"):
        IntegerMigrator(db.engine, FIXTURES / "too_large").run()
    assert db.all_tables == set()


@pytest.mark.rows(9)
def test_the_timestamp_migrator_takes_integers(db, files):
    db.sql("CREATE TABLE trace (id serial, name text)")
    files.write({f"00{n}_{name}": TRACE.format(name) for n, name in enumerate("abc", start=1)})
    TimestampMigrator(db.engine, files.path).run()
    assert db.filenames == ["001_a.py", "002_b.py", "003_c.py"]
    assert [row[0] for row in db.sql("SELECT name FROM trace ORDER BY id")] == ["a", "b", "c"]


@pytest.mark.rows(10, 16)
def test_other_names_are_ignored(db, files):
    raising = "raise RuntimeError('loaded')\n"
    names = ["create.py", "1.py", "2_x.txt", "abc_1.py", "3-x.py", "4_.py", "README.md", ".5_x.py", "-6_x.py"]
    files.write(dict.fromkeys([*names, "7_x.py.bak"], raising))
    (files.path / "sub").mkdir()
    (files.path / "sub" / "004_x.py").write_text(raising)
    assert choice.run(db.engine, files.tables("001_a")) == 1
    assert choice.status(db.engine, files.path).ignored == ("1.py", "3-x.py", "4_.py")


@pytest.mark.rows(11)
def test_the_ending_is_matched_without_regard_to_case(db, files):
    files.tables("001_a")
    files.write({"002_B.PY": "def up(op):\n    op.run('CREATE TABLE b ()')\n"})
    assert choice.run(db.engine, files.path) == 2
    assert db.tables == {"a", "b"}


@pytest.mark.rows(13, 14)
def test_the_version_is_the_number_before_the_first_underscore(db, files):
    assert choice.run(db.engine, files.tables("1_a", "02_b", "003_3_c")) == 3
    assert db.tables == {"a", "b", "c"}


@pytest.mark.rows(15)
def test_the_order_is_numeric(db, files):
    db.sql("CREATE TABLE trace (id serial, name text)")
    files.write({f"{n}_x": TRACE.format(n) for n in range(1, 12)})
    choice.run(db.engine, files.path)
    choice.run(db.engine, files.path, 0)
    expected = [*(str(n) for n in range(1, 12)), *(f"-{n}" for n in range(11, 0, -1))]
    assert [row[0] for row in db.sql("SELECT name FROM trace ORDER BY id")] == expected


@pytest.mark.rows(17, 19, 20, 27)
@pytest.mark.parametrize(
    ("fixture", "said"),
    [
        ("directory_for_a_file", "IsADirectoryError"),
        ("syntax_error", "SyntaxError"),
        ("unknown_word", "NameError: name 'foo' is not defined"),
        ("raises_when_loaded", "ValueError: not today"),
        ("exits_when_loaded", "SystemExit"),
        ("not_utf8", "does not load"),
        ("empty_file", "defines no migration"),
        ("nothing_defined", "defines no migration"),
        ("no_argument", "does not take one argument"),
        ("coroutine", "would never run"),
        ("generator", "would never run"),
        ("not_callable", "defines up as str"),
        ("transaction_not_bool", "sets transaction to 'no'"),
    ],
)
def test_broken_files_are_refused_before_anything_is_applied(db, fixture, said):
    with pytest.raises(BrokenMigrationFile) as raised:
        choice.run(db.engine, FIXTURES / fixture)
    assert said in str(raised.value)
    assert "002_" in str(raised.value)
    assert db.tables == set()
    assert db.version == 0
    # What is not to be run is not loaded.
    assert choice.run(db.engine, FIXTURES / fixture, 1) == 1
    assert db.version == 1


@pytest.mark.rows(21, 22)
def test_an_applied_file_may_break(db, files, directory_of):
    choice.run(db.engine, files.tables("001_a"))
    files.write({"001_a": "def"})
    assert choice.run(db.engine, files.tables("002_b")) == 2

    other = directory_of("timestamps")
    choice.run(db.engine, other.tables("1273253849_c"))
    other.write({"1273253849_c": "def"})
    choice.run(db.engine, other.tables("1273253851_d"))
    assert db.tables == {"a", "b", "c", "d"}


@pytest.mark.rows(23)
def test_asking_loads_the_pending_files(db):
    for ask in (choice.is_current, choice.check_current):
        with pytest.raises(BrokenMigrationFile):
            ask(db.engine, FIXTURES / "syntax_error")
    assert db.all_tables == set()


@pytest.mark.rows(25)
def test_threads_migrate_side_by_side(db, files):
    files.tables(*(f"{n:03}_t{n}" for n in range(1, 6)))
    errors: list[BaseException] = []

    def work(schema: str) -> None:
        try:
            choice.run(
                db.engine,
                files.path,
                schema=schema,
                search_path=[schema],
                create_schema=True,
                lock_key=hash(schema),
            )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"app{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    counts = db.sql(
        "SELECT schemaname, count(*) FROM pg_tables WHERE schemaname LIKE 'app%' GROUP BY 1 ORDER BY 1"
    )
    assert counts == [(f"app{n}", 6) for n in range(5)]


@pytest.mark.rows(26)
def test_two_directories_may_define_the_same_names(db, other_db, directory_of):
    for number, database in enumerate((db, other_db)):
        text = f"class CreateSessions:\n    table = 't{number}'\n\n\ndef up(op):\n    op.run(f'CREATE TABLE {{CreateSessions.table}} ()')\n"
        choice.run(database.engine, directory_of(f"d{number}").write({"001_create_sessions": text}))
    assert (db.tables, other_db.tables) == ({"t0"}, {"t1"})


def test_a_migration_may_define_dataclasses(db, files):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Row:\n    name: str\n\n\n"
        "def up(op):\n    op.run(f'CREATE TABLE {Row(\"a\").name} ()')\n"
    )
    choice.run(db.engine, files.write({"001_a": text}))
    assert db.tables == {"a"}


@pytest.mark.rows(28)
def test_the_directory_is_listed_by_every_run(db, files):
    migrator = IntegerMigrator(db.engine, files.tables("001_a"))
    assert migrator.run() == 1
    files.tables("002_b")
    assert migrator.run() == 2


def test_no_byte_code_is_left_behind(db, files):
    choice.run(db.engine, files.tables("001_a"))
    assert sorted(path.name for path in files.path.iterdir()) == ["001_a.py"]


@pytest.mark.rows(29, 38)
def test_up_and_down_run_on_the_migrators_connection(db, files):
    text = (
        "import sqlalchemy as sa\n\n\ndef up(op):\n    op.run('CREATE TABLE rr (pid int)')\n"
        "    op.get_bind().execute(sa.text('INSERT INTO rr VALUES (pg_backend_pid())'))\n"
        "    assert op.run('SELECT pid = pg_backend_pid() FROM rr').scalar_one()\n\n\n"
        "def down(op):\n    op.run('DROP TABLE rr')\n"
    )
    choice.run(db.engine, files.write({"001_rr": text}))
    assert db.tables == {"rr"}
    choice.run(db.engine, files.path, 0)
    assert db.tables == set()


@pytest.mark.rows(31)
def test_a_missing_down_refuses(db):
    """Sequel lowers the version and leaves the table; here nothing changes."""
    choice.run(db.engine, FIXTURES / "missing_down")
    with pytest.raises(IrreversibleMigration, match=r"No down or change defined in .*002_b\.py"):
        choice.run(db.engine, FIXTURES / "missing_down", 0)
    assert (db.version, db.tables) == (2, {"a", "b"})


@pytest.mark.rows(32)
def test_a_missing_up_does_nothing(db, files):
    files.write({"001_a": "def down(op):\n    op.run('CREATE TABLE downran ()')\n"})
    assert choice.run(db.engine, files.path) == 1
    assert db.tables == set()
    choice.run(db.engine, files.path, 0)
    assert db.tables == {"downran"}


@pytest.mark.rows(33)
def test_a_direction_is_up_or_down(db, files):
    files.tables("20200101_a")
    with pytest.raises(ValueError, match="sideways"):
        choice.run_single(db.engine, files.path / "20200101_a.py", "sideways")
    assert db.all_tables == set()


@pytest.mark.rows(34, 35)
@pytest.mark.parametrize(
    ("text", "after_up", "after_down"),
    [
        (
            "def up(op):\n    op.run('CREATE TABLE a ()')\n\n\ndef change(op):\n    op.create_table('b')\n",
            {"b"},
            set(),
        ),
        (
            "def change(op):\n    op.create_table('b')\n\n\ndef down(op):\n    op.run('CREATE TABLE downran ()')\n",
            {"b"},
            {"b", "downran"},
        ),
    ],
)
def test_later_definitions_replace_earlier_ones(db, files, text, after_up, after_down):
    choice.run(db.engine, files.write({"001_x": text}))
    assert db.tables == after_up
    choice.run(db.engine, files.path, 0)
    assert db.tables == after_down


@pytest.mark.rows(37, 105, 106)
def test_revert_is_change_the_other_way_round(db, files):
    text = "import sqlalchemy as sa\n\n\ndef revert(op):\n    op.create_table('artists', sa.Column('id', sa.Integer))\n    op.create_view('vv', 'SELECT 1 AS one')\n"
    files.write({"001_x": text})
    with pytest.raises(sa.exc.ProgrammingError, match="UndefinedTable"):
        choice.run(db.engine, files.path)
    assert db.version == 0
    db.sql("CREATE TABLE artists (id integer); CREATE VIEW vv AS SELECT 1 AS one")
    choice.run(db.engine, files.path)
    assert db.tables == set()
    assert db.sql("SELECT count(*) FROM pg_views WHERE viewname = 'vv'") == [(0,)]
    choice.run(db.engine, files.path, 0)
    assert db.tables == {"artists"}
    assert db.sql("SELECT one FROM vv") == [(1,)]


@pytest.mark.rows(39)
def test_data_may_be_changed_along_with_the_schema(db, files):
    db.sql("CREATE TABLE artists (name text); INSERT INTO artists VALUES ('x')")
    text = (
        "import sqlalchemy as sa\n\n\ndef up(op):\n    op.add_column('artists', sa.Column('location', sa.Text))\n"
        "    op.run(\"UPDATE artists SET location = 'Sacramento'\")\n\n\ndef down(op):\n    op.drop_column('artists', 'location')\n"
    )
    choice.run(db.engine, files.write({"001_x": text}))
    assert db.sql("SELECT * FROM artists") == [("x", "Sacramento")]
    choice.run(db.engine, files.path, 0)
    assert db.sql("SELECT * FROM artists") == [("x",)]


MANY_TO_MANY = """
import sqlalchemy as sa


def up(op):
    op.create_join_table(artist_id="artists", album_id="albums")
    op.run("INSERT INTO albums_artists (album_id, artist_id) SELECT id, artist_id FROM albums WHERE artist_id IS NOT NULL")
    op.drop_column("albums", "artist_id")


def down(op):
    with op.alter_table("albums") as albums:
        albums.add_foreign_key("artist_id", "artists")
    op.run("UPDATE albums SET artist_id = j.artist_id FROM albums_artists j WHERE j.album_id = albums.id")
    op.drop_join_table(artist_id="artists", album_id="albums")
"""


@pytest.mark.rows(40)
def test_many_to_many_moves_data_both_ways(db, files):
    db.sql(
        "CREATE TABLE artists (id integer PRIMARY KEY); INSERT INTO artists VALUES (1), (2);"
        " CREATE TABLE albums (id integer PRIMARY KEY, artist_id integer REFERENCES artists);"
        " INSERT INTO albums VALUES (1, 1), (2, NULL), (3, 2)"
    )
    choice.run(db.engine, files.write({"001_x": MANY_TO_MANY}))
    assert db.sql("SELECT album_id, artist_id FROM albums_artists ORDER BY 1") == [(1, 1), (3, 2)]
    assert db.sql("SELECT * FROM albums ORDER BY 1") == [(1,), (2,), (3,)]
    choice.run(db.engine, files.path, 0)
    assert db.sql("SELECT id, artist_id FROM albums ORDER BY 1") == [(1, 1), (2, None), (3, 2)]
    assert "albums_artists" not in db.tables


@pytest.mark.rows(41)
def test_a_down_may_refuse_by_raising(db, files):
    files.write(
        {
            "001_a": "def up(op):\n    op.create_table('a')\n\n\ndef down(op):\n    raise LookupError('cannot be undone')\n"
        }
    )
    choice.run(db.engine, files.path)
    with pytest.raises(LookupError, match="cannot be undone"):
        choice.run(db.engine, files.path, 0)
    assert (db.version, db.tables) == (1, {"a"})


@pytest.mark.rows(43)
def test_blocks_may_branch_on_the_kind_of_database(db, files):
    text = "def change(op):\n    if op.get_context().dialect.name == 'postgresql':\n        op.create_table('a')\n"
    choice.run(db.engine, files.write({"001_a": text}))
    assert db.tables == {"a"}
    choice.run(db.engine, files.path, 0)
    assert db.tables == set()


@pytest.mark.rows(44)
def test_a_helper_may_be_imported_inside_a_block(db, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "helper_of_a_migration.py").write_text("NAME = 'helped'\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = "def up(op):\n    from helper_of_a_migration import NAME\n\n    op.create_table(NAME)\n"
    choice.run(db.engine, files.write({"001_a": text}))
    assert db.tables == {"helped"}


@pytest.mark.rows(107)
def test_the_body_of_change_is_not_run_by_loading(db, files, directory_of: Callable):
    """Sequel evaluates it when loading and again when running; here going up runs it once, going down records it once."""
    text = "def change(op):\n    with open({0!r}, 'a') as file:\n        file.write('x')\n    op.create_table('a')\n"
    count = files.path / "count.txt"
    choice.run(db.engine, files.write({"001_a": text.format(str(count))}))
    assert count.read_text() == "x"
    choice.run(db.engine, files.path, 0)
    assert count.read_text() == "xx"


@pytest.mark.rows(136, 137, 139, 140, 141)
@pytest.mark.parametrize(
    ("fixture", "error", "said"),
    [
        ("duplicate_version", DuplicateMigrationVersion, "Duplicate migration version: 1"),
        ("duplicate_version_padding", DuplicateMigrationVersion, "Duplicate migration version: 1"),
        ("gap", MissingMigrationVersion, "Missing migration version: 2"),
        ("first_missing", MissingMigrationVersion, "Missing migration version: 1"),
        ("lowest_gap", MissingMigrationVersion, "Missing migration version: 2"),
    ],
)
def test_numbering_is_checked_before_anything_is_created(db, fixture, error, said):
    for work in (choice.run, choice.is_current, choice.check_current, choice.status):
        with pytest.raises(error, match=said):
            work(db.engine, FIXTURES / fixture)
    assert db.all_tables == set()
