"""Loading: rows of a query by binary COPY, made in C.

A row that the driver makes of the server's text costs three times as much; but what it makes is the definition. So only values of common types are made here, and where a
row has another one (an infinite date, a NaN), all of the query is left to the driver, who says what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, cast

import psycopg
from psycopg import sql

from sequent_py.binary_copy import HEADER, TRAILER
from sequent_py.copy_out import copy_out
from sequent_py.persistors.native import NativeTable
from sequent_py.row_classes import Row


class NotLoaded(Exception):
    """A row has a value that is not made here."""


def load_rows(
    connection: psycopg.Connection[Any], table: NativeTable, query: bytes, parameters: Sequence[Any]
) -> list[Row]:
    """Return the rows of a query that selects all columns of the table, in a transaction of the caller's.

    Raises
    ------
    NotLoaded
        Ask the driver.
    """
    # COPY takes no parameters from a client.
    text = psycopg.ClientCursor(connection).mogrify(query, parameters)
    load, rows = table.layout.load, list[Row]()
    with closing(copy_out(connection, sql.SQL(cast(Any, text)))) as blocks:
        # The first block begins with the header, to which the server adds nothing.
        block = next(blocks)[HEADER.size :]
        while (row := load(block)) is not None:
            rows.append(row)
            block = next(blocks)
        # To the end, for giving up would end the caller's transaction.
        rest = [block, *blocks]
    if rest != [TRAILER]:
        raise NotLoaded
    return rows
