"""Reading the SQL files of tables, and replacing the suffix."""

from __future__ import annotations

from pathlib import Path

import pytest

from sequent_py.errors import TableFileError
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.ddl.table_files import read_alter_file, read_table_files, with_suffix
from sequent_py.view_schema.plans import AlterStep, Plan, ReplayStep

CREATE = "CREATE TABLE lines%SUFFIX% (id int PRIMARY KEY);\n"


def write(directory: Path, **texts: str | bytes) -> Path:
    for name, text in texts.items():
        path = directory / f"{name.replace('__', '.')}.sql"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return directory


def test_both_files_are_read_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, lines=CREATE, lines__indexes="CREATE INDEX i%SUFFIX% ON lines%SUFFIX% (id);")
    found = read_table_files(tmp_path, "lines")
    assert found.create_sql == CREATE
    assert found.indexes_sql == "CREATE INDEX i%SUFFIX% ON lines%SUFFIX% (id);"


def test_the_indexes_file_may_be_missing(tmp_path: Path) -> None:
    assert read_table_files(write(tmp_path, lines=CREATE), "lines").indexes_sql is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match=r"lines\.sql does not exist"):
        read_table_files(tmp_path, "lines")


@pytest.mark.parametrize("text", ["", " \n\t", "﻿"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableFileError, match=r"lines\.sql is empty"):
        read_table_files(write(tmp_path, lines=text), "lines")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert read_table_files(write(tmp_path, lines="﻿" + CREATE), "lines").create_sql == CREATE


def test_what_is_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match=r"is not UTF-8: byte 3 is 0xe9"):
        read_table_files(write(tmp_path, lines=b"-- \xe9"), "lines")


def test_a_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match="NUL"):
        read_table_files(write(tmp_path, lines=CREATE + "\0"), "lines")


@pytest.mark.parametrize("text", ["CREATE TABLE lines (id int)", "CREATE TABLE lines%SUFFIX (id int)"])
def test_a_file_without_the_placeholder_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        TableFileError, match=r"lines\.sql has no %SUFFIX%\. Put %SUFFIX% after .* such as lines%SUFFIX%"
    ):
        read_table_files(write(tmp_path, lines=text), "lines")


def test_a_placeholder_in_other_letters_is_pointed_out(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match="%suffix%, which is not replaced"):
        read_table_files(write(tmp_path, lines="CREATE TABLE lines%suffix% (id int)"), "lines")


def test_an_indexes_file_without_the_placeholder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match=r"lines\.indexes\.sql has no %SUFFIX%"):
        read_table_files(
            write(tmp_path, lines=CREATE, lines__indexes="CREATE INDEX i ON lines (id);"), "lines"
        )


def test_a_table_name_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match="cannot have a file"):
        read_table_files(tmp_path, "../lines")


def test_alter_files_are_found_by_table_and_version(tmp_path: Path) -> None:
    write(tmp_path, lines="", lines_2="", lines_10="", report_2_3="", lines_02="", lines__indexes="", x_y="")
    (tmp_path / "lines_4.sql.orig").touch()
    (tmp_path / "folder_5.sql").mkdir()
    assert table_files.alter_files(tmp_path) == {("lines", 2), ("lines", 10), ("report_2", 3)}


def test_no_directory_has_no_alter_files(tmp_path: Path) -> None:
    assert table_files.alter_files(tmp_path / "none") == frozenset()


def test_an_alter_file_is_read(tmp_path: Path) -> None:
    write(tmp_path, lines_2="ALTER TABLE lines ADD n int;")
    assert read_alter_file(tmp_path, "lines", 2) == "ALTER TABLE lines ADD n int;"


def test_an_alter_file_with_a_placeholder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, lines_2="ALTER TABLE lines%SUFFIX% ADD n int;")
    with pytest.raises(TableFileError, match=r"lines_2\.sql has %SUFFIX%"):
        read_alter_file(tmp_path, "lines", 2)


def test_every_placeholder_is_replaced_and_nothing_else() -> None:
    assert (
        with_suffix('"a b%SUFFIX%" %s 100% $$%SUFFIX%$$ %suffix%', "_3") == '"a b_3" %s 100% $$_3$$ %suffix%'
    )
    assert with_suffix("t%SUFFIX%", "") == "t"


def test_the_fingerprint_tells_names_and_texts_apart_but_not_order() -> None:
    assert table_files.fingerprint([("a", "1"), ("b", "2")]) == table_files.fingerprint(
        [("b", "2"), ("a", "1")]
    )
    assert table_files.fingerprint([("a", "bc")]) != table_files.fingerprint([("ab", "c")])
    assert table_files.fingerprint([("a", "1")]) != table_files.fingerprint([("a", "2")])


def test_a_plans_fingerprint_changes_with_each_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, lines=CREATE, orders=CREATE, orders_2="ALTER TABLE orders ADD n int;", other=CREATE)
    replay = ReplayStep("lines", "lines_2", "lines_1", (), (), "")
    plan = Plan(1, 2, replays=(replay,), alters=(AlterStep("orders", 2, "orders_2.sql", ""),))
    seen = {table_files.plan_fingerprint(tmp_path, plan)}
    write(tmp_path, other=CREATE + "-- unused")
    assert table_files.plan_fingerprint(tmp_path, plan) in seen
    for name in ("lines", "orders", "orders_2", "lines__indexes"):
        write(tmp_path, **{name: "-- %SUFFIX%" if name != "orders_2" else "-- changed"})
        seen.add(table_files.plan_fingerprint(tmp_path, plan))
    assert len(seen) == 5
