"""Shortcuts: the commonest methods of a projector, straight to its rows in memory.

A handler of a replay calls three or four of them for each event, and each would pass through two functions of Python that only hand it on. What is not usual (other
arguments, a record of others, a row that is not there) goes to the method itself, so that it is said there, and in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sequent_py.native import IS_NATIVE, native
from sequent_py.projectors import Projector, touched_columns
from sequent_py.records import Record

if TYPE_CHECKING:
    from sequent_py.persistors.memory import MemoryTable

# In the order of enum Method in _native.c.
_METHODS = ("create_record", "get_record", "find_record", "update_record", "create_or_update_record")


def shorten(projector: Projector, tables: Mapping[type[Record], MemoryTable]) -> None:
    """Let a projector that projects into these tables take the short way, but for methods that its class has made its own."""
    if not IS_NATIVE:
        return
    accesses = {
        record: (access, tuple(touched_columns(record)), tuple(touched_columns(record).values()))
        for record in projector.manages_tables
        if (access := tables[record].access) is not None
    }
    for number, name in enumerate(_METHODS):
        if getattr(type(projector), name) is getattr(Projector, name):
            setattr(projector, name, native.Shortcut(number, accesses, getattr(projector, name)))
