"""Which errors are a fault of the rows, and what is said of them."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from sequent_py.errors import ConstraintViolated, DuplicateRecord, ProjectionFailed
from sequent_py.persistors.refusals import circumstance_of, refusal_of

OF_ROWS = [
    errors.CheckViolation,
    errors.NotNullViolation,
    errors.UniqueViolation,
    errors.ForeignKeyViolation,
    errors.ExclusionViolation,
    errors.NumericValueOutOfRange,
    errors.StringDataRightTruncation,
    errors.RaiseException,
    errors.AssertFailure,
    errors.WithCheckOptionViolation,
    errors.CardinalityViolation,
    errors.ProgramLimitExceeded,
    psycopg.DataError,
]
OF_CIRCUMSTANCES = [
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    errors.AdminShutdown,
    errors.DiskFull,
    errors.OutOfMemory,
    errors.TooManyConnections,
    errors.ConnectionException,
    errors.StatementTooComplex,
    psycopg.OperationalError,
]
OF_NEITHER = [
    errors.UndefinedColumn,
    errors.InsufficientPrivilege,
    errors.InFailedSqlTransaction,
    errors.ReadOnlySqlTransaction,
    errors.InternalError_,
    ValueError,
]


def failed_by(cause: BaseException) -> ProjectionFailed:
    error = ProjectionFailed("P", "Opened", None, 1, "no")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", OF_ROWS)
def test_what_the_rows_are_to_blame_for(error: type[Exception]) -> None:
    refusal = error("no")
    assert refusal_of(refusal) is refusal
    assert refusal_of(failed_by(refusal)) is refusal
    assert circumstance_of(failed_by(refusal)) is None


@pytest.mark.parametrize("error", [*OF_CIRCUMSTANCES, *OF_NEITHER])
def test_what_they_are_not_to_blame_for(error: type[Exception]) -> None:
    assert refusal_of(error("no")) is None
    assert refusal_of(failed_by(error("no"))) is None


@pytest.mark.parametrize("error", OF_CIRCUMSTANCES)
def test_what_whoever_tries_again_may_not_meet_again(error: type[Exception]) -> None:
    cause = error("no")
    assert circumstance_of(failed_by(cause)) is cause
    wrapped = RuntimeError("a handler's own words")
    wrapped.__cause__ = cause
    assert circumstance_of(failed_by(wrapped)) is cause


@pytest.mark.parametrize("error", OF_NEITHER)
def test_a_handlers_own_error_stays_its_own(error: type[Exception]) -> None:
    assert circumstance_of(failed_by(error("no"))) is None


def test_causes_that_form_a_ring_come_to_an_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert circumstance_of(first) is None


def test_a_duplicate_counts_where_the_row_was_there_before() -> None:
    in_memory = DuplicateRecord("R", {"id": 1})
    assert refusal_of(failed_by(in_memory)) is None
    late = DuplicateRecord("R", {"id": 1})
    late.is_late = True
    assert refusal_of(failed_by(late)) is late
    written = DuplicateRecord("R", {})
    written.__cause__ = errors.UniqueViolation("no")
    assert refusal_of(written) is written.__cause__


def test_the_message_says_what_is_known() -> None:
    def violated(event_type: str, aggregate: str | None, number: int | None) -> str:
        return str(ConstraintViolated("P", event_type, aggregate, number, "no.", table="t", constraint="c"))

    assert violated("Opened", "a-1", 7) == (
        "P failed on Opened (aggregate a-1, sequence number 7): t refuses its rows by c: no."
    )
    assert violated("", "a-1", None) == "P failed on aggregate a-1: t refuses its rows by c: no."
    assert violated("", None, None) == "P failed on several aggregates: t refuses its rows by c: no."
