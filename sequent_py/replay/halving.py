"""Halving: which items cannot be written, and from which event on. Pure: what "to write" means is the caller's.

Items are written on top of what was written before, so that of two that exclude one another the second is found. A part that is written stays,
and is not looked at again: with one item at fault each of the others is written about twice more, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

MOST_COMPARED = 10
"""Up to so many are tried in all combinations that lack one of them."""


def find_faults(items: Sequence[T], write: Callable[[Sequence[T]], bool], *, most: int) -> list[T]:
    """Return the items that cannot be written, in order; when more than ``most`` are found, the first ``most`` of them.

    ``write`` writes all of the given items, or none and says so by False. All items at once are known to be refused. In the end
    everything that was looked at is written, but for those returned. Items that are refused only while others are missing (a row that
    refers to one of theirs, a name that another gives up) are not at fault. Nothing is returned where all can be written part by part.
    """
    refused = _refused_one_by_one(items, write, most=max(most, MOST_COMPARED))
    refused = _still_refused(refused, write)
    if 1 < len(refused) <= MOST_COMPARED:
        refused = _refused_together(refused, write)
    return refused[:most]


def _refused_one_by_one(items: Sequence[T], write: Callable[[Sequence[T]], bool], *, most: int) -> list[T]:
    middle = len(items) // 2
    # The next part comes last.
    parts = [items[middle:], items[:middle]]
    refused: list[T] = []
    while parts and len(refused) < most:
        part = parts.pop()
        if not part or write(part):
            continue
        if len(part) == 1:
            refused.append(part[0])
            continue
        middle = len(part) // 2
        parts += [part[middle:], part[:middle]]
    return refused


def _still_refused(refused: list[T], write: Callable[[Sequence[T]], bool]) -> list[T]:
    """Try each again, now that the others are there, for as long as that helps anybody."""
    while refused:
        still = [item for item in refused if not write([item])]
        if len(still) == len(refused):
            break
        refused = still
    return refused


def _refused_together(refused: list[T], write: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return the one without whom all others can be written at once: they may need one another."""
    if write(refused):
        return []
    for place, item in enumerate(refused):
        if write([*refused[:place], *refused[place + 1 :]]):
            return [item]
    return refused


def shortest_refused(length: int, is_refused: Callable[[int], bool]) -> int:
    """Return a length up to ``length`` at which a prefix is refused while the one that is shorter by one is not.

    It is the first such length, unless what is refused comes and goes. Nothing is refused at 0, and ``length`` is: neither is asked for.
    """
    accepted, refused = 0, length
    while refused - accepted > 1:
        middle = (accepted + refused) // 2
        if is_refused(middle):
            refused = middle
        else:
            accepted = middle
    return refused
