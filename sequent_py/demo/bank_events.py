"""A bank's history, made up but always the same for the same seed and size.

Account sizes are skewed as real ones are: the oldest tenth of the accounts has about half of the events. Nobody overdraws; an account is
empty when it is closed. Events are yielded in the order of time, the accounts interleaved.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from uuid import UUID

SEED = 20_240_101
EVENTS_PER_ACCOUNT = 20
FIRST_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=365)
_SKEW = 3.0
"""An account is chosen at the square-cubed end of the list: index = size * u**3 puts 46 % of the choices into the first tenth."""
_NAMES = ("Ann", "Bela", "Chidi", "Dörte", "Eun-ji", "Farid", "Graça", "Hamza", "Ilse", "Jun")
_CURRENCIES = ("EUR", "EUR", "EUR", "USD", "CHF")


@dataclass(slots=True)
class Account:
    """An account as the generator knows it."""

    id: UUID
    balance: int = 0


def bank_history(events: ModuleType, count: int, *, seed: int = SEED) -> Iterator[tuple[UUID, Any, datetime]]:
    """Yield exactly ``count`` events of the module ``bank.events`` as (account, event, moment)."""
    chance = random.Random(seed)
    open_accounts: list[Account] = []
    step = SPAN / max(count, 1)
    made = 0
    while made < count:
        for account_id, event in _happening(events, chance, open_accounts, left=count - made):
            yield account_id, event, FIRST_MOMENT + step * made
            made += 1


def _happening(
    events: ModuleType, chance: random.Random, accounts: list[Account], left: int
) -> list[tuple[UUID, Any]]:
    """Return what happens next: one event, or two that belong together."""
    draw = chance.random()
    if not accounts or draw < 1 / EVENTS_PER_ACCOUNT:
        account = Account(UUID(int=chance.getrandbits(128), version=4))
        accounts.append(account)
        owner = f"{chance.choice(_NAMES)} {chance.randrange(10_000)}"
        return [(account.id, events.AccountOpened(owner=owner, currency=chance.choice(_CURRENCIES)))]
    account = accounts[int(len(accounts) * chance.random() ** _SKEW)]
    if account.balance == 0 or draw < 0.50:
        amount = chance.randrange(1, 500_000)
        account.balance += amount
        return [(account.id, events.MoneyDeposited(amount=amount))]
    if draw < 0.80 or left < 2:
        amount = chance.randint(1, account.balance)
        account.balance -= amount
        return [(account.id, events.MoneyWithdrawn(amount=amount))]
    place = int(len(accounts) * chance.random())
    other = accounts[place]
    if other is account:
        return []
    if draw < 0.99:
        amount = chance.randint(1, account.balance)
        account.balance -= amount
        other.balance += amount
        return [
            (account.id, events.TransferSent(amount=amount, to_account=other.id)),
            (other.id, events.TransferReceived(amount=amount, from_account=account.id)),
        ]
    # Not by remove(), which compares with half of all accounts each time.
    del accounts[place]
    closing: list[tuple[UUID, Any]] = [(other.id, events.AccountClosed())]
    if other.balance:
        closing.insert(0, (other.id, events.MoneyWithdrawn(amount=other.balance)))
    return closing
