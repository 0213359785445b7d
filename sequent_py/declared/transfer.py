"""Transfers: a group's events from the reader's COPY through a program to COPY on the writer.

In the transaction of the writer, within a savepoint of its own, as :mod:`.groups`. Memory: a row of each aggregate of the group, and as many rows of events as
make up a few megabytes.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from itertools import islice
from typing import Any

import psycopg

from sequent_py.binary_copy import BEGINNING, TRAILER
from sequent_py.copy_out import copy_out
from sequent_py.declared.compiler import Source
from sequent_py.declared.oddities import Odd, unless_odd
from sequent_py.declared.program import Program

EVENTS_PER_CALL = 1_000
MOST_WAITING_BYTES = 4 * 1024 * 1024
"""Rows of a table that wait are written when they are more than that."""


def transfer(
    reader: psycopg.Connection[Any],
    writer: psycopg.Connection[Any],
    program: Program,
    source: Source,
    counted: Collection[int],
) -> tuple[int, dict[str, int]] | None:
    """Write the rows of all tables; return how many events of the types ``counted`` there were, and how many rows of each table.

    None, and nothing written, where something is for the handlers to judge.

    Raises
    ------
    psycopg.Error
        It says nothing of the rows: the connection, a lock, the disk.
    """

    def fold_and_write() -> tuple[int, dict[str, int]]:
        fold = program.begin()
        with closing(copy_out(reader, program.query(source))) as blocks:
            while some := list(islice(blocks, EVENTS_PER_CALL)):
                if not fold.fold(some):
                    raise Odd
                _write(writer, program, fold, more_than=MOST_WAITING_BYTES)
        if not fold.has_ended:
            raise Odd
        fold.end()
        _write(writer, program, fold, more_than=0)
        counts = zip(program.type_ids, fold.counts, strict=True)
        events = sum(count for type_id, count in counts if type_id in counted)
        names = [table.table for table in program.tables]
        return events, dict(zip(names, fold.rows, strict=True))

    return unless_odd(writer, fold_and_write)


def _write(writer: psycopg.Connection[Any], program: Program, fold: Any, *, more_than: int) -> None:
    for number, table in enumerate(program.tables):
        if fold.waiting(number) > more_than:
            with writer.cursor() as cursor, cursor.copy(table.statement) as copy:
                for part in (BEGINNING, fold.take(number), TRAILER):
                    copy.write(part)
