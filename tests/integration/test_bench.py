"""The benchmark suite runs, and proves its tables: a small run of all of it, so that it cannot rot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = (
    *(
        "--events",
        "400",
        "--other-events",
        "400",
        "--package-events",
        "200",
        "400",
        "--per-event-events",
        "40",
    ),
    *("--one-stream-events", "400", "--windows", "100", "--appends", "20", "--rounds", "1", "--workers", "1"),
)


@pytest.fixture(autouse=True)
def _import_from_checkout(monkeypatch: pytest.MonkeyPatch, server_url: str) -> Iterator[None]:
    path = [*sys.path]
    # The example, too: whoever imports the workloads a second time in a process is not given their path again.
    sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "bank")]
    monkeypatch.setenv("SEQUENT_DATABASE_URL", server_url)
    yield
    sys.path[:] = path


def test_a_small_run_measures_every_contender_and_writes_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.__main__ import main
    from bench.stages import has_packages

    begin, end = "<!-- bench: begin -->", "<!-- bench: end -->"
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")

    main([*SMALL, "--docs", str(tmp_path)])

    found = json.loads((tmp_path / "performance" / "results.json").read_text(encoding="utf-8"))
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages)[:4] == [f"{name}, 400 events" for name in ("bank", "shop", "wide", "long-streams")]
    for stage in stages.values():
        differences = {item["name"]: item["differences"] for item in stage["contenders"]}
        assert set(differences.values()) == {0, None}
        assert differences["ours, 1 worker"] == differences["INSERT … SELECT, one session"] == 0
        assert "no row differs" in stage["proof"]
        for item in stage["contenders"]:
            assert item["median"]["seconds"] > 0
            assert item["median"]["wal_mib"] >= 0
    beside_packages = [name for name, stage in stages.items() if "eventsourcing, bulk" in str(stage)]
    expected = ["bank, 400 events", "bank, 200 events, beside packages"]
    assert beside_packages == (expected if has_packages() else [])
    assert [(window["by"], window["events"]) for window in found["windows"]] == [
        ("set-based SQL, one session", 100),
        ("ours", 100),
    ]
    assert {"append", "append, two live projections", "load of 100 events"} <= {
        item["name"] for item in found["appends"]
    }
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "### wide, 400 events" in text
    assert "old" not in text
    assert "ours, 1 worker / INSERT" in capsys.readouterr().out


def test_a_contender_whose_rows_differ_from_the_events_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.__main__ import main
    from bench.contenders.plain_sql import Insert
    from bench.stages import TablesDiffer

    monkeypatch.setattr(Insert, "differences", lambda contender: 1)

    with pytest.raises(TablesDiffer, match="INSERT … SELECT, one session has 1 rows that differ"):
        main(
            [
                *SMALL,
                "--one-stream-events",
                "0",
                "--other-events",
                "--no-packages",
                "--windows",
                "--appends",
                "0",
            ]
        )


def test_a_workload_of_ones_own_is_measured_beside_plain_sql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.__main__ import main

    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom bench.workloads.wide import WIDE\nMINE = replace(WIDE, name='mine')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    results = tmp_path / "results.json"
    main(
        [
            *SMALL,
            *("--events", "--one-stream-events", "0", "--windows", "--no-packages", "--appends", "0"),
            *("--workloads", "mine:MINE", "--json", str(results)),
        ]
    )
    (stage,) = json.loads(results.read_text(encoding="utf-8"))["stages"]
    assert stage["name"] == "mine, 400 events"
    assert {item["name"]: item["differences"] for item in stage["contenders"]} == {
        "ours, 1 worker": 0,
        "INSERT … SELECT, one session": 0,
        "COPY of the same select, drained": None,
    }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ebank", "'ebank' is none of bank, shop, "),
        ("no_such_module:MINE", "cannot be imported: No module named 'no_such_module'"),
        ("bench.workloads:MINE", "cannot be imported: module 'bench.workloads' has no attribute 'MINE'"),
        ("bench.workloads:workloads", "is no bench.workloads.Workload"),
    ],
)
def test_a_workload_that_is_none_is_refused_before_anything_is_measured(
    name: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.__main__ import arguments

    with pytest.raises(SystemExit):
        arguments(["--workloads", name])
    assert why in capsys.readouterr().err


def test_durable_appends_are_compared_with_durable_bare_ones(server_url: str) -> None:
    from bench.appending import measure_durable_appends

    bare, *ours = measure_durable_appends(server_url, 20, 1)

    assert {item["of"] for item in ours} == {bare["name"]} == {"bare INSERT, COMMIT, durable"}
    assert [item["median"] / bare["median"] for item in ours] == [item["ratio"] for item in ours]


def test_a_run_without_options_knows_how_much_to_measure() -> None:
    from bench.__main__ import arguments

    options = arguments([])
    numbers = (*options.package_events, options.per_event_events, options.one_stream_events, options.rounds)
    assert all(type(number) is int and number > 0 for number in numbers)
