"""What happens to an account. Amounts are whole minor units (cents) and positive; the event's type says which way they go."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field
from sequent_py import Event

Amount = Annotated[int, Field(gt=0)]


class AccountOpened(Event):
    """An account begins, empty."""

    owner: str
    currency: str = "EUR"


class MoneyDeposited(Event):
    """Cash came in."""

    amount: Amount


class MoneyWithdrawn(Event):
    """Cash went out."""

    amount: Amount


class TransferSent(Event):
    """Money left for another account, which records :class:`TransferReceived` itself: every event belongs to one aggregate."""

    amount: Amount
    to_account: UUID


class TransferReceived(Event):
    """Money arrived from another account."""

    amount: Amount
    from_account: UUID


class AccountClosed(Event):
    """Nothing happens to the account from here on."""
