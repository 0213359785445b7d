"""Plots of a run's results, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

_OURS, _OTHERS = "#2b6cb0", "#a0aec0"


def write_plots(found: dict[str, Any], directory: Path) -> list[Path]:
    """Write all plots that the results are enough for; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for stage in found["stages"]:
        rates = {item["name"]: item["events"] / item["median"]["seconds"] for item in stage["contenders"]}
        path = directory / f"rebuild-{stage['name'].replace(' ', '-').replace(',', '')}.png"
        written.append(_bars(rates, f"Rebuild: {stage['name']}", "events/s", path))
    written += _sizes(found, directory)
    rates = {item["name"]: item["median"] for item in found["appends"] if item["unit"] == "events/s"}
    if rates:
        written.append(_bars(rates, "Appends", "events/s", directory / "appends.png"))
    return written


def _bars(values: dict[str, float], title: str, unit: str, path: Path) -> Path:
    names = list(reversed(values))
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1.2))
    colours = [_OURS if name.startswith(("ours", "append")) else _OTHERS for name in names]
    bars = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel(f"{unit}, logarithmic")
    axes.set_title(title)
    return _save(figure, path)


def _sizes(found: dict[str, Any], directory: Path) -> list[Path]:
    """Draw the rate over the size of the store, for the workload that was measured at several."""
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for stage in found["stages"]:
        for item in stage["contenders"]:
            point = (stage["events"], item["events"] / item["median"]["seconds"])
            if item["events"] == stage["events"]:
                lines.setdefault(stage["workload"], {}).setdefault(item["name"], []).append(point)
    written = []
    for workload, contenders in lines.items():
        several = {name: sorted(points) for name, points in contenders.items() if len(set(points)) > 1}
        if not several:
            continue
        figure, axes = plt.subplots(figsize=(8, 5))
        for name, points in several.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("events in the store")
        axes.set_ylabel("events/s")
        axes.set_title(f"Rate of a rebuild by size: {workload}")
        axes.legend()
        written.append(_save(figure, directory / f"sizes-{workload}.png"))
    return written


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
