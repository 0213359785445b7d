"""Persistors: where a projector's reads and writes go.

A projector cannot tell which persistor it has. That is the whole contract, and it rests on four things:

* **One set of values.** Every value is converted in Python, by the type of the table's column, before it goes anywhere
  (``conversions``). Memory then holds what the table would give back.
* **One kind of row.** Rows are generated slot classes (``row_classes``), immutable snapshots outside the block of an update. In memory
  stored rows are copied on write, so that a row somebody holds keeps its old values in both persistors. JSON and array values are copied
  deeply at every border.
* **One order.** Several matching rows come by primary key, text compared by code point.
* **One set of checks.** Filters and values are parsed by the same code (``operations``), in the same order: filters, then values, then
  the look-up.

::

    projector ── LivePersistor ──────── one SQL statement per operation ──── table
              └─ ReplayPersistor ── MemoryTable ── flush: binary COPY ────── table
                                     └─ Residency ── Relation (misses, write-back)
                                          backing="none":  a private temporary table, once memory is full
                                          backing="table": the table itself (catch-up)

=============  =======================================================================================
module         noun
=============  =======================================================================================
tables         what the database knows of a table; defaults drawn in blocks
operations     code generated per table: make, copy and finish rows; parse filters
statements     SQL composed per table
copying        binary COPY
indexes        from filter values to keys
memory         rows of one table
blocks         updates of rows in memory
relations      rows in the database behind memory: the table itself, a spill
backing        which rows of a relation memory speaks for
live, replay   the two persistors
live_tables    a table's statements over one connection, and the row of it that is known without asking
lines          how a live persistor's statements travel on the store's own connections
lookups        look-ups that can be foreseen, so that they travel with the events
deferred       constraints that the server checks at the commit
refusals       errors of the server that are a fault of the rows
=============  =======================================================================================

Errors are alike, too: UnknownColumn, InvalidFilter, InvalidValue, RecordNotFound, DuplicateRecord. What only the server can know (CHECK
and UNIQUE constraints other than the primary key, triggers) speaks at once from the live persistor, later along a line, and from ``flush`` in a replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from sequent_py.errors import DuplicateRecord
from sequent_py.records import Record

R = TypeVar("R", bound=Record)

__all__ = ["DuplicateRecord", "Persistor"]


class Persistor(Protocol):
    """What a projector writes to; :class:`~sequent_py.projectors.Projector` documents the methods.

    Rows are typed as their record for handlers; they are row classes of the same attributes.
    """

    def create_record(self, record: type[R], values: Mapping[str, Any]) -> R: ...

    def create_records(self, record: type[R], rows: Iterable[Mapping[str, Any]]) -> list[R]: ...

    def update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]: ...

    def create_or_update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]: ...

    def get_record(self, record: type[R], where: Mapping[str, Any]) -> R: ...

    def find_record(self, record: type[R], where: Mapping[str, Any]) -> R | None: ...

    def find_records(self, record: type[R], where: Mapping[str, Any]) -> list[R]: ...

    def last_record(self, record: type[R], where: Mapping[str, Any]) -> R | None: ...

    def update_all_records(
        self, record: type[Record], where: Mapping[str, Any], values: Mapping[str, Any]
    ) -> int: ...

    def delete_record(self, record: type[R], row: R) -> int: ...

    def delete_all_records(self, record: type[Record], where: Mapping[str, Any]) -> int: ...
