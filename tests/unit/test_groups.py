"""Groups are disjoint and cover every aggregate, whatever the sample was."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequent_py.replay.groups import (
    PARTITION_COUNT,
    Group,
    PartitionSample,
    cut,
    cut_partition_keys,
    cut_pass,
    cut_window,
)

samples = st.dictionaries(
    st.integers(0, PARTITION_COUNT - 1),
    st.builds(PartitionSample, st.integers(0, 3_000_000), st.lists(st.uuids(), max_size=50)),
    min_size=PARTITION_COUNT,
    max_size=PARTITION_COUNT,
)


def covers(group: Group, partition: int, aggregate_id: UUID) -> bool:
    return (
        group.partition in (None, partition)
        and (group.lower is None or group.lower <= aggregate_id)
        and (group.upper is None or aggregate_id < group.upper)
    )


@given(samples, st.integers(1, 500_000), st.integers(0, 8), st.integers(0, PARTITION_COUNT - 1), st.uuids())
def test_every_aggregate_is_in_exactly_one_group(
    sampled: dict[int, PartitionSample], target: int, workers: int, partition: int, aggregate_id: UUID
) -> None:
    groups = cut(sampled, target_events=max(target, 20_000), workers=workers)
    for candidate in (aggregate_id, *sampled[partition].aggregate_ids):
        assert sum(covers(group, partition, candidate) for group in groups) == 1


@given(samples, st.integers(1, 500_000), st.integers(0, 8), st.integers(0, PARTITION_COUNT - 1), st.uuids())
def test_every_aggregate_of_a_window_is_in_exactly_one_group(
    sampled: dict[int, PartitionSample], target: int, workers: int, partition: int, aggregate_id: UUID
) -> None:
    groups = cut_window(sampled, target_events=max(target, 20_000), workers=workers)
    for candidate in (aggregate_id, *sampled[partition].aggregate_ids):
        assert sum(covers(group, partition, candidate) for group in groups) == 1


def test_a_window_is_cut_into_few_groups_across_partitions() -> None:
    ids = [UUID(int=number << 96) for number in range(2_000)]
    small = {number: PartitionSample(1_250, ids) for number in range(PARTITION_COUNT)}
    large = {number: PartitionSample(12_500, ids) for number in range(PARTITION_COUNT)}
    assert cut_window(small, target_events=100_000, workers=1) == (Group(None, None, None, 20_000),)
    assert [group.estimated_events for group in cut_window(small, target_events=100_000, workers=2)] == [
        10_000
    ] * 2
    assert len(cut_window(small, target_events=100_000, workers=99)) == 8
    groups = cut_pass({"aggregate": large}, target_events=100_000, workers=2, is_window=True)
    assert len(groups) == 4
    assert {group.partition for group in groups} == {None}
    assert len(cut_window(large, target_events=20_000, workers=2)) == 10


@given(samples, st.integers(0, 8))
def test_the_largest_group_comes_first(sampled: dict[int, PartitionSample], workers: int) -> None:
    sizes = [group.estimated_events for group in cut(sampled, target_events=100_000, workers=workers)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_small_pass_is_one_group() -> None:
    sampled = {number: PartitionSample(100) for number in range(PARTITION_COUNT)}
    assert cut(sampled, target_events=100_000, workers=2) == (Group(None, None, None, 1600),)


def test_one_long_aggregate_is_never_split() -> None:
    only = UUID(int=7)
    sampled = {number: PartitionSample(0) for number in range(PARTITION_COUNT)}
    sampled[3] = PartitionSample(1_000_000, [only] * 1000)
    groups = [group for group in cut(sampled, target_events=100_000, workers=2) if group.partition == 3]
    assert groups == [Group(3, None, None, 1_000_000)]


def test_a_long_aggregate_has_a_group_of_its_own_which_comes_first() -> None:
    ids = [UUID(int=number << 96) for number in range(900)]
    long = ids[500]
    sampled = {number: PartitionSample(0) for number in range(PARTITION_COUNT)}
    sampled[3] = PartitionSample(1_200_000, [*ids, *[long] * 300])
    groups = [group for group in cut(sampled, target_events=100_000, workers=2) if group.partition == 3]
    assert (groups[0].lower, groups[0].upper) == (long, ids[501])
    assert groups[0].estimated_events == 301_000
    assert sum(group.estimated_events for group in groups) == 1_200_000


@pytest.mark.parametrize("workers", [0, 1, 2, 8])
def test_there_are_enough_groups_for_the_workers(workers: int) -> None:
    ids = [UUID(int=number << 96) for number in range(2_000)]
    sampled = {number: PartitionSample(62_500, ids) for number in range(PARTITION_COUNT)}
    assert len(cut(sampled, target_events=10_000_000, workers=workers)) >= max(
        PARTITION_COUNT, 4 * workers - 16
    )


@given(st.integers(0, 10**9), st.integers(1, 500_000), st.integers(0, 64))
def test_slices_of_the_partition_keys_are_numbered_from_0_and_never_many(
    total: int, target: int, workers: int
) -> None:
    groups = cut_partition_keys(total, target_events=target, workers=workers)
    assert [group.slice for group in groups] == list(range(len(groups)))
    assert {group.slices for group in groups} == {len(groups)}
    assert len(groups) <= 2 * max(workers, 1)


def test_a_pass_has_groups_for_each_ordering_and_one_lane_for_all_events() -> None:
    sampled = {number: PartitionSample(10_000) for number in range(PARTITION_COUNT)}
    groups = cut_pass(
        {"aggregate": sampled, "partition": sampled, "global": sampled}, target_events=20_000, workers=2
    )
    lanes = [group for group in groups if group.ordering == "global"]
    assert lanes == [Group(None, None, None, 160_000, "global")] == list(groups[:1])
    assert sum(group.ordering == "partition" for group in groups) == 4
    assert sum(group.estimated_events for group in groups) == 3 * 160_000
