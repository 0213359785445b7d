"""Rows that every store has one of: the gate's, which every append reads, and that of ``append_order``, behind which serial appends queue.

Whoever reads the gate misses its row at once. The other is missed by nobody: an append that updates no row waits for nobody, and positions no longer
rise in the order of the commits, on which projectors of ordering ``global`` depend. So it is looked for before each phase, and once more in the transaction of
the swap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.errors import LostRow
from sequent_py.event_store.gate import Gate
from sequent_py.health.findings import Finding, problem

Connection = psycopg.Connection[Any]


def has_append_order(connection: Connection, schema: str) -> bool:
    """Whether the row is there that serial appends queue for."""
    row = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(schema, "append_order"))
    ).fetchone()
    return row == (True,)


def check_append_order(connection: Connection, schema: str) -> Iterator[Finding]:
    """Find the row missing that serial appends queue for."""
    if has_append_order(connection, schema):
        return
    if Gate(schema).has_serial_appends(connection):
        yield problem(
            "append order",
            f"{schema}.append_order has lost its row: appends form no line, as projectors of ordering global need it. What was appended since may be"
            " projected in another order than that of its positions.",
            "Run: sequent init. Then look at what is live: sequent migrate verify --all",
        )
    else:
        yield problem(
            "append order",
            f"{schema}.append_order has lost its row: appends could form no line once a projector of ordering global needs it.",
            "Run: sequent init",
        )


def require_append_order(connection: Connection, schema: str) -> None:
    """Refuse to go on without the row that serial appends queue for.

    Raises
    ------
    LostRow
        With what puts it back.
    """
    for finding in () if has_append_order(connection, schema) else check_append_order(connection, schema):
        raise LostRow(f"{schema}.append_order", "appends to queue for", remedy=finding.remedy)
