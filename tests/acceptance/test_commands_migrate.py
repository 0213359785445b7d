"""View migrations through the command line: the first one, the second one, aborted ones, refused ones."""

from __future__ import annotations

import re

from library_project import VERSION_2, Library

BOOKS = [("Emma", "Bob"), ("Ulysses", "Bob"), ("Walden", "Bob")]
SELECT_BOOKS = "SELECT title, reader FROM view_schema.book_records ORDER BY title"


def test_plan_says_what_is_built_why_and_from_what(library: Library) -> None:
    text = library.sequent("migrate", "plan").stdout
    for expected in ("from version 0 to 1", "book_records", "book_records_1", "BookProjector", "12 events"):
        assert expected in text
    plan = library.json("migrate", "plan")
    assert plan["events"] == 12
    assert plan["plan"]["target_version"] == 1
    (step,) = plan["plan"]["replays"]
    assert (step["table_name"], step["shadow_name"]) == ("book_records", "book_records_1")
    assert sorted(step["event_types"]) == ["BookAdded", "BookLent", "BookReturned"]


def test_online_builds_beside_and_offline_swaps_in(library: Library) -> None:
    online = library.json("migrate", "online", "--workers", "2", "--group-events", "5")
    assert (online["events"], online["is_noop"], online["is_resumed"]) == (12, False, False)
    assert "book_records" not in library.tables()
    assert "book_records_1" in library.tables()
    status = library.json("migrate", "status")
    assert (status["state"], status["pending_events"], status["holder"]) == ("online_done", 0, None)

    library.append("Dracula")
    assert library.json("migrate", "status")["pending_events"] == 4

    offline = library.json(
        "migrate",
        "offline",
        "--drain-timeout",
        "30",
        "--lock-timeout",
        "1",
        "--lock-budget",
        "30",
        "--verify-sample",
        "10",
    )
    assert offline["catch_up_events"] + offline["window_events"] == 4
    assert library.query(SELECT_BOOKS) == sorted([*BOOKS, ("Dracula", "Bob")])
    assert library.json("migrate", "status")["state"] == "live"

    library.append("Middlemarch")
    assert ("Middlemarch", "Bob") in library.query(SELECT_BOOKS)


def test_progress_goes_to_standard_error_as_timestamped_lines(library: Library) -> None:
    result = library.sequent("migrate", "online", "--json")
    lines = result.stderr.splitlines()
    assert lines
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S", line) for line in lines), result.stderr


def test_a_second_migration_changes_one_table_and_adds_another(library: Library) -> None:
    library.migrate()
    library.write(VERSION_2)
    library.sequent("migrate", "check", expect=3)
    plan = library.json("migrate", "plan")["plan"]
    assert [step["table_name"] for step in plan["replays"]] == ["book_records", "reader_records"]
    assert plan["replays"][0]["retired_name"] == "book_records_1"

    library.migrate()
    assert library.query("SELECT title, reader, lendings FROM view_schema.book_records ORDER BY title") == [
        (title, reader, 2) for title, reader in BOOKS
    ]
    assert library.query("SELECT count(*) FROM view_schema.reader_records") == [(6,)]
    assert library.query("SELECT title, reader FROM view_schema.book_records_1 ORDER BY title") == BOOKS
    library.sequent("migrate", "check")
    assert library.json("migrate", "status")["retired_tables"] == ["book_records_1"]


def test_old_code_cannot_append_after_the_migration(library: Library) -> None:
    library.migrate()
    library.write(VERSION_2)
    refused = library.append("Dracula", expect=1)
    assert "VersionMismatch" in refused.stderr
    library.migrate()
    library.append("Dracula")


def test_doing_it_again_is_no_error_and_replays_nothing(library: Library) -> None:
    library.migrate()
    for command in ("online", "offline"):
        report = library.json("migrate", command)
        assert report["is_noop"] is True
        assert "Nothing to do" in library.sequent("migrate", command).stdout
    assert library.json("migrate", "plan")["plan"]["is_noop"] is True


def test_online_again_catches_up(library: Library) -> None:
    library.sequent("migrate", "online")
    library.append("Dracula")
    assert library.json("migrate", "online")["events"] == 4
    assert library.json("migrate", "status")["pending_events"] == 0
    library.sequent("migrate", "offline")
    assert len(library.query(SELECT_BOOKS)) == 4


def test_an_empty_store_migrates_too(project: Library) -> None:
    project.sequent("init")
    project.migrate()
    assert project.query(SELECT_BOOKS) == []


