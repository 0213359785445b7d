"""The collector is paused for a block and is afterwards as it was before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from sequent_py import collector
from sequent_py.collector import collector_paused, freeze_for_good


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    was_enabled = gc.isenabled()
    monkeypatch.setattr(collector, "_process", {"is_ours": False})
    yield
    gc.unfreeze()
    (gc.enable if was_enabled else gc.disable)()


def test_it_does_not_run_in_the_block_and_walks_only_what_that_has_made() -> None:
    gc.enable()
    before = object.__new__(type("Old", (), {}))
    with collector_paused() as was_enabled:
        assert was_enabled
        assert not gc.isenabled()
        made = object.__new__(type("New", (), {}))
        walked = gc.get_objects()
        assert any(item is made for item in walked)
        assert not any(item is before for item in walked)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert any(item is before for item in gc.get_objects())


def test_blocks_may_be_nested() -> None:
    gc.enable()
    with collector_paused():
        with collector_paused() as was_enabled:
            assert not was_enabled
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    with collector_paused() as was_enabled:
        assert not was_enabled
    assert not gc.isenabled()


def test_what_the_application_has_frozen_stays_frozen() -> None:
    gc.enable()
    gc.freeze()
    with collector_paused():
        pass
    assert gc.get_freeze_count() > 0
    assert gc.isenabled()


def test_in_a_process_of_ours_what_is_there_is_frozen_for_good_and_never_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.enable()
    freeze_for_good()
    later = object.__new__(type("Later", (), {}))
    with monkeypatch.context() as uncountable:
        uncountable.delattr(gc, "get_freeze_count")
        with collector_paused() as was_enabled:
            assert was_enabled
            assert not any(item is later for item in gc.get_objects())
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
