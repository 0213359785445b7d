"""Work that needs locks on tables of others, done in short tries: nobody waits for long behind a lock that we wait for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors

R = TypeVar("R")

LOCK_TIMEOUT_SECONDS = 0.2
"""Of one try, at most: everybody who comes later waits behind us for that long."""
FIRST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 1.0

_QUARTER = "SELECT extract(epoch FROM pg_catalog.current_setting('deadlock_timeout')::interval / 4)::float8"


def in_short_tries(connection: psycopg.Connection[Any], work: Callable[[float], R], *, seconds: float) -> R:
    """Return what ``work`` returns, which gets the lock timeout of a try; try again until ``seconds`` have passed.

    ``work`` runs in a transaction or savepoint of its own, so that a try which failed has given all of its locks back. The lock timeout is
    a quarter of ``deadlock_timeout`` at most. Somebody may hold a weak lock on a table and want a stronger one, as we do when we take off a key that a file has just put
    on: we have given way by the time that his session would look for deadlocks.

    Raises
    ------
    psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected
        The last try did not get its locks either.
    """
    row = connection.execute(_QUARTER).fetchone()
    assert row is not None
    lock_timeout = max(min(LOCK_TIMEOUT_SECONDS, seconds, float(row[0])), 0.001)
    deadline = time.monotonic() + seconds
    backoff = FIRST_BACKOFF_SECONDS
    while True:
        try:
            return work(lock_timeout)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if time.monotonic() + backoff > deadline:
                raise
        # Whoever queued behind the try goes first; jitter keeps two such tools from meeting for ever.
        time.sleep(backoff * random.uniform(0.5, 1.5))
        backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
