"""What changed from version to version of the read side."""

from __future__ import annotations

from sequent_py import Migrations, alter_table

from bank.projectors import AccountProjector, StatementProjector
from bank.records import AccountRecord


class BankMigrations(Migrations):
    """Version 1 had accounts, 2 added their statements, 3 a computed column in place."""

    version = 3
    versions = {
        1: [AccountProjector],
        2: [StatementProjector],
        3: [alter_table(AccountRecord)],  # runs sql/account_records_3.sql, no replay
    }
