"""Acceptance: letting a promotion pass although its verification failed, on the record.

``--accept-differences`` is for the case that the differences are understood and the new tables are wanted all the same. What was accepted,
when, by whom and from where stays with the migration's row (``accepted_differences``), for ``status`` and for whoever asks later.
Owner of that column. Nothing else is let pass: unfinished groups, edited events or a failing handler stop a promotion as ever.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from sequent_py.database import for_parameters
from sequent_py.errors import VerificationFailed
from sequent_py.progress import Progress
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.context import Context

ACCEPT_REMEDY = "To promote them as they are, on the record: --accept-differences"
MOST_DIFFERENCES = 50
"""Kept of one failure; the message says how many there were."""


@dataclass(frozen=True, slots=True)
class AcceptedDifferences:
    """What one failed verification found that was let pass."""

    accepted_at: datetime
    database_user: str
    host: str
    found: str
    differences: tuple[str, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> AcceptedDifferences:
        """Read an element of ``accepted_differences``."""
        return cls(
            datetime.fromisoformat(document["accepted_at"]),
            document["database_user"],
            document["host"],
            document["found"],
            tuple(document["differences"]),
        )


@contextmanager
def accepting(
    context: Context, connection: Connection, migration_id: int, progress: Progress
) -> Iterator[None]:
    """Wrap one verification before a promotion: its failure is recorded and let pass if the command accepts differences.

    Outside a transaction the record is committed at once: should the promotion fail later on, it says what was accepted in that attempt.

    Raises
    ------
    VerificationFailed
        It was not asked for.
    """
    try:
        yield
    except VerificationFailed as error:
        if not context.accepts_differences:
            error.remedy = " ".join((error.remedy, ACCEPT_REMEDY + ".")).strip()
            raise
        record(connection, context.schema, migration_id, error)
        progress.note(f"Accepted and recorded: {error.message}")


def record(connection: Connection, schema: str, migration_id: int, error: VerificationFailed) -> None:
    """Append what was found to the migration's row, in a transaction of its own or the caller's."""
    row = connection.execute("SELECT session_user::text").fetchone()
    assert row is not None
    accepted = AcceptedDifferences(
        accepted_at=datetime.now(UTC),
        database_user=str(row[0]),
        host=socket.gethostname(),
        found=error.message,
        differences=tuple(error.differences[:MOST_DIFFERENCES]),
    )
    document = asdict(accepted) | {"accepted_at": accepted.accepted_at.isoformat()}
    connection.execute(
        sql.SQL(
            "UPDATE {} SET accepted_differences = coalesce(accepted_differences, '[]') || %s WHERE id = %s"
        ).format(for_parameters(sql.Identifier(schema, "view_migrations"))),
        (Jsonb([document]), migration_id),
    )


def accepted_differences(
    connection: Connection, schema: str, migration_id: int
) -> tuple[AcceptedDifferences, ...]:
    """Return what was accepted in a migration, the oldest first; reads only."""
    row = connection.execute(
        sql.SQL("SELECT accepted_differences FROM {} WHERE id = %s").format(
            for_parameters(sql.Identifier(schema, "view_migrations"))
        ),
        (migration_id,),
    ).fetchone()
    documents: Any = [] if row is None or row[0] is None else row[0]
    return tuple(AcceptedDifferences.from_json(item) for item in documents)
