"""The rows of the read side; ``sql/<table>.sql`` creates the tables."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sequent_py import Record
from sqlalchemy import Computed
from sqlalchemy.orm import Mapped, mapped_column


class AccountRecord(Record):
    """An account as it stands."""

    __tablename__ = "account_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    owner: Mapped[str]
    currency: Mapped[str]
    balance: Mapped[int]
    transactions: Mapped[int]
    """How often money moved."""
    status: Mapped[str]
    """``open`` or ``closed``."""
    opened_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    is_active: Mapped[bool] = mapped_column(Computed("status = 'open' AND transactions > 0", persisted=True))
    """Since version 3; the database computes it."""


class StatementRecord(Record):
    """A line of an account's statement: one for each of its events."""

    __tablename__ = "statement_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence_number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    amount: Mapped[int]
    """Signed: negative where money left."""
    balance: Mapped[int]
    """After this line."""
    other_account: Mapped[UUID | None]
    booked_at: Mapped[datetime]
