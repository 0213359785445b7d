"""Refusals: what the server says of rows that it does not take, told apart from what is no fault of theirs.

A constraint, a column's type, an index or a trigger refuses rows because of what is in them; the same rows are refused again. A lost
connection, a lock that could not be had, a deadlock or a full disk say nothing of the rows. Only the former may be held against an event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

import psycopg

from sequent_py.errors import ConstraintViolated, DuplicateRecord, ProjectionError, ProjectionFailed
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import TableShape
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, record_shape

_OF_ROWS = frozenset({"09", "21", "22", "23", "27", "38", "39", "44", "P0"})
"""SQLSTATE classes: what triggers and functions raise, data exceptions, integrity constraints, WITH CHECK OPTION."""
_OF_CIRCUMSTANCES = frozenset({"08", "25", "40", "53", "55", "57", "58", "F0", "XX"})
"""Connection, transaction state, deadlock and serialization, resources, locks, intervention, the system, corruption. Also if a trigger raises one."""
_INDEX_ROW_TOO_LARGE = "54000"
_RAISE_STATEMENT = "exec_stmt_raise"
"""The server's function behind RAISE. A trigger may choose any SQLSTATE, and the server's messages and contexts may be translated; this is not."""

Refusal = psycopg.Error | DuplicateRecord


def refusal_of(error: BaseException | None) -> Refusal | None:
    """Return the refusal of rows that an error is, or that a handler or persistor passed on as its cause; None where it is something else.

    A :class:`DuplicateRecord` that a handler met in memory is none: the event at hand is the one that made the second row.
    """
    match error:
        case ProjectionFailed():
            return refusal_of(error.__cause__)
        case DuplicateRecord():
            return refusal_of(error.__cause__) or (error if error.is_late else None)
        case psycopg.Error() if _is_of_rows(error):
            return error
    return None


def _is_of_rows(error: psycopg.Error) -> bool:
    state = error.sqlstate
    if state is None:
        # Of the driver: a value that it cannot send, while a lost connection is an OperationalError.
        return isinstance(error, psycopg.DataError)
    if state[:2] in _OF_CIRCUMSTANCES:
        return False
    return (
        state[:2] in _OF_ROWS
        or state == _INDEX_ROW_TOO_LARGE
        or error.diag.source_function == _RAISE_STATEMENT
    )


def circumstance_of(error: BaseException) -> psycopg.OperationalError | None:
    """Return the server's error, in a chain of causes, that is no fault of any row or handler; None where there is none.

    A deadlock, for example, or a serialization failure: whoever tries again may well succeed.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if isinstance(found, psycopg.OperationalError) and not _is_of_rows(found):
            return found
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return None


class Origin(NamedTuple):
    """Where refused rows come from, as far as it is known."""

    event_type: str = ""
    aggregate_id: UUID | None = None
    sequence_number: int | None = None


def constraint_violated(
    refusal: Refusal,
    origin: Origin,
    *,
    projectors: Sequence[type[Projector]],
    tables: Mapping[type[Record], TableShape],
    writing: str | None,
) -> ConstraintViolated:
    """Return the error that says which table refused which event's rows, by which constraint, and why.

    ``writing`` is the relation that was being written, where that is known: the server does not always name it.
    """
    constraint, words, relation = (
        None,
        refusal.message if isinstance(refusal, DuplicateRecord) else "",
        writing,
    )
    if isinstance(refusal, psycopg.Error):
        diagnostic = refusal.diag
        relation = diagnostic.table_name or writing
        constraint = diagnostic.constraint_name
        if constraint is None and diagnostic.table_name and diagnostic.column_name:
            constraint = f"NOT NULL of {diagnostic.column_name}"
        words = _in_one_line([diagnostic.message_primary or str(refusal), diagnostic.message_detail])
    record = next((record for record, table in tables.items() if table.name == relation), None)
    writers = [item for item in projectors if record is None or record in projector_definition(item).records]
    error = ConstraintViolated(
        " or ".join(item.__name__ for item in writers),
        *origin,
        words,
        table=relation if record is None else record_shape(record).table_name,
        constraint=constraint,
    )
    error.__cause__ = refusal
    return error


@contextmanager
def naming_refusals(
    persistor: ReplayPersistor, projectors: Sequence[type[Projector]], aggregate_id: UUID | None = None
) -> Iterator[None]:
    """Raise ConstraintViolated where a table refuses what the persistor writes, for a caller that does not search for the event."""
    try:
        yield
    except (psycopg.Error, ProjectionError) as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise constraint_violated(
            refusal,
            Origin(aggregate_id=aggregate_id),
            projectors=projectors,
            tables=persistor.shapes,
            writing=None if persistor.writing is None else persistor.writing.name,
        ) from refusal


def _in_one_line(parts: Iterable[str | None]) -> str:
    return ". ".join(" ".join(part.split()).removesuffix(".") for part in parts if part) + "."
