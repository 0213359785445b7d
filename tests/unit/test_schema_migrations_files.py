"""Migration file names and modules, without a database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sequent_py.schema_migrations.errors import (
    BrokenMigrationFile,
    DuplicateMigrationVersion,
    MigrationFilesError,
)
from sequent_py.schema_migrations.files import Direction, MigrationFile, define, near_misses, parse_names
from sequent_py.schema_migrations.new_file import create_migration, next_version

HERE = Path("/migrations")
FILE = MigrationFile(1, "001_a.py", HERE / "001_a.py")


def names(*given: str) -> list[str]:
    return [file.name for file in parse_names(given, HERE)]


def test_names_are_sorted_by_number_and_then_by_name():
    assert names("10_a.py", "9_z.py", "09_B.py", "001_x.PY") == ["001_x.PY", "09_B.py", "9_z.py", "10_a.py"]


@pytest.mark.parametrize(
    "name", ["create.py", "1.py", "4_.py", "-6_x.py", ".5_x.py", "7_x.py.bak", "٣_x.py", "2_x.txt", "1_a.pyc"]
)
def test_other_names_are_no_migrations(name):
    assert names(name) == []


def test_names_may_have_anything_after_the_underscore():
    assert names("1_a b.c-d_é.py") == ["1_a b.c-d_é.py"]


def test_names_that_differ_by_case_alone_are_refused():
    with pytest.raises(DuplicateMigrationVersion, match=r"20200101 \(20200101_A\.py, 20200101_a\.py\)"):
        parse_names(["20200101_a.py", "20200101_A.py"], HERE)


def test_near_misses():
    assert near_misses(["001_a.py", "1.py", "3-x.py", "4_.py", "README", "abc_1.py", "2_x.txt"]) == (
        "1.py",
        "3-x.py",
        "4_.py",
    )


def test_a_direction_without_a_definition_is_none():
    migration = define(FILE, {"up": lambda op: None})
    assert migration.block(Direction.DOWN) == (None, False)


def test_change_and_revert_are_reversed_in_opposite_directions():
    def block(op: object) -> None: ...

    change, revert = define(FILE, {"change": block}), define(FILE, {"revert": block})
    assert (change.block(Direction.UP), change.block(Direction.DOWN)) == ((block, False), (block, True))
    assert (revert.block(Direction.UP), revert.block(Direction.DOWN)) == ((block, True), (block, False))


@pytest.mark.parametrize("value", [None, True, False])
def test_transaction(value):
    namespace = {"up": lambda op: None} | ({} if value is None else {"transaction": value})
    assert define(FILE, namespace).transaction is value


@pytest.mark.parametrize("value", [0, 1, "no", []])
def test_a_transaction_that_is_no_bool_is_refused(value):
    with pytest.raises(BrokenMigrationFile, match="it is True or False"):
        define(FILE, {"up": lambda op: None, "transaction": value})


@pytest.mark.parametrize(
    ("given", "version"),
    [
        ([], "001"),
        (["001_a.py"], "002"),
        (["1_a.py"], "2"),
        (["0009_a.py"], "0010"),
        (["099_a.py"], "100"),
        (["20200101_a.py"], "20260102030405"),
    ],
)
def test_the_next_version(given, version):
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert next_version(parse_names(given, HERE), now) == version
    assert next_version(parse_names(given, HERE), now, timestamp=True) == "20260102030405"


def test_a_new_file_never_replaces_one(tmp_path: Path):
    now = datetime(2026, 1, 2, tzinfo=UTC)
    create_migration(tmp_path, "a", now, timestamp=True)
    with pytest.raises(FileExistsError):
        create_migration(tmp_path, "a", now, timestamp=True)
    with pytest.raises(MigrationFilesError):
        create_migration(tmp_path, "a\n", now)
