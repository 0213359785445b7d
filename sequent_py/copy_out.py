"""Binary COPY from the server, as it comes; those who ask parse the rows (:mod:`sequent_py.binary_copy`)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus


def copy_out(connection: psycopg.Connection[Any], query: sql.Composable) -> Generator[memoryview, None, None]:
    """Yield the blocks of a query's binary COPY, one per row as the server sends them; the header comes with the first row or with the trailer.

    The connection is in COPY mode until the generator is exhausted or closed. Reads from libpq directly: ``cursor.copy()`` waits for the socket in Python before each block, which took a fifth of a replay.
    """
    pgconn = connection.pgconn
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
    result = pgconn.exec_(statement.as_bytes(connection))
    if result.status != ExecStatus.COPY_OUT:
        raise error_from_result(result, encoding=connection.info.encoding)
    is_complete = False
    try:
        get_copy_data = pgconn.get_copy_data
        while True:
            size, block = get_copy_data(0)
            if size <= 0:
                break
            yield block
        is_complete = True
    finally:
        if not is_complete:
            # The consumer gave up: end the query, or the server would send the rest of the group.
            pgconn.get_cancel().cancel()
            while pgconn.get_copy_data(0)[0] > 0:
                pass
        failed = None
        while (outcome := pgconn.get_result()) is not None:
            if outcome.status == ExecStatus.FATAL_ERROR:
                failed = outcome
        # Not before the last result: until then the connection takes no other statement.
        if failed is not None and is_complete:
            raise error_from_result(failed, encoding=connection.info.encoding)
