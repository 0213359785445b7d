"""The cyclic garbage collector, kept from walking what stays.

A process that has imported an application has some 500,000 objects that never go. Every full collection walks them all, for 50 ms and more, and work that makes many objects
has one every few tens of thousands of them: a third of the CPU that planning a view migration took.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_process = {"is_ours": False}


def freeze_for_good() -> None:
    """Keep the collector from ever walking what this process has now; for a process that is ours alone, such as a command's, once it has imported."""
    _process["is_ours"] = True
    gc.freeze()


@contextmanager
def collector_paused() -> Iterator[bool]:
    """Keep the collector from running for the block, which is to be short or to collect by itself; whether it was at work before.

    Collecting within the block walks only what the block has made. Also a decorator. Blocks may be nested.
    """
    was_enabled = gc.isenabled()
    is_ours = _process["is_ours"]
    # What the application has frozen by itself could not be told from ours afterwards. Counting walks it, 8 ms for what a command has imported.
    freezes = was_enabled and (is_ours or gc.get_freeze_count() == 0)
    gc.disable()
    if freezes:
        gc.freeze()
    try:
        yield was_enabled
    finally:
        if freezes and not is_ours:
            gc.unfreeze()
        if was_enabled:
            gc.enable()
