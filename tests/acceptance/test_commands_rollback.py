"""Going back, going forth and giving the way up, by the command line."""

from __future__ import annotations

import os
import signal

from library_project import VERSION_1, VERSION_2, Library, eventually

SELECT_BOOKS = "SELECT title, reader FROM view_schema.book_records ORDER BY title"


def titles(library: Library) -> list[str]:
    return [title for title, _ in library.query(SELECT_BOOKS)]


def test_back_and_forth_with_what_was_written_meanwhile(at_2: Library) -> None:
    at_2.write(VERSION_1)
    status = at_2.sequent("migrate", "status").stdout
    assert "book_records_1 as book_records" in status
    assert "from version 2 back to 1" in status
    assert "sequent migrate rollback" in status
    plan = at_2.json("migrate", "rollback", "--plan")
    assert (plan["from_version"], plan["target_version"], plan["pending_events"]) == (2, 1, 4)
    assert plan["returning"] == {"book_records": "book_records_1"}
    assert plan["retiring"] == {"book_records": "book_records_2", "reader_records": "reader_records_2"}
    text = at_2.sequent("migrate", "rollback", "--plan").stdout
    assert "Back from version 2 to 1" in text
    assert at_2.json("migrate", "status")["live_version"] == 2, "a plan changes nothing"

    text = at_2.sequent("migrate", "rollback", "--workers", "1").stdout
    assert "Version 1 serves again" in text
    assert "reader_records_2" in text
    assert titles(at_2) == ["Dracula", "Emma", "Ulysses", "Walden"]
    at_2.sequent("migrate", "check")
    assert at_2.json("migrate", "status")["state"] == "rolled_back"
    at_2.append("Middlemarch")
    assert "Nothing to do" in at_2.sequent("migrate", "rollback").stdout

    at_2.write(VERSION_2)
    refused = at_2.sequent("migrate", "online", expect=1).stderr
    assert "prune --version 2" in refused
    report = at_2.json("migrate", "rollback")
    assert (report["is_forth"], report["catch_up_events"] + report["window_events"]) == (True, 4)
    assert titles(at_2) == ["Dracula", "Emma", "Middlemarch", "Ulysses", "Walden"]
    assert at_2.query("SELECT count(*) FROM view_schema.reader_records") == [(10,)]
    at_2.sequent("migrate", "check")
    at_2.append("Persuasion")


def test_old_code_is_told_what_it_can_do(at_2: Library) -> None:
    at_2.write(VERSION_1)
    check = at_2.sequent("migrate", "check", expect=3).stdout
    assert "sequent migrate rollback" in check
    for command in ("plan", "online", "offline"):
        assert "sequent migrate rollback --plan" in at_2.sequent("migrate", command, expect=1).stderr


def test_prune_says_what_it_drops_and_what_ends_with_it(at_2: Library) -> None:
    assert "Nothing to drop" in at_2.sequent("migrate", "prune").stdout
    dry = at_2.sequent("migrate", "prune", "--keep", "0", "--dry-run").stdout
    assert "book_records_1" in dry
    assert "book_records_1" in at_2.tables()
    text = at_2.sequent("migrate", "prune", "--keep", "0").stdout
    assert "to go from version 2 back to 1" in text
    assert at_2.tables() == {"book_records", "reader_records"}
    at_2.write(VERSION_1)
    error = at_2.json("migrate", "rollback", expect=1)["error"]
    assert error["type"] == "InvalidTransition"
    assert "pruned" in error["message"]
    assert "cannot be had back" in at_2.sequent("migrate", "status").stdout


def test_killed_while_it_replays_and_run_again_it_goes_on(at_2: Library) -> None:
    at_2.write(VERSION_1)
    at_2.pace("hold")
    killed = at_2.start("migrate", "rollback", "--workers", "0")
    eventually(lambda: "sequent migrate rollback" in (at_2.json("migrate", "status")["holder"] or ""))
    eventually(
        lambda: (
            at_2.query(
                "SELECT count(*) FROM sequent_schema.replay_groups g JOIN sequent_schema.view_migrations m ON m.id = g.migration_id"
                " WHERE m.return_pass IS NOT NULL AND g.pass >= m.return_pass AND g.done_at IS NULL"
            )
            == [(1,)]
        )
    )
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    at_2.pace(None)
    status = at_2.json("migrate", "status")
    assert (status["live_version"], status["state"]) == (2, "live")
    at_2.write(VERSION_2)
    at_2.append("Middlemarch")
    at_2.write(VERSION_1)
    at_2.sequent("migrate", "rollback")
    assert titles(at_2) == ["Dracula", "Emma", "Middlemarch", "Ulysses", "Walden"]
    assert len(at_2.query("SELECT DISTINCT id FROM view_schema.book_records")) == 5
