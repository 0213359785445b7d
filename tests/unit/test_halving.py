"""Halving finds who is at fault, and nobody else, with few writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, log2

from hypothesis import given, settings
from hypothesis import strategies as st

from sequent_py.replay.halving import MOST_COMPARED, find_faults, shortest_refused

Item = tuple[int, str]
"""A number that tells items apart, and what it is about."""


class Table:
    """Takes all of the given items or none, by a rule about what it would hold then."""

    def __init__(self, is_valid: Callable[[Sequence[Item]], bool]) -> None:
        self._is_valid = is_valid
        self.rows: list[Item] = []
        self.written = 0

    def write(self, items: Sequence[Item]) -> bool:
        self.written += len(items)
        rows = [*self.rows, *items]
        if not self._is_valid(rows):
            return False
        self.rows = rows
        return True


def numbered(names: Sequence[str]) -> list[Item]:
    return list(enumerate(names))


def has_no_bad(rows: Sequence[Item]) -> bool:
    return all(name != "bad" for _, name in rows)


def is_unique(rows: Sequence[Item]) -> bool:
    return len({name for _, name in rows}) == len(rows)


def is_complete(rows: Sequence[Item]) -> bool:
    """Every name is the one of a row that must be there."""
    numbers = {str(number) for number, _ in rows}
    return all(name == "free" or name in numbers for _, name in rows)


@given(st.lists(st.sampled_from(["good", "good", "good", "bad"]), min_size=1, max_size=80))
def test_finds_exactly_those_that_are_refused_by_themselves(names: list[str]) -> None:
    items = numbered(names)
    table = Table(has_no_bad)
    bad = [item for item in items if item[1] == "bad"]
    assert find_faults(items, table.write, most=len(items)) == bad
    assert table.rows == [item for item in items if item not in bad]


@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=40))
def test_of_those_that_exclude_one_another_the_later_ones_are_at_fault(names: list[str]) -> None:
    items = numbered(names)
    table = Table(is_unique)
    firsts = {name: items[names.index(name)] for name in names}
    later = [item for item in items if firsts[item[1]] != item]
    assert find_faults(items, table.write, most=len(items)) == later


@given(st.data())
def test_nobody_is_at_fault_for_coming_before_what_it_needs(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 30))
    # A chain or a tree of needs, in any order; some need what never comes.
    needs = ["free"] + [str(data.draw(st.integers(0, number - 1))) for number in range(1, size)]
    lost = data.draw(st.sets(st.integers(0, size - 1), max_size=3))
    items = data.draw(st.permutations([(n, "nowhere" if n in lost else needs[n]) for n in range(size)]))

    def is_wanting(number: int) -> bool:
        return number in lost or (needs[number] != "free" and is_wanting(int(needs[number])))

    table = Table(is_complete)
    faults = find_faults(items, table.write, most=size)
    assert all(is_wanting(number) for number, _ in faults)
    assert is_complete(table.rows)


def test_two_that_need_one_another_are_written_together() -> None:
    items = [(0, "2"), (1, "nowhere"), (2, "0")]
    assert find_faults(items, Table(is_complete).write, most=3) == [(1, "nowhere")]


def test_nothing_is_found_where_every_part_is_accepted() -> None:
    assert find_faults(numbered(["a", "b"]), lambda items: len(items) < 2, most=5) == []
    assert find_faults([], lambda items: True, most=5) == []


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 5))
def test_no_more_are_named_than_asked_for_and_the_search_ends_soon(size: int, most: int) -> None:
    table = Table(has_no_bad)
    assert find_faults(numbered(["bad"] * size), table.write, most=most) == numbered(["bad"] * size)[:most]
    assert table.written <= 4 * size + MOST_COMPARED * (MOST_COMPARED + 2)


@settings(deadline=None)
@given(st.data())
def test_one_at_fault_costs_each_item_two_more_writes(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 2000))
    place = data.draw(st.integers(0, size - 1))
    names = ["good"] * size
    names[place] = "bad"
    table = Table(has_no_bad)
    assert find_faults(numbered(names), table.write, most=1) == [(place, "bad")]
    assert table.written <= 2 * size + ceil(log2(size + 1)) + 2


@given(st.data())
def test_the_shortest_prefix_that_is_refused(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 5000))
    first = data.draw(st.integers(1, length))
    asked: list[int] = []

    def is_refused(events: int) -> bool:
        asked.append(events)
        return events >= first

    assert shortest_refused(length, is_refused) == first
    assert len(asked) <= ceil(log2(length)) if length > 1 else not asked


@given(st.lists(st.booleans(), max_size=50))
def test_where_refusals_come_and_go_it_is_one_that_follows_an_acceptance(refused: list[bool]) -> None:
    answers = [False, *refused, True]
    found = shortest_refused(len(answers) - 1, lambda events: answers[events])
    assert answers[found]
    assert not answers[found - 1]
