"""Cutting a pass into groups. Pure.

A group is replayed for the projectors of one ordering. Under ``aggregate`` it is a half-open range of aggregate ids, within one hash
partition of ``events`` or across all of them; under ``partition`` a slice of the partition keys by their hash; under ``global`` everything.
The groups of one ordering are disjoint and together cover every aggregate, whatever the sample was: a poor sample makes uneven groups,
never wrong ones. A plan with projectors of several orderings reads the events once for each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from sequent_py.ordering import Ordering

PARTITION_COUNT = 16
"""Hash partitions of ``events``. One partition in position order reads three times as fast as a range of an unpartitioned table."""

SINGLE_GROUP_EVENTS = 5_000
"""Below this many events the fixed cost of a group outweighs parallel work: the pass is one group."""

WINDOW_GROUP_EVENTS = 20_000
"""The groups of a window that has more for each worker are not made smaller: each begins with nothing in memory and reads what it needs, in a few statements if they serve many events."""

SMALLEST_WINDOW_GROUP_EVENTS = 2_500
"""Nor are those of a shorter window, of which each worker gets one, made smaller than this: less is done before another worker has begun."""

MANY_IDS = 10
"""So many sampled ids for each piece tell long aggregates from others."""

SLICES_PER_WORKER = 2
"""Enough that a worker which finishes early finds another slice."""


@dataclass(frozen=True, slots=True)
class Group:
    """A disjoint slice of the aggregates.

    ``partition`` is a hash partition's number, None for all of them; ``lower`` is inclusive, ``upper`` exclusive, None is open.
    ``slice`` is one of ``slices`` numbers from 0; both are given under the ordering ``partition`` alone.
    """

    partition: int | None
    lower: UUID | None
    upper: UUID | None
    estimated_events: int
    ordering: Ordering = "aggregate"
    slice: int | None = None
    slices: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionSample:
    """What is known of one partition: how many events, and the aggregate ids of a sample of them."""

    estimated_events: int
    aggregate_ids: Sequence[UUID] = ()


WHOLE_STORE = Group(partition=None, lower=None, upper=None, estimated_events=0)


def cut_pass(
    samples: Mapping[Ordering, Mapping[int, PartitionSample]],
    *,
    target_events: int,
    workers: int,
    is_window: bool = False,
) -> tuple[Group, ...]:
    """Cut a pass into groups for every ordering that has a sample, the largest first; ``is_window`` tells catch-up from a first pass."""
    groups: list[Group] = []
    for ordering, sampled in samples.items():
        total = events_of(sampled)
        match ordering:
            case "aggregate":
                cut_aggregates = cut_window if is_window else cut
                groups += cut_aggregates(sampled, target_events=target_events, workers=workers)
            case "partition":
                groups += cut_partition_keys(total, target_events=target_events, workers=workers)
            case "global":
                groups.append(Group(None, None, None, total, "global"))
    return tuple(sorted(groups, key=lambda group: -group.estimated_events))


def events_of(samples: Mapping[int, PartitionSample]) -> int:
    """Sum the estimates of all partitions."""
    return sum(sample.estimated_events for sample in samples.values())


def cut_partition_keys(total: int, *, target_events: int, workers: int) -> tuple[Group, ...]:
    """Cut all partition keys into equal slices of their hashes.

    A few for each worker and no more, however many events there are: every slice reads the whole pass and leaves the others' events out.
    """
    slices = 1
    if total > min(SINGLE_GROUP_EVENTS, target_events):
        slices = max(1, min(-(-total // max(target_events, 1)), SLICES_PER_WORKER * max(workers, 1)))
    return tuple(
        Group(None, None, None, total // slices, "partition", number, slices) for number in range(slices)
    )


def cut(samples: Mapping[int, PartitionSample], *, target_events: int, workers: int) -> tuple[Group, ...]:
    """Cut a pass into groups of aggregates of about ``target_events``, the largest first.

    Small passes become one group; otherwise every partition with any events yields at least one, and there are enough groups that a
    worker that finishes early finds another. Partitions estimated as empty still yield a group: an estimate is not a fact.
    """
    total = events_of(samples)
    if total <= min(SINGLE_GROUP_EVENTS, target_events):
        return (Group(None, None, None, total),)
    target = group_target(total, target_events=target_events, workers=workers)
    groups = [
        group for partition, sample in samples.items() for group in _cut_partition(partition, sample, target)
    ]
    return tuple(
        sorted(groups, key=lambda group: (-group.estimated_events, group.partition, str(group.lower or "")))
    )


def group_target(total: int, *, target_events: int, workers: int) -> int:
    """Return how many events a group of a first pass of ``total`` should have: enough groups that a worker which finishes early finds another."""
    return max(1, min(target_events, -(-total // (4 * max(workers, 1)))))


def pieces_of(events: int, target: int) -> int:
    """Return in how many groups so many events of one partition are cut."""
    return max(1, round(events / target))


def cut_window(
    samples: Mapping[int, PartitionSample], *, target_events: int, workers: int
) -> tuple[Group, ...]:
    """Cut a window into ranges of aggregates across all partitions, the largest first.

    A window is read by the transactions that wrote it, so that a partition is no shorter way to its events, and sixteen small groups only cost
    sixteen times what every group costs. There are two for each worker if they are not too small, so that one that finishes early finds another; of a
    short window, one.
    """
    total = events_of(samples)
    share = -(-total // max(workers, 1))
    if share <= WINDOW_GROUP_EVENTS:
        size = max(SMALLEST_WINDOW_GROUP_EVENTS, share)
    else:
        size = max(WINDOW_GROUP_EVENTS, -(-share // SLICES_PER_WORKER))
    pieces = max(1, round(total / min(target_events, size)))
    aggregate_ids = [each for sample in samples.values() for each in sample.aggregate_ids]
    edges: list[UUID | None] = [None, *_boundaries(aggregate_ids, pieces), None]
    share = total // (len(edges) - 1)
    return tuple(Group(None, lower, upper, share) for lower, upper in pairwise(edges))


def _cut_partition(partition: int, sample: PartitionSample, target_events: int) -> list[Group]:
    pieces = pieces_of(sample.estimated_events, target_events)
    quantiles = _boundaries(sample.aggregate_ids, pieces)
    if not quantiles:
        return [Group(partition, None, None, sample.estimated_events)]
    ordered = sorted(sample.aggregate_ids)
    boundaries = _with_long_ones_alone(quantiles, ordered, pieces)
    edges: list[UUID | None] = [None, *boundaries, None]
    places = [0, *(bisect_left(ordered, boundary) for boundary in boundaries), len(ordered)]
    # The largest are begun first, so their sizes are told apart.
    return [
        Group(partition, lower, upper, sample.estimated_events * (end - start) // len(ordered))
        for (lower, upper), (start, end) in zip(pairwise(edges), pairwise(places), strict=True)
    ]


def _boundaries(aggregate_ids: Sequence[UUID], pieces: int) -> list[UUID]:
    """Quantiles of the sample, without repeats: an aggregate that fills several quantiles is still one group's."""
    if pieces <= 1 or not aggregate_ids:
        return []
    ordered = sorted(aggregate_ids)
    quantiles = (ordered[len(ordered) * piece // pieces] for piece in range(1, pieces))
    return sorted({boundary for boundary in quantiles if boundary != ordered[0]})


def _with_long_ones_alone(quantiles: Sequence[UUID], ordered: Sequence[UUID], pieces: int) -> list[UUID]:
    """Give aggregates that fill half a piece or more a group of their own: with others it would be larger still."""
    found = set(quantiles)
    for boundary in quantiles:
        behind = bisect_right(ordered, boundary)
        is_long = 2 * (behind - bisect_left(ordered, boundary)) * pieces >= len(ordered)
        # Of few ids each would seem long.
        if is_long and behind < len(ordered) >= MANY_IDS * pieces:
            found.add(ordered[behind])
    return sorted(found)
