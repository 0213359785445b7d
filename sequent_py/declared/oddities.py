"""Oddities: what one meets in events, or in what the server says of rows, that is for handlers to judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from sequent_py.persistors.refusals import refusal_of

R = TypeVar("R")


class Odd(Exception):
    """There is something for handlers to judge."""


def unless_odd(writer: psycopg.Connection[Any], write: Callable[[], R]) -> R | None:
    """Return what ``write`` does, within a savepoint; None, and nothing written, where it meets an oddity.

    Raises
    ------
    psycopg.Error
        It says nothing of the rows: the connection, a lock, the disk.
    """
    try:
        with writer.transaction():
            return write()
    except Odd:
        return None
    except psycopg.Error as error:
        # A payload that is not sound, a value out of range, a constraint, a trigger: the handlers will say whose fault it is.
        if refusal_of(error) is None:
            raise
        return None
