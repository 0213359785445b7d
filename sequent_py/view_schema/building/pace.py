"""Pace: whether catching up gets ahead of the writers.

While a pass replays what has come in, more comes in. Passes get shorter as long as the replay is faster than the writers; where they do not, more of them
would never end, and whoever waits should hear it at once. Pure.
"""

from __future__ import annotations

from sequent_py.errors import CatchUpTooSlow
from sequent_py.replay.limits import UNLIMITED, Limits

ENOUGH_SHORTER = 0.9
"""A pass that leaves more than this share of what it found has gained nothing: from there to a window for which everybody may wait it is too far."""
LOSING_PASSES = 2
"""So many in a row: one may be a burst of the writers, or a busy machine."""
SHORT_PASS_SECONDS = 0.5
"""Passes that take less are as short as they get, by what every pass costs; those who hold their connections open are quicker."""


class Pace:
    """What the passes of one approach have gained so far."""

    def __init__(self, held_back_by: Limits = UNLIMITED) -> None:
        self._losing, self._limits = 0, held_back_by

    def note(self, *, found: int, left: int, seconds: float) -> bool:
        """Take note of a pass: events that were pending before and are after it, and how long it took; whether another one may help.

        Raises
        ------
        CatchUpTooSlow
            Passes do not get shorter, and are not short; with both rates.
        """
        self._losing = self._losing + 1 if left > found * ENOUGH_SHORTER else 0
        if seconds < SHORT_PASS_SECONDS:
            return self._losing == 0
        if self._losing < LOSING_PASSES:
            return True
        error = CatchUpTooSlow(
            f"Catching up does not get ahead of the writers: in the last {seconds:.1f} s {found / seconds:,.0f} events/s were caught up and"
            f" {left / seconds:,.0f} events/s appended; {left:,} are pending.",
            remedy=self._remedy(),
        )
        error.is_final = True
        raise error

    def _remedy(self) -> str:
        give = "Give" if self._limits == UNLIMITED else f"It runs with {self._limits}: ease that, give"
        return (
            f"{give} it more workers (--workers; projectors of ordering global have one lane each), slow the writers down, or run it when less is"
            " written; or: sequent migrate offline, which holds the writers up."
        )
