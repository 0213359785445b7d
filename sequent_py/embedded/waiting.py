"""Waiting for files and processes: locks, conditions, and the end of a log."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable

_POLL_SECONDS = 0.02


def try_lock(lock: int) -> bool:
    """Take a file's lock for us alone, if nobody has it; whether it is ours now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Wait until a condition holds; whether it came to that in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def last_lines(text: str, count: int = 3) -> str:
    """Return the end of a log in one line."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])
