"""What a command prints for people, as values: facts, tables, lists and lines, in order.

Commands describe their reports in these; :mod:`sequent_py.cli.render` knows how they look on a terminal and elsewhere. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Tone(StrEnum):
    """How a line is meant; colours follow from it."""

    PLAIN = "plain"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True)
class Line:
    """One sentence."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True)
class Facts:
    """Labels and their values; a value of None is left out."""

    values: Mapping[str, str | None]


@dataclass(frozen=True)
class Grid:
    """A table with a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right_aligned: frozenset[int] = field(default=frozenset())
    """Indexes of the columns that hold numbers."""


@dataclass(frozen=True)
class Items:
    """A titled list; printed only if there are items."""

    title: str
    items: Sequence[str]
    tone: Tone = Tone.PLAIN


Block = Line | Facts | Grid | Items


def count(number: int, noun: str = "", plural: str | None = None) -> str:
    """Return ``1,234 events``; the noun in the plural unless it is one."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a duration to two figures that matter: ``43 ms``, ``4.2 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate(events_per_second: float) -> str:
    """Return ``12,345 events/s``."""
    return f"{events_per_second:,.0f} events/s"
