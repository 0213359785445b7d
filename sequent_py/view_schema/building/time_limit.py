"""The time that a command may take in all: looked at between its steps, passes and groups, where nothing is lost by stopping.

What cannot be stopped halfway, a comparison or a try at the locks, is finished first; those have bounds of their own.
"""

from __future__ import annotations

import math
import time

from sequent_py.errors import TimeLimitReached


class TimeLimit:
    """So many seconds from when this is made; None: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._started = time.monotonic()

    @property
    def remaining_seconds(self) -> float:
        """What is left; infinite without a limit, and never below 0."""
        if self._seconds is None:
            return math.inf
        return max(self._started + self._seconds - time.monotonic(), 0.0)

    def require(self) -> None:
        """Refuse to go on where nothing is left.

        Raises
        ------
        TimeLimitReached
            What was done so far is kept.
        """
        if self.remaining_seconds == 0:
            raise self.reached()

    def reached(self) -> TimeLimitReached:
        """Return the error of a command that has to stop here."""
        elapsed = time.monotonic() - self._started
        return TimeLimitReached(
            f"It was to take {self._seconds:g} s at most, and was given up after {elapsed:.1f} s; nothing was swapped."
        )
