"""The cut-over without maintenance mode, through the command line."""

from __future__ import annotations

import json

import psycopg
from library_project import VERSION_2, Library


def test_golive_swaps_in_and_says_how_long_others_waited(library: Library) -> None:
    library.migrate()
    library.write(VERSION_2)
    online = library.sequent("migrate", "online").stdout
    assert "sequent migrate golive" in online
    assert "sequent migrate golive" in library.json("migrate", "status")["next_commands"]
    report = library.json(
        "migrate",
        "golive",
        "--workers",
        "0",
        "--max-delta",
        "100",
        "--max-lag",
        "0.5",
        "--lock-timeout",
        "1",
        "--max-time",
        "600",
        "--verify-sample",
        "10",
    )
    assert report["retired_tables"] == ["book_records_1"]
    assert report["rows"] == {"book_records": 3, "reader_records": 6}
    assert report["verified_aggregates"] > 0
    assert 0 < report["readers_stall_milliseconds"] <= report["writers_stall_milliseconds"]
    assert library.json("migrate", "status")["state"] == "live"
    library.append("Dracula")
    assert library.query("SELECT count(*) FROM view_schema.book_records") == [(4,)]
    assert "Nothing to do" in library.sequent("migrate", "golive").stdout


def test_golive_says_it_in_words(library: Library) -> None:
    library.sequent("migrate", "online")
    text = library.sequent("migrate", "golive").stdout
    for expected in (
        "Version 1 is live.",
        "writers waited",
        "at most",
        "against a fresh fold",
        "book_records",
    ):
        assert expected in text


def test_a_golive_that_cannot_have_its_locks_fails_names_the_holder_and_what_to_run(library: Library) -> None:
    library.migrate()
    library.write(VERSION_2)
    library.sequent("migrate", "online")
    assert library.database_url is not None
    with psycopg.connect(library.database_url, application_name="nightly report") as reader:
        reader.execute("SELECT count(*) FROM view_schema.book_records")
        failed = library.sequent("migrate", "golive", "--lock-budget", "0.5", "--json", expect=1)
        error, pid = json.loads(failed.stdout)["error"], reader.info.backend_pid
    assert error["type"] == "SwapLockTimeout"
    for part in ("book_records", f"pid {pid}", "nightly report"):
        assert part in error["message"]
    assert "sequent migrate golive" in error["remedy"]
    status = library.json("migrate", "status")
    assert (status["state"], status["live_version"]) == ("online_done", 1)
    library.sequent("migrate", "golive")


def test_golive_without_online_fails_and_changes_nothing(library: Library) -> None:
    stderr = library.sequent("migrate", "golive", expect=1).stderr
    assert "needs the tables that online builds" in stderr
    assert "sequent migrate online" in stderr
