"""The results of a run as JSON and as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from bench.measure import Cost, as_json, median_cost
from bench.stages import Stage
from bench.windows import OURS, Window

COLUMNS = (
    "rebuilt by",
    "events",
    "seconds",
    "events/s",
    "rows only, events/s",
    "CPU Python, s",
    "CPU PostgreSQL, s",
    "peak RSS, MiB",
    "largest backend, MiB",
    "WAL, MiB",
    "read, MiB",
    "rows that differ",
)

SIZE_COLUMNS = ("rebuilt by", "events", "ratio of rates", "rows only", "peak RSS before, MiB", "then, MiB")


def machine(server_version: str) -> dict[str, Any]:
    """Describe where and with what the run was made."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "postgresql": server_version,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "packages": {
            name: _version(name) for name in ("psycopg", "pydantic", "eventsourcing", "eventsource-py")
        },
    }


def results(
    about: dict[str, Any],
    rounds: int,
    stages: Iterable[Stage],
    windows: Iterable[Window],
    appends: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "machine": about,
        "rounds": rounds,
        "stages": [_stage(stage) for stage in stages],
        "windows": _windows(list(windows)),
        "appends": appends,
    }


def beside(found: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return what was found, with what an earlier run found and this one did not look at; that is marked with its date."""
    stages = {stage["name"] for stage in found["stages"]}
    windows = {(item["stage"], item["events"]) for item in found["windows"]}
    when = earlier["machine"]["date"]
    kept = [stage for stage in earlier["stages"] if stage["name"] not in stages]
    return found | {
        "stages": [{"measured": when} | stage for stage in kept] + found["stages"],
        "windows": [
            {"measured": when} | item
            for item in earlier["windows"]
            if (item["stage"], item["events"]) not in windows
        ]
        + found["windows"],
        "appends": found["appends"] or [{"measured": when} | item for item in earlier["appends"]],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    events = {contender.name: contender.events for contender in stage.contenders}
    return {
        "name": stage.name,
        "workload": stage.workload.name,
        "describes": stage.workload.describes,
        "events": stage.events,
        "proof": stage.proof,
        "contenders": [
            _figures(costs) | {"name": name, "events": events[name], "differences": stage.differences[name]}
            for name, costs in stage.costs.items()
        ],
    }


def _windows(windows: list[Window]) -> list[dict[str, Any]]:
    grouped: dict[tuple[str, str, int, int], list[Cost]] = {}
    for item in windows:
        key = item.by, item.stage, item.store_events, item.window_events
        grouped.setdefault(key, []).append(item.cost)
    return [
        {"by": by, "stage": stage, "store_events": store, "events": events} | _figures(costs)
        for (by, stage, store, events), costs in grouped.items()
    ]


def _figures(costs: list[Cost]) -> dict[str, Any]:
    return {"median": as_json(median_cost(costs)), "all": [as_json(item) for item in costs]}


# Markdown


def markdown(found: dict[str, Any]) -> str:
    """Render all tables."""
    about = found["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items() if number)
    parts = [
        f"{about['date']}, PostgreSQL {about['postgresql']}, Python {about['python']}, {packages}; {about['cores']} cores,"
        f" load {about['load_before']} before the run. Medians of {found['rounds']} interleaved rounds."
    ]
    for stage in found["stages"]:
        parts += [
            f"### {stage['name']}",
            f"{stage['describes'].capitalize()}. {stage['proof']}.{_measured(stage)}",
            stage_table(stage),
        ]
    if sizes := _size_rows(found):
        parts += ["### Sizes", _table(SIZE_COLUMNS, sizes)]
    if found["windows"]:
        parts += ["### Windows of new events", _window_table(found["windows"])]
    if found["appends"]:
        parts += ["### Appends and loads", _append_table(found["appends"])]
    parts += ["### Ratios", _ratio_table(found)]
    return "\n\n".join(parts)


def _measured(part: dict[str, Any]) -> str:
    return f" Measured in an earlier run, {part['measured']}." if "measured" in part else ""


def stage_table(stage: dict[str, Any]) -> str:
    """Render a stage's contenders."""
    return _table(COLUMNS, (_stage_row(item) for item in stage["contenders"]))


def _stage_row(item: dict[str, Any]) -> list[str]:
    cost, events = item["median"], item["events"]
    rows_seconds = cost["rows_seconds"]
    return [
        item["name"],
        f"{events:,}",
        f"{cost['seconds']:.2f}",
        f"{events / cost['seconds']:,.0f}",
        f"{events / rows_seconds:,.0f}" if rows_seconds else "",
        _number(cost["python_cpu_seconds"], 2),
        _number(cost["postgres_cpu_seconds"], 2),
        _number(cost["peak_rss_mib"], 0),
        _number(cost["peak_backend_mib"], 0),
        _number(cost["wal_mib"], 0),
        _number(cost["read_mib"], 0),
        _number(item["differences"], 0),
    ]


def _window_table(windows: list[dict[str, Any]]) -> str:
    head = (
        "store",
        "new events",
        "caught up by",
        "seconds",
        "events/s",
        "replay alone, s",
        "CPU Python, s",
        "CPU PostgreSQL, s",
    )
    rows = (
        [
            item["stage"],
            f"{item['events']:,}",
            item["by"],
            f"{item['median']['seconds']:.2f}",
            f"{item['events'] / item['median']['seconds']:,.0f}",
            _number(item["median"]["rows_seconds"], 2),
            _number(item["median"]["python_cpu_seconds"], 2),
            _number(item["median"]["postgres_cpu_seconds"], 2),
        ]
        for item in windows
    )
    return _table(head, rows)


def _size_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return how our rate and memory change with the size, of workloads that were measured at several; in each line beside the next smaller size."""
    by_contender: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
    for stage in found["stages"]:
        for item in stage["contenders"]:
            if "beside packages" not in stage["name"] and item["name"].startswith("ours"):
                key = stage["workload"], item["name"]
                by_contender.setdefault(key, []).append((stage["events"], item["median"]))
    rows = []
    for (workload, name), sizes in by_contender.items():
        for (fewer, small), (events, large) in pairwise(sorted(sizes, key=itemgetter(0))):
            rates = [(events / large[key]) / (fewer / small[key]) for key in ("seconds", "rows_seconds")]
            rows.append(
                [
                    f"{workload}: {name}",
                    f"{fewer:,} to {events:,}",
                    f"{rates[0]:.2f}",
                    f"{rates[1]:.2f}",
                    _number(small["peak_rss_mib"], 0),
                    _number(large["peak_rss_mib"], 0),
                ]
            )
    return rows


def _append_table(appends: list[dict[str, Any]]) -> str:
    rows = (
        [
            item["name"],
            f"{item['median']:,.0f} {item['unit']}"
            if item["unit"] == "events/s"
            else f"{item['median']:.2f} {item['unit']}",
            f"{item['ratio']:.2f} × {item['of']}" if item["of"] else "",
        ]
        for item in appends
    )
    return _table(("what", "median", "beside"), rows)


def _ratio_table(found: dict[str, Any]) -> str:
    rows = ([what, f"{value:.2f}"] for what, value in ratios(found))
    return _table(("what", "ratio"), rows)


def ratios(found: dict[str, Any]) -> list[tuple[str, float]]:
    """Compare rates within the run: ours with plain SQL, with the packages, and with ours at other sizes."""
    pairs: list[tuple[str, float]] = []
    best_by_stage: dict[tuple[str, int], float] = {}
    replays: dict[str, float] = {}
    for stage in found["stages"]:
        rates = {item["name"]: item["events"] / item["median"]["seconds"] for item in stage["contenders"]}
        rows = {
            item["name"]: item["events"] / item["median"]["rows_seconds"]
            for item in stage["contenders"]
            if item["median"]["rows_seconds"]
        }
        for kind in ("ours", "ours, declared"):
            ours = {
                name: rate for name, rate in rates.items() if name.startswith(f"{kind}, ") and _is(kind, name)
            }
            if not ours:
                continue
            name = max(ours, key=ours.__getitem__)
            for measured, what in ((rates, ""), (rows, ", rows only")):
                for other, rate in measured.items():
                    if not other.startswith(("ours", "COPY")):
                        pairs.append((f"{stage['name']}: {name} / {other}{what}", measured[name] / rate))
            if kind == "ours, declared":
                by_handlers = name.replace(", declared", "")
                pairs.append(
                    (f"{stage['name']}: {name} / {by_handlers}, rows only", rows[name] / rows[by_handlers])
                )
            if kind == "ours":
                replays[stage["name"]] = rows[name]
                if "beside packages" not in stage["name"]:
                    best_by_stage[stage["workload"], stage["events"]] = ours[name]
    for (workload, events), rate in best_by_stage.items():
        for (other, fewer), base in best_by_stage.items():
            if other == workload and fewer < events:
                pairs.append((f"{workload}: rate at {events:,} / rate at {fewer:,} events", rate / base))
    ours_in_windows = [item for item in found["windows"] if item["by"] == OURS]
    for item in ours_in_windows:
        rows_seconds = item["median"]["rows_seconds"]
        if item["stage"] in replays and rows_seconds:
            what = f"window of {item['events']:,}, {item['stage']}: rate of its rows / that of the replay"
            pairs.append((what, item["events"] / rows_seconds / replays[item["stage"]]))
        for other in found["windows"]:
            if other["by"] != OURS and (other["stage"], other["events"]) == (item["stage"], item["events"]):
                what = (
                    f"window of {item['events']:,}, {item['stage']}: ours, the whole command / {other['by']}"
                )
                pairs.append((what, other["median"]["seconds"] / item["median"]["seconds"]))
    for large in ours_in_windows:
        for small in ours_in_windows:
            if small["events"] == large["events"] and small["store_events"] < large["store_events"]:
                what = f"window of {large['events']:,}: seconds on {large['store_events']:,} / seconds on {small['store_events']:,} events"
                pairs.append((what, large["median"]["seconds"] / small["median"]["seconds"]))
    pairs += [(f"{item['name']} / {item['of']}", item["ratio"]) for item in found["appends"] if item["of"]]
    return pairs


def _is(kind: str, name: str) -> bool:
    return ("declared" in name) == ("declared" in kind)


def _table(head: Iterable[str], rows: Iterable[list[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:,.{places}f}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write_between_markers(page: Path, text: str, name: str = "bench") -> None:
    """Replace what stands between the markers of that name on a page.

    Raises
    ------
    ValueError
        The page has no such markers.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = page.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {first} and {last}.")
    page.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")
