"""What a demonstration measures and finds: frozen values, ready for ``dataclasses.asdict`` and JSON. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sequent_py.progress import Progress
from sequent_py.view_schema.reports import OfflineReport, OnlineReport, PlanReport, StatusReport


@dataclass(frozen=True)
class Phase:
    """One step of the demonstration."""

    name: str
    events: int
    seconds: float

    @property
    def events_per_second(self) -> float:
        """Events per second of the whole phase; 0 where none were involved."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class WriterReport:
    """What happened to those who kept appending during the migration."""

    appends: int
    """Transactions that succeeded."""
    appends_after_swap: int
    """Of these, those after the gate had reopened: projected live into the new tables."""
    events: int
    refused: int
    """Tries that the closed gate refused; each was repeated until it succeeded."""
    version_refusals: int
    """Tries refused because the code was of the version before."""
    stall_seconds: float
    """The longest time between two successful appends that the closed gate lay between; 0 when it refused none."""
    latency_p50_milliseconds: float
    latency_p99_milliseconds: float
    latency_max_milliseconds: float


@dataclass(frozen=True)
class Comparison:
    """A table against what it must hold."""

    name: str
    rows: int
    """Rows compared."""
    differences: int
    examples: tuple[str, ...]
    """The first differences, in words."""


@dataclass(frozen=True)
class Kept:
    """What ``--keep`` left behind."""

    directory: Path
    """The example application, configured."""
    database: str | None
    """The database on the configured server; None for an embedded server in ``directory``."""


@dataclass(frozen=True)
class DemoReport:
    """A whole demonstration."""

    subject: str
    server: str
    phases: tuple[Phase, ...]
    gate_closed_seconds: float
    writer: WriterReport
    comparisons: tuple[Comparison, ...]
    kept: Kept | None

    @property
    def is_correct(self) -> bool:
        """Whether nothing differs."""
        return not any(comparison.differences for comparison in self.comparisons)


class DemoProgress(Progress, Protocol):
    """Who watches a demonstration: a :class:`~sequent_py.progress.Progress` that is also shown the reports on the way."""

    def counted(self, done: int, total: int) -> None:
        """So many of the step's items are done; called a few times a second."""

    def report(self, report: PlanReport | StatusReport | OnlineReport | OfflineReport) -> None:
        """A command of the view migration has returned this."""
