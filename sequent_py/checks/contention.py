"""Contention: a check that was in somebody's way, or somebody in its, is made again.

A deadlock, a serialization failure and a lock that could not be had say nothing of the tables or the handlers that are checked. Defaults
and CHECK constraints may call functions that lock rows of their own, and a swap locks the tables that are being copied.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from psycopg import errors as pg

CONTENTIONS = (pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable)
TRIES = 4
BACKOFF_SECONDS = 0.05
"""Before the second try, and twice as long before each further one: whoever was in the way is mostly done with a transaction of milliseconds."""

T = TypeVar("T")


def repeated(check: Callable[[], T]) -> T:
    """Return what ``check`` returns, which takes back what it wrote when it fails; made up to :data:`TRIES` times.

    Raises
    ------
    psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable
        It was so each time.
    """
    for number in range(1, TRIES):
        try:
            return check()
        except CONTENTIONS:
            # Jitter: two that met must not meet again.
            time.sleep(BACKOFF_SECONDS * 2**number * random.uniform(0.25, 0.75))
    return check()
