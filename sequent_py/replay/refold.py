"""Which aggregates a pass re-folds, and when it cannot. Pure.

A snapshot window shows what was appended, never what was changed: ``xact_id`` stays with an updated event and goes with a deleted one. So
edits are noted by aggregate (``event_edits``), and a pass over ``(since, until]`` carries, besides its window, *special aggregates*:

- those edited in the window: their rows are deleted, and all of their events visible in ``until`` are folded anew;
- those that were quarantined, when they are tried again: folded from the snapshot that their rows stand at.

Reading is not as exact as snapshots are: an edit that commits while a pass runs is seen by those who read later. Therefore every pass leaves out
the aggregates that were edited after its ``until``, in the very statement that reads. What it does read is then exactly what ``until``
saw, and the next pass, in whose window the edit lies, folds what was left out. The last pass has no such aggregates, because the gate refuses edits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sequent_py.errors import EventsEdited
from sequent_py.projectors import ProjectorDefinition
from sequent_py.records import record_shape

FREE_EVENTS = 100_000
"""So much is always re-folded: it takes some seconds."""
LARGEST_SHARE = 0.25
"""Of the events that were replayed. Re-folding reads aggregate by aggregate, several times slower than a replay reads: beyond, a new one is faster."""

BEGIN_ANEW = "Begin anew: sequent migrate abort, then sequent migrate online"


@dataclass(frozen=True, slots=True)
class SpecialAggregate:
    """An aggregate of which a pass folds the events visible in its ``until`` and not in ``since`` (None: from the beginning)."""

    aggregate_id: UUID
    since: str | None
    is_edited: bool
    """Whether its rows are deleted first. Then ``since`` is None."""


@dataclass(frozen=True, slots=True)
class Edits:
    """The edits of a window."""

    aggregate_ids: frozenset[UUID] = frozenset()
    boundless: int = 0
    """How many statements may have changed anything (TRUNCATE)."""


def special_aggregates(
    edits: Edits, quarantined: Iterable[SpecialAggregate], obstacles: Sequence[str]
) -> tuple[SpecialAggregate, ...]:
    """Return the special aggregates of a pass, by id; an aggregate that is both counts as edited.

    ``quarantined`` are those to be tried again; ``obstacles`` is what :func:`find_obstacles` says of the projectors.

    Raises
    ------
    EventsEdited
        The edited aggregates cannot be re-folded one by one.
    """
    if edits.boundless:
        raise _edited(
            f"{edits.boundless} statement{'s'[: edits.boundless != 1]} may have changed any event (TRUNCATE, or an edit before edits were"
            " noted by aggregate)"
        )
    if edits.aggregate_ids and obstacles:
        raise _edited(f"events of {_count(edits.aggregate_ids)} were edited or deleted, and {obstacles[0]}")
    found = {special.aggregate_id: special for special in quarantined}
    found |= {
        aggregate_id: SpecialAggregate(aggregate_id, None, True) for aggregate_id in edits.aggregate_ids
    }
    return tuple(found[aggregate_id] for aggregate_id in sorted(found))


def find_obstacles(projectors: Iterable[ProjectorDefinition]) -> tuple[str, ...]:
    """Return why single aggregates cannot be re-folded with these projectors; nothing when they can."""
    found: list[str] = []
    for item in projectors:
        if item.ordering != "aggregate":
            found.append(
                f'{item.name} has ordering = "{item.ordering}": its rows depend on several aggregates'
            )
        for record in item.records:
            shape = record_shape(record)
            if not shape.has_aggregate_id:
                found.append(
                    f"nobody can say which rows of {shape.table_name} are theirs: it has no aggregate_id"
                )
    return tuple(found)


def check_share(*, aggregates: int, events: int, replayed_events: int) -> None:
    """Refuse to re-fold more than is sensible.

    Raises
    ------
    EventsEdited
        It is more than a quarter of what was replayed.
    """
    if max(aggregates, events) > max(FREE_EVENTS, LARGEST_SHARE * replayed_events):
        raise _edited(
            f"{aggregates} aggregates with {events} events were, which is more than a quarter of the {replayed_events} that were replayed"
        )


def _edited(why: str) -> EventsEdited:
    return EventsEdited(
        f"Events were edited or deleted since the last pass: {why}. The new tables may hold what is no longer in the log.",
        remedy=BEGIN_ANEW,
    )


def _count(aggregate_ids: frozenset[UUID]) -> str:
    return (
        f"aggregate {next(iter(aggregate_ids))}"
        if len(aggregate_ids) == 1
        else f"{len(aggregate_ids)} aggregates"
    )
