"""Connections that are kept: who has one has it to himself, and none outlives its engine."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter

import pytest

from sequent_py.kept_connections import MOST_KEPT, KeptConnections


class Thing:
    closed = 0


def kept() -> KeptConnections[Thing]:
    def close(thing: Thing) -> None:
        thing.closed += 1

    return KeptConnections(close)


def test_the_one_that_was_used_last_is_taken_first() -> None:
    them, (one, other) = kept(), (Thing(), Thing())
    for thing in (one, other):
        assert them.adopt(thing)
        them.put_back(thing)
    assert [them.take(), them.take(), them.take()] == [other, one, None]


def test_there_is_room_for_so_many_and_for_more_when_some_were_dropped() -> None:
    them, things = kept(), [Thing() for _ in range(MOST_KEPT + 1)]
    assert [them.adopt(thing) for thing in things] == [True] * MOST_KEPT + [False]
    them.drop(things[0])
    assert them.adopt(things[-1])


def test_one_that_is_dropped_behind_its_return_is_not_lent_again() -> None:
    them, thing = kept(), Thing()
    them.adopt(thing)
    them.put_back(thing)
    them.drop(thing)
    assert them.take() is None


def test_what_is_put_back_after_the_closing_is_closed_and_what_was_idle_is() -> None:
    them, (idle, lent) = kept(), (Thing(), Thing())
    for thing in (idle, lent):
        them.adopt(thing)
    them.put_back(idle)
    them.close()
    them.put_back(lent)
    assert (idle.closed, lent.closed, them.take()) == (1, 1, None)
    assert all(them.adopt(thing) for thing in [Thing() for _ in range(MOST_KEPT)])


def test_no_two_threads_have_one_at_a_time() -> None:
    them, in_use, faults = kept(), Counter[int](), list[int]()

    def use() -> None:
        for _ in range(2_000):
            thing = them.take()
            if thing is None:
                thing = Thing()
                if not them.adopt(thing):
                    continue
            in_use[id(thing)] += 1
            if in_use[id(thing)] != 1:
                faults.append(id(thing))
            in_use[id(thing)] -= 1
            them.put_back(thing)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(in_use) <= MOST_KEPT


def test_no_thread_of_a_forked_child_gets_what_its_parent_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for child in range(1_000):
            them = kept()
            for thing in [Thing() for _ in range(MOST_KEPT)]:
                them.adopt(thing)
                them.put_back(thing)
            monkeypatch.setattr(os, "getpid", lambda child=child: -child)
            assert taken_at_once(them, threads=4) == [None] * 4
    finally:
        sys.setswitchinterval(usual)


def taken_at_once(them: KeptConnections[Thing], threads: int) -> list[Thing | None]:
    start, found = threading.Barrier(threads), list[Thing | None]()

    def take() -> None:
        start.wait()
        found.append(them.take())

    takers = [threading.Thread(target=take) for _ in range(threads)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    return found
