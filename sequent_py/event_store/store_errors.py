"""What the server says about the event store, as errors of ours: the one place that knows its SQLSTATEs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import psycopg

from sequent_py.errors import (
    DatabaseUnavailable,
    LostTable,
    MaintenanceModeActive,
    PartitionKeyConflict,
    ReadOnlySession,
    SequentError,
    StoreNotInstalled,
    VersionMismatch,
    WrongExpectedVersion,
)

Explain = Callable[[psycopg.Error, psycopg.Connection | None], SequentError | None]
_OUR_FUNCTIONS = ("check_gate_v", "append_events_v", "register_event_types_v")
_NOT_INSTALLED = {"3F000": "does not exist", "42P01": "does not exist", "42883": "is older than this library"}


class translated:
    """Raise the store's errors for the driver's, ``from`` them; others pass as they are. A context, as ``contextlib.suppress`` is.

    ``explain_refusal`` says what the login of ``connection`` lacks, where the server refuses it for want of privileges.
    """

    __slots__ = (
        "_aggregate_id",
        "_code_versions",
        "_connection",
        "_expected_version",
        "_explain_refusal",
        "_schema",
    )

    def __init__(
        self,
        schema: str,
        connection: psycopg.Connection | None,
        *,
        aggregate_id: Any = None,
        expected_version: int | None = None,
        code_versions: Sequence[int] = (),
        explain_refusal: Explain | None = None,
    ) -> None:
        self._schema, self._connection = schema, connection
        self._aggregate_id, self._expected_version = aggregate_id, expected_version
        self._code_versions, self._explain_refusal = code_versions, explain_refusal

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, psycopg.Error):
            return
        connection = self._connection
        if self._explain_refusal is not None and isinstance(error, psycopg.errors.InsufficientPrivilege):
            found = self._explain_refusal(error, connection)
        else:
            found = _translate(
                error, self._schema, self._aggregate_id, self._expected_version, self._code_versions
            )
        if found is None and connection is not None and connection.closed:
            found = DatabaseUnavailable(
                "The connection was lost; whether the last statement took effect is not known.",
                remedy="Look, and try again.",
            )
        if found is not None:
            raise found from error


def _translate(
    error: psycopg.Error,
    schema: str,
    aggregate_id: Any,
    expected_version: int | None,
    code_versions: Sequence[int],
) -> SequentError | None:
    detail = error.diag.message_detail or ""
    match error.diag.sqlstate:
        case "SQ001":
            return WrongExpectedVersion(aggregate_id, expected_version, int(detail))
        case "SQ002":
            return MaintenanceModeActive(detail)
        case "SQ003":
            return VersionMismatch(code_versions, int(detail))
        case "SQ004":
            return PartitionKeyConflict(aggregate_id, detail or None)
        case "25006":
            return ReadOnlySession()
        case "23505" if _is_events_key(error.diag, schema):
            return WrongExpectedVersion(aggregate_id, expected_version, None)
        case "42P01" if any(name in (error.diag.context or "") for name in _OUR_FUNCTIONS):
            # Our own function is there, and misses a table.
            return LostTable(schema, said=error.diag.message_primary or "")
        case "3F000" | "42P01" | "42883" as state:
            return StoreNotInstalled(schema, _NOT_INSTALLED[state])
        case "P0002" if "check_gate_v" in (error.diag.context or ""):
            return StoreNotInstalled(schema, "has lost the row of its gate")
        case _:
            return None


def _is_events_key(diagnostic: psycopg.errors.Diagnostic, schema: str) -> bool:
    # The key of a partition, events_00_pkey to events_15_pkey; the error names no parent.
    name = diagnostic.constraint_name or ""
    return diagnostic.schema_name == schema and name.startswith("events_") and name.endswith("_pkey")
