"""The bank's two tables as declared projections; the rows are those of ``bank.projectors``."""

from __future__ import annotations

from bank.events import (
    AccountClosed,
    AccountOpened,
    MoneyDeposited,
    MoneyWithdrawn,
    TransferReceived,
    TransferSent,
)
from bank.records import AccountRecord, StatementRecord

from sequent_py import Migrations, TableProjection
from sequent_py.declared import Field, Rule, count, field, increment, insert, running, update


class AccountTable(TableProjection):
    """One row for each account, with its balance."""

    table = AccountRecord
    on_event = {  # noqa: RUF012
        AccountOpened: insert(
            owner=field("owner"),
            currency=field("currency"),
            balance=0,
            transactions=0,
            status="open",
            opened_at=field("created_at"),
            updated_at=field("created_at"),
        ),
        (MoneyDeposited, TransferReceived): update(balance=increment(field("amount")), transactions=count()),
        (MoneyWithdrawn, TransferSent): update(balance=increment(-field("amount")), transactions=count()),
        AccountClosed: update(status="closed"),
    }


def line(kind: str, amount: Field | int, **values: Field) -> Rule:
    """A line of a statement."""
    return insert(kind=kind, amount=amount, balance=running(amount), booked_at=field("created_at"), **values)


class StatementTable(TableProjection):
    """One line for each event of an account, with the running balance."""

    table = StatementRecord
    key = {"sequence_number": field("sequence_number")}  # noqa: RUF012
    on_event = {  # noqa: RUF012
        AccountOpened: line("opened", 0),
        MoneyDeposited: line("deposit", field("amount")),
        MoneyWithdrawn: line("withdrawal", -field("amount")),
        TransferSent: line("transfer", -field("amount"), other_account=field("to_account")),
        TransferReceived: line("transfer", field("amount"), other_account=field("from_account")),
        AccountClosed: line("closed", 0),
    }


class DeclaredBankMigrations(Migrations):
    """Both tables, at the version of ``bank.migrations``."""

    version = 3
    versions = {3: [AccountTable, StatementTable]}  # noqa: RUF012
