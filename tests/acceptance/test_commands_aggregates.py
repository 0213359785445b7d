"""Setting aside, accepting, erasing and folding anew, by the command line."""

from __future__ import annotations

from library_project import Library

SELECT_BOOKS = "SELECT title, reader FROM view_schema.book_records ORDER BY title"


def id_of(library: Library, title: str) -> str:
    [(aggregate_id,)] = library.query(
        f"SELECT aggregate_id::text FROM sequent_schema.events WHERE payload ->> 'title' = '{title}'"  # noqa: S608
    )
    return str(aggregate_id)


def test_a_poisoned_aggregate_is_set_aside_and_accepted_by_name(library: Library) -> None:
    library.append("CURSED")
    refused = library.sequent("migrate", "online", expect=1)
    assert "failed on" in refused.stderr
    online = library.json("migrate", "online", "--quarantine")
    [item] = online["quarantined"]
    cursed = id_of(library, "CURSED")
    assert item["aggregate_id"] == cursed
    assert cursed in library.sequent("migrate", "status").stdout
    refused = library.sequent("migrate", "offline", expect=1)
    assert cursed in refused.stderr
    assert "--accept-quarantined" in refused.stderr
    offline = library.json("migrate", "offline", "--accept-quarantined", cursed)
    assert [item["aggregate_id"] for item in offline["accepted_quarantined"]] == [cursed]
    assert "CURSED" not in {title for title, _ in library.query(SELECT_BOOKS)}


def test_erase_asks_counts_and_deletes(library: Library) -> None:
    library.migrate()
    emma = id_of(library, "Emma")
    library.sequent("aggregates", "erase", emma, expect=2)
    dry = library.json("aggregates", "erase", emma, "--dry-run")
    assert {place["name"]: place["rows"] for place in dry["places"]}["events"] == 4
    assert len(library.query(SELECT_BOOKS)) == 3
    text = library.sequent("aggregates", "erase", emma, "--yes").stdout
    assert "Erased 1 aggregate." in text
    assert "live table book_records" in text
    assert "VACUUM" in text
    assert [title for title, _ in library.query(SELECT_BOOKS)] == ["Ulysses", "Walden"]
    library.append("Emma")


def test_an_erasure_that_is_not_done_everywhere_exits_with_pending(library: Library) -> None:
    library.edit("library/projectors.py", "manages_tables =", 'ordering = "partition"\n    manages_tables =')
    library.migrate()
    emma = id_of(library, "Emma")
    assert library.json("aggregates", "erase", emma, "--dry-run")["untold_tables"] == ["book_records"]
    result = library.sequent("aggregates", "erase", emma, "--yes", expect=3)
    assert "Erased 1 aggregate, but not everywhere." in result.stdout
    assert not library.json("aggregates", "erase", emma, "--yes", expect=3)["is_everywhere"]


def test_refold_follows_an_edit(library: Library) -> None:
    library.migrate()
    emma = id_of(library, "Emma")
    library.query(
        "UPDATE sequent_schema.events SET payload = '{\"title\": \"Emma W.\"}' WHERE payload ->> 'title' = 'Emma' RETURNING 1"
    )
    report = library.json("aggregates", "refold", emma)
    assert report["events"] == 4
    assert "Emma W." in {title for title, _ in library.query(SELECT_BOOKS)}
