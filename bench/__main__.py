"""Run the suite: appends; every contender in turn, round after round; then windows, and the proof that the tables are right.

    python -m bench [--events 200000 1000000 10000000] [--other-events 200000] [--rounds 3] [--docs docs]

The bank is measured at each of ``--events``; the shop, the wide and the long-stream workload at each of ``--other-events``; one aggregate of ``--one-stream-events``; the packages of PyPI, where
they are installed, beside ours on stores of ``--package-events``. That takes a little more than an hour on two quiet cores;
without the 10 M some 25 minutes. A thousand aggregates of 10,000 events are a part of their own, a quarter of an hour, which is shown together with what an earlier run found:

    python -m bench --events --workloads long-streams --other-events 10000000 --one-stream-events 0 --windows --no-packages --appends 0 --workers 2 --beside docs/performance/results.json --docs docs

An application of your own takes part as a bench.workloads.Workload: a history, its migrations, and the same tables in plain SQL, as in bench/workloads/shop. Beside hand-written SQL alone:

    python -m bench --events --workloads mine.workload:MINE --other-events 300000 --one-stream-events 0 --windows --no-packages --appends 0

A server is started for the run unless SEQUENT_DATABASE_URL names one, which nothing else may use meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from bench.appending import measure_appends, measure_durable_appends
from bench.measure import Meter
from bench.report import beside, machine, markdown, results, write_between_markers
from bench.server import DURABLE_SETTINGS, say, server
from bench.stages import Sizes, Stage, has_packages, prepare, prove, run_rounds
from bench.windows import run_windows
from bench.workloads import Workload, workload, workloads


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="*", default=[200_000, 1_000_000, 10_000_000])
    parser.add_argument("--other-events", type=int, nargs="*", default=[200_000])
    parser.add_argument(
        "--workloads",
        type=_workload,
        nargs="*",
        default=[workload(name) for name in ("shop", "wide", "long-streams")],
        help=f"{', '.join(workloads())}, or one of your own as module:NAME",
    )
    parser.add_argument(
        "--one-stream-events", type=int, default=1_000_000, help="of the store with one aggregate; 0: none"
    )
    parser.add_argument("--package-events", type=int, nargs="*", default=Sizes().package_events)
    parser.add_argument("--per-event-events", type=int, default=Sizes().per_event_events)
    parser.add_argument("--windows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--appends", type=int, default=2_000, help="events per measurement; 0: none")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-packages", action="store_true", help="leave the packages of PyPI out")
    parser.add_argument(
        "--beside",
        type=Path,
        help="figures of an earlier run (JSON), shown with what this one does not measure",
    )
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument(
        "--docs", type=Path, help="write performance.md, and figures and plots under performance/, here"
    )
    return parser.parse_args(argv)


def _workload(name: str) -> Workload:
    try:
        return workload(name)
    except LookupError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return the results."""
    sizes = Sizes(
        tuple(options.workers), options.rounds, tuple(options.package_events), options.per_event_events
    )
    with_packages = has_packages() and not options.no_packages
    if not with_packages:
        say("without the packages of PyPI: pip install -e '.[bench]'")
    appends, windows = [], []
    with ExitStack() as stack:
        url = stack.enter_context(server())
        meter = Meter(url)
        with psycopg.connect(url) as connection:
            about = machine(str(connection.info.parameter_status("server_version")))
        # First, for they are soon done, and need nothing of the stages.
        if options.appends:
            appends = measure_appends(url, options.appends, sizes.rounds, with_packages=with_packages)
        stages = _prepared(stack, url, options, sizes, with_packages=with_packages)
        run_rounds(stages, meter, sizes.rounds)
        workers = min(max(sizes.workers), os.cpu_count() or 1)
        if options.windows:
            banks = [stage for stage in stages if stage.workload.name == "bank" and not stage.is_for_packages]
            windows = run_windows(banks, meter, options.windows, sizes.rounds, workers)
        for stage in stages:
            prove(stage, os.cpu_count() or 1)
    if options.appends and not os.environ.get("SEQUENT_DATABASE_URL"):
        # A server that was given has its own durability, which is what the others have shown then.
        with server(DURABLE_SETTINGS) as url:
            appends += measure_durable_appends(url, options.appends, sizes.rounds)
    return results(about, sizes.rounds, stages, windows, appends)


def _prepared(
    stack: ExitStack, url: str, options: argparse.Namespace, sizes: Sizes, *, with_packages: bool
) -> list[Stage]:
    known = workloads()
    beside_packages = set(sizes.package_events) if with_packages else set()
    stages = [
        prepare(stack, url, known["bank"], events, sizes, with_packages=events in beside_packages)
        for events in options.events
    ]
    stages += [
        prepare(stack, url, other, events, sizes)
        for other in options.workloads
        for events in options.other_events
    ]
    if options.one_stream_events:
        # One worker has it all, however many there are.
        alone = replace(sizes, workers=(max(sizes.workers),))
        stages.append(prepare(stack, url, known["one-stream"], options.one_stream_events, alone))
    stages += [
        prepare(stack, url, known["bank"], events, sizes, with_packages=True, is_for_packages=True)
        for events in sorted(beside_packages.difference(options.events))
    ]
    return stages


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print, write."""
    options = arguments(argv)
    # Read before the run: what was misspelt need not wait for its end.
    earlier = json.loads(options.beside.read_text(encoding="utf-8")) if options.beside else None
    found = run(options)
    if earlier is not None:
        found = beside(found, earlier)
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
