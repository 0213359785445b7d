"""Snapshot windows as SQL conditions: the one definition of "visible in S2 and not in S1".

Pure. Snapshots are PostgreSQL's ``pg_snapshot`` in text form, ``xmin:xmax:xip,…``: every transaction below ``xmin`` has ended, none from
``xmax`` on had begun, and those listed were in progress. An event belongs to the window of the first snapshot that sees its
transaction, however long that was open, so consecutive windows hold every event once. A snapshot is closed towards the past of each aggregate
(event n+1 can only be written where n is visible), so reading a window in position order keeps the order within every aggregate.

The reader's own transaction must have begun after the ``until`` snapshot was taken: then it sees whatever the snapshot sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from psycopg import sql

from sequent_py.errors import StoreError

_SNAPSHOT = re.compile(r"([0-9]+):([0-9]+):((?:[0-9]+(?:,[0-9]+)*)?)", re.ASCII)
_XID8_LIMIT = 1 << 64
_XACT_ID = sql.Identifier("xact_id")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A parsed ``pg_snapshot``. ``in_progress`` is ascending, within ``[xmin, xmax)``."""

    xmin: int
    xmax: int
    in_progress: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.in_progress))}"

    def sees(self, xact_id: int) -> bool:
        """Whether a transaction that committed is visible: ``pg_visible_in_snapshot``."""
        return xact_id < self.xmin or (xact_id < self.xmax and xact_id not in self.in_progress)


def parse_snapshot(text: str) -> Snapshot:
    """Parse the text form of a ``pg_snapshot``.

    Raises
    ------
    StoreError
        It is not one: a snapshot that was cut off or mixed up must not become a window.
    """
    match = _SNAPSHOT.fullmatch(text) if isinstance(text, str) else None
    if match:
        xmin, xmax = int(match[1]), int(match[2])
        in_progress = tuple(map(int, match[3].split(","))) if match[3] else ()
        is_ascending = all(lower < upper for lower, upper in pairwise(in_progress))
        is_within = all(xmin <= xact_id < xmax for xact_id in in_progress)
        if 0 < xmin <= xmax < _XID8_LIMIT and is_ascending and is_within:
            return Snapshot(xmin, xmax, in_progress)
    raise StoreError(f"{text!r} is not a PostgreSQL snapshot.")


def window_condition(since: str | None, until: str | None, column: sql.Composable = _XACT_ID) -> sql.Composed:
    """Return the condition for the events visible in ``until`` and not in ``since``.

    None: the beginning of the store; what the reading transaction sees. Literals only, so that it fits into COPY; it holds no ``%``.
    The first terms are implied by the exact ones behind them. They are what the btree on ``xact_id`` can answer: a range from
    ``since``'s xmax on, and the few transactions that were in progress then.
    """
    terms: list[sql.Composable] = []
    if since is not None:
        before = parse_snapshot(since)
        terms.append(
            sql.SQL("({column} >= {xmax}::xid8 OR {column} = ANY ({in_progress}::xid8[]))").format(
                column=column,
                xmax=sql.Literal(str(before.xmax)),
                in_progress=sql.Literal("{" + ",".join(map(str, before.in_progress)) + "}"),
            )
        )
        terms.append(_visible(column, before, negated=True))
    if until is not None:
        after = parse_snapshot(until)
        terms.append(sql.SQL("{} < {}::xid8").format(column, sql.Literal(str(after.xmax))))
        terms.append(_visible(column, after, negated=False))
    return sql.SQL(" AND ").join(terms) if terms else sql.Composed([sql.SQL("true")])


def _visible(column: sql.Composable, snapshot: Snapshot, *, negated: bool) -> sql.Composed:
    return sql.SQL("{}pg_visible_in_snapshot({}, {}::pg_snapshot)").format(
        sql.SQL("NOT " if negated else ""), column, sql.Literal(str(snapshot))
    )
