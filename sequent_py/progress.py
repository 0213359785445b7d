"""What long work tells whoever watches it.

A :class:`Progress` is told, never asked: the library calls it at most a few times a second from the coordinating thread, and it must not
raise. :data:`SILENT` is the default. Rendering (bars, plain lines, JSON) belongs to the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """A replay pass as the ledger shows it.

    ``events_total`` is an estimate for large stores until ``is_exact``; groups are exact.
    """

    events_done: int
    events_total: int
    groups_done: int
    groups_total: int
    workers: int
    seconds: float
    is_exact: bool = False

    @property
    def events_per_second(self) -> float:
        """Events of finished groups per second of this run; 0 before the first group is done."""
        return self.events_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Remaining seconds at the present rate; None before the first group is done."""
        rate = self.events_per_second
        return max(self.events_total - self.events_done, 0) / rate if rate > 0 else None


class Progress(Protocol):
    """The listener's side."""

    def step(self, name: str) -> None:
        """A named step begins; the one before it is over."""

    def replay(self, progress: ReplayProgress) -> None:
        """The pass under way has moved on."""

    def note(self, text: str) -> None:
        """Something worth a line: what is waited for, what was taken over, a warning."""


class _Silent:
    def step(self, name: str) -> None:
        pass

    def replay(self, progress: ReplayProgress) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
