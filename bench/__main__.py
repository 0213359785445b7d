"""Run the suite: every contender in turn, round after round; then windows, appends, and the proof that the tables are right.

    python -m bench [--events 200000 1000000] [--other-events 200000] [--rounds 3] [--docs docs]

The bank is measured at each of ``--events``; the wide and the long-stream workload at each of ``--other-events``; the packages of PyPI, where they are installed, beside
ours on a store of ``--package-events``. 10 M events by ``--events 200000 1000000 10000000``: allow two hours and 30 GB. A server is started for the run unless SEQUENT_DATABASE_URL names one,
which nothing else may use meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from bench.appending import measure_appends
from bench.measure import Meter
from bench.report import machine, markdown, results, write_between_markers
from bench.server import say, server
from bench.stages import Sizes, Stage, has_packages, prepare, prove, run_rounds
from bench.windows import run_windows
from bench.workloads import workloads


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="*", default=[200_000, 1_000_000])
    parser.add_argument("--other-events", type=int, nargs="*", default=[200_000])
    parser.add_argument("--workloads", nargs="*", default=["wide", "long-streams"], choices=list(workloads()))
    parser.add_argument("--package-events", type=int, default=Sizes.package_events)
    parser.add_argument("--per-event-events", type=int, default=Sizes.per_event_events)
    parser.add_argument("--windows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--appends", type=int, default=2_000, help="events per measurement; 0: none")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-packages", action="store_true", help="leave the packages of PyPI out")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument(
        "--docs", type=Path, help="write performance.md, and figures and plots under performance/, here"
    )
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return the results."""
    sizes = Sizes(tuple(options.workers), options.rounds, options.package_events, options.per_event_events)
    with_packages = has_packages() and not options.no_packages
    if not with_packages:
        say("without the packages of PyPI: pip install -e '.[bench]'")
    with ExitStack() as stack:
        url = stack.enter_context(server())
        meter = Meter(url)
        with psycopg.connect(url) as connection:
            about = machine(str(connection.info.parameter_status("server_version")))
        stages = _prepared(stack, url, options, sizes, with_packages=with_packages)
        run_rounds(stages, meter, sizes.rounds)
        workers = max(sizes.workers)
        windows = []
        if options.windows:
            banks = [stage for stage in stages if stage.workload.name == "bank" and not stage.with_packages]
            windows = run_windows(banks, meter, options.windows, sizes.rounds, workers)
        for stage in stages:
            prove(stage, workers)
        appends = []
        if options.appends:
            appends = measure_appends(url, options.appends, sizes.rounds, with_packages=with_packages)
        return results(about, sizes.rounds, stages, windows, appends)


def _prepared(
    stack: ExitStack, url: str, options: argparse.Namespace, sizes: Sizes, *, with_packages: bool
) -> list[Stage]:
    known = workloads()
    stages = [prepare(stack, url, known["bank"], events, sizes) for events in options.events]
    stages += [
        prepare(stack, url, known[name], events, sizes)
        for name in options.workloads
        for events in options.other_events
    ]
    if with_packages and sizes.package_events:
        stages.append(prepare(stack, url, known["bank"], sizes.package_events, sizes, with_packages=True))
    return stages


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print, write."""
    options = arguments(argv)
    found = run(options)
    text = markdown(found)
    sys.stdout.write(text + "\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        directory = options.docs / "performance"
        directory.mkdir(exist_ok=True)
        (directory / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if find_spec("matplotlib") is not None:
            from bench.plots import write_plots

            plots = write_plots(found, directory)
            text += "".join(f"\n\n![{path.stem}](performance/{path.name})" for path in plots)
        write_between_markers(options.docs / "performance.md", text)


if __name__ == "__main__":
    main()
