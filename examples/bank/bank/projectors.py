"""How events become rows. Each projector owns its tables and reads no others, so that each can be rebuilt alone."""

from __future__ import annotations

from uuid import UUID

from sequent_py import Event, Projector, on

from bank.events import (
    AccountClosed,
    AccountOpened,
    MoneyDeposited,
    MoneyWithdrawn,
    TransferReceived,
    TransferSent,
)
from bank.records import AccountRecord, StatementRecord


class AccountProjector(Projector):
    """One row for each account, with its balance."""

    manages_tables = (AccountRecord,)

    @on(AccountOpened)
    def opened(self, event: AccountOpened) -> None:
        self.create_record(
            AccountRecord,
            aggregate_id=event.aggregate_id,
            owner=event.owner,
            currency=event.currency,
            balance=0,
            transactions=0,
            status="open",
            opened_at=event.created_at,
            updated_at=event.created_at,
        )

    @on(MoneyDeposited, TransferReceived)
    def money_came(self, event: MoneyDeposited | TransferReceived) -> None:
        with self.update_record(AccountRecord, event) as account:
            account.balance += event.amount
            account.transactions += 1

    @on(MoneyWithdrawn, TransferSent)
    def money_went(self, event: MoneyWithdrawn | TransferSent) -> None:
        with self.update_record(AccountRecord, event) as account:
            account.balance -= event.amount
            account.transactions += 1

    @on(AccountClosed)
    def closed(self, event: AccountClosed) -> None:
        with self.update_record(AccountRecord, event) as account:
            account.status = "closed"


class StatementProjector(Projector):
    """One line for each event of an account, with the running balance."""

    manages_tables = (StatementRecord,)

    @on(AccountOpened)
    def opened(self, event: AccountOpened) -> None:
        self._line(event, "opened", 0, balance_before=0)

    @on(MoneyDeposited)
    def deposited(self, event: MoneyDeposited) -> None:
        self._line(event, "deposit", event.amount)

    @on(MoneyWithdrawn)
    def withdrawn(self, event: MoneyWithdrawn) -> None:
        self._line(event, "withdrawal", -event.amount)

    @on(TransferSent)
    def sent(self, event: TransferSent) -> None:
        self._line(event, "transfer", -event.amount, other_account=event.to_account)

    @on(TransferReceived)
    def received(self, event: TransferReceived) -> None:
        self._line(event, "transfer", event.amount, other_account=event.from_account)

    @on(AccountClosed)
    def closed(self, event: AccountClosed) -> None:
        self._line(event, "closed", 0)

    def _line(
        self,
        event: Event,
        kind: str,
        amount: int,
        *,
        balance_before: int | None = None,
        other_account: UUID | None = None,
    ) -> None:
        if balance_before is None:
            # By the whole key: a lookup, however long the statement is. Every event has a line, so the one before always exists.
            previous = self.get_record(
                StatementRecord, aggregate_id=event.aggregate_id, sequence_number=event.sequence_number - 1
            )
            balance_before = previous.balance
        self.create_record(
            StatementRecord,
            aggregate_id=event.aggregate_id,
            sequence_number=event.sequence_number,
            kind=kind,
            amount=amount,
            balance=balance_before + amount,
            other_account=other_account,
            booked_at=event.created_at,
        )