def test_abort_drops_what_was_built_and_nothing_else(library: Library) -> None:
    library.query("SELECT 1")
    library.migrate()
    library.write(VERSION_2)
    library.sequent("migrate", "online")
    before = library.tables()
    aborted = library.json("migrate", "abort")
    assert sorted(aborted["dropped_tables"]) == ["book_records_2", "reader_records_2"]
    assert library.tables() == before - {"book_records_2", "reader_records_2"}
    assert library.json("migrate", "status")["state"] == "aborted"
    assert library.query(SELECT_BOOKS) == BOOKS
    library.migrate()
    assert library.json("migrate", "current-version")["current_version"] == 2


def test_abort_without_a_migration_fails(library: Library) -> None:
    error = library.json("migrate", "abort", expect=1)["error"]
    assert error["type"] == "InvalidTransition"


def test_offline_without_online_fails_and_changes_nothing(library: Library) -> None:
    before = library.tables()
    stderr = library.sequent("migrate", "offline", expect=1).stderr
    assert "→" in stderr
    assert "sequent migrate online" in stderr
    assert library.tables() == before
    assert library.json("migrate", "status")["state"] is None


def test_before_init_migrations_are_refused_with_what_to_run(project: Library) -> None:
    for command in ("online", "offline", "abort"):
        error = project.json("migrate", command, expect=1)["error"]
        assert error["type"] == "StoreNotInstalled"
        assert "sequent init" in error["remedy"]


def test_a_target_below_the_live_version_is_refused(library: Library) -> None:
    library.write(VERSION_2)
    library.migrate()
    library.edit("library/migrations.py", "version = 2", "version = 1")
    library.edit("library/migrations.py", ", 2: [BookProjector, ReaderProjector]", "")
    for command in ("online", "offline"):
        library.sequent("migrate", command, expect=1)
    library.sequent("migrate", "check", expect=3)
    assert library.json("migrate", "current-version")["current_version"] == 2


def test_a_missing_table_file_is_found_before_anything_is_written(library: Library) -> None:
    (library.directory / "sql/book_records.sql").unlink()
    for command in ("plan", "online"):
        assert "book_records.sql" in library.sequent("migrate", command, expect=1).stderr
    assert library.json("migrate", "status")["state"] is None


def test_a_missing_suffix_is_found_before_anything_is_written(library: Library) -> None:
    library.edit("sql/book_records.sql", "TABLE book_records%SUFFIX%", "TABLE book_records")
    stderr = library.sequent("migrate", "online", expect=1).stderr
    assert "book_records" in stderr
    assert library.json("migrate", "status")["state"] is None
    assert library.tables() == set()


def test_a_failing_projector_is_named_with_its_event_and_the_fixed_code_goes_on(library: Library) -> None:
    library.append("CURSED")
    (aggregate,) = library.query(
        "SELECT DISTINCT aggregate_id FROM sequent_schema.events WHERE payload->>'title' = 'CURSED'"
    )
    stderr = library.sequent("migrate", "online", "--group-events", "4", expect=1).stderr
    for expected in (
        "BookProjector",
        "BookAdded",
        str(aggregate[0]),
        "sequence number 1",
        "no shelf for this one",
    ):
        assert expected in stderr
    status = library.json("migrate", "status")
    assert status["state"] == "online_running"
    assert "no shelf" in status["migration"]["error"]
    assert status["holder"] is None

    library.edit("library/projectors.py", 'event.title == "CURSED"', "False")
    library.migrate()
    assert len(library.query(SELECT_BOOKS)) == 4


def test_a_projector_that_fails_during_offline_leaves_everything_as_it_was(library: Library) -> None:
    library.migrate()
    library.write(VERSION_2)
    library.sequent("migrate", "online")
    library.edit("library/migrations.py", "version = 2", "version = 1")
    library.edit("library/migrations.py", ", 2: [BookProjector, ReaderProjector]", "")
    library.edit("library/projectors.py", "title=event.title, lendings=0)", "title=event.title)")
    library.edit("library/projectors.py", 'event.title == "CURSED"', "False")
    library.edit("library/projectors.py", "            book.lendings += 1\n", "")
    library.edit("library/records.py", "    lendings: Mapped[int]\n", "")
    library.append("CURSED")
    library.write(VERSION_2)

    stderr = library.sequent("migrate", "offline", expect=1).stderr
    assert "no shelf for this one" in stderr
    status = library.json("migrate", "status")
    assert (status["state"], status["live_version"]) == ("online_done", 1)
    assert status["gate"]["is_closed"] is False
    assert len(library.query(SELECT_BOOKS)) == 4

    library.edit("library/projectors.py", 'event.title == "CURSED"', "False")
    library.sequent("migrate", "offline")
    assert len(library.query("SELECT lendings FROM view_schema.book_records")) == 4


def test_offline_leaves_maintenance_mode_as_it_found_it(library: Library) -> None:
    library.sequent("migrate", "online")
    library.sequent("maintenance", "on", "--reason", "deployment")
    library.sequent("migrate", "offline")
    assert library.json("maintenance", "status")["maintenance"] is True
