"""``sequent migrate verify``, ``diff`` and ``--accept-differences`` through the command line."""

from __future__ import annotations

from library_project import VERSION_2, Library


def test_verify_says_whether_tables_are_right_and_exits_accordingly(library: Library) -> None:
    library.sequent("migrate", "online")
    text = library.sequent("migrate", "verify", "--all", "--workers", "2").stdout
    assert "The new tables of version 1 are what the events say." in text
    library.sequent("migrate", "offline")
    report = library.json("migrate", "verify", "--sample", "10")
    assert (report["subject"], report["is_correct"], report["aggregates"]) == ("live", True, 3)
    assert report["nondeterminism"] == []

    library.query("UPDATE view_schema.book_records SET reader = 'Eve' WHERE title = 'Emma' RETURNING 1")
    result = library.sequent("migrate", "verify", "--all", "--once", expect=1)
    assert "are not what the events say" in result.stdout
    assert 'reader: "Eve" -> "Bob"' in result.stdout
    report = library.json("migrate", "verify", "--all", "--once", expect=1)
    [table] = report["tables"]
    assert (table["changed"], table["changed_columns"], report["nondeterminism"]) == (1, {"reader": 1}, None)


def test_the_ways_to_choose_aggregates_exclude_each_other(library: Library) -> None:
    result = library.sequent("migrate", "verify", "--all", "--sample", "3", expect=2)
    assert "give one of --sample, --all and --aggregate" in result.stderr


def test_diff_shows_what_the_new_version_changes(library: Library) -> None:
    library.migrate()
    library.write(VERSION_2)
    library.sequent("migrate", "diff")
    library.sequent("migrate", "online")
    text = library.sequent("migrate", "diff").stdout
    assert "columns only in new" in text
    assert "lendings" in text
    books, readers = library.json("migrate", "diff")["tables"]
    assert (books["old_name"], books["new_name"], books["is_same"]) == (
        "book_records",
        "book_records_2",
        True,
    )
    assert books["columns_only_in_new"] == ["lendings"]
    assert (readers["old_name"], readers["new_rows"]) == (None, 6)


def test_accepted_differences_are_promoted_and_shown(library: Library) -> None:
    library.sequent("migrate", "online")
    library.query("UPDATE view_schema.book_records_1 SET reader = 'Eve' RETURNING 1")
    refused = library.sequent("migrate", "offline", expect=1)
    assert "--accept-differences" in refused.stderr
    library.sequent("migrate", "offline", "--accept-differences")
    assert (
        "Promoted although verification had found differences" in library.sequent("migrate", "status").stdout
    )
    [accepted] = library.json("migrate", "status")["migration"]["accepted_differences"]
    assert len(accepted["differences"]) == 3
