"""What both demonstrations do: time phases, show reports, count what flows by, and take one version through online and offline."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from sequent_py.app import Sequent
from sequent_py.config import Config
from sequent_py.demo.reports import DemoProgress, Phase
from sequent_py.view_schema.reports import OfflineReport

T = TypeVar("T")

_COUNT_INTERVAL_SECONDS = 0.2


class Session:
    """The phases of one demonstration, as they are done."""

    def __init__(self, progress: DemoProgress) -> None:
        self.progress = progress
        self._phases: list[Phase] = []
        self.gate_closed_seconds = 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those that are over."""
        return tuple(self._phases)

    @contextmanager
    def phase(self, name: str) -> Iterator[list[int]]:
        """Time the block. What it puts into the list counts as the phase's events."""
        self.progress.step(name)
        events: list[int] = []
        started = time.monotonic()
        yield events
        self._phases.append(Phase(name, sum(events), time.monotonic() - started))

    def counted(self, items: Iterable[T], total: int) -> Iterator[T]:
        """Pass the items on, and tell who watches how many there were."""
        done, told = 0, time.monotonic()
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - told >= _COUNT_INTERVAL_SECONDS:
                self.progress.counted(done, total)
                told = now
        self.progress.counted(done, total)

    def online(self, app: Sequent, name: str) -> None:
        """Show the plan, run online, show the status."""
        self.progress.step(f"{name}: plan")
        self.progress.report(app.view_schema.plan())
        with self.phase(f"{name}: online") as events:
            report = app.view_schema.online(progress=self.progress)
            events.append(report.events)
        self.progress.report(report)
        self.progress.report(app.view_schema.status())

    def offline(self, app: Sequent, name: str) -> OfflineReport:
        """Run offline, show the status."""
        with self.phase(f"{name}: offline") as events:
            report = app.view_schema.offline(progress=self.progress)
            events.append(report.catch_up_events + report.window_events)
        self.gate_closed_seconds = report.closed_seconds
        self.progress.report(report)
        self.progress.report(app.view_schema.status())
        return report


@contextmanager
def importable(directory: Path) -> Iterator[None]:
    """Put a project first on ``sys.path`` for the block: the example's modules are meant, whatever else bears their names."""
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))


def application(
    project_directory: Path,
    database_url: str,
    migrations_class: str,
    *,
    sql_directory: str = "sql",
    workers: int | None = None,
) -> Sequent:
    """Return the example as an application on the scratch database."""
    config = Config(
        database_url=SecretStr(database_url),
        project_directory=project_directory,
        migrations_class=migrations_class,
        sql_directory=Path(sql_directory),
    )
    return Sequent(config if workers is None else config.model_copy(update={"workers": workers}))
