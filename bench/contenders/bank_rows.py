"""The bank's two tables folded in memory and written by COPY: the bulk path that a package's user would write around its bulk reading."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from bench.contenders import columns_of
from bench.workloads import Workload

_TYPES = {
    "account_records": ("uuid", "text", "text", "int8", "int4", "text", "timestamptz", "timestamptz"),
    "statement_records": ("uuid", "int4", "text", "int8", "int8", "uuid", "timestamptz"),
}


class BankRows:
    """Accounts by id, and all lines of all statements."""

    def __init__(self) -> None:
        self._accounts: dict[UUID, list[Any]] = {}
        self._lines: list[tuple[Any, ...]] = []

    def opened(self, account: UUID, number: int, moment: datetime, owner: str, currency: str) -> None:
        self._accounts[account] = [account, owner, currency, 0, 0, "open", moment, moment]
        self._lines.append((account, number, "opened", 0, 0, None, moment))

    def moved(
        self, account: UUID, number: int, moment: datetime, kind: str, amount: int, other: UUID | None = None
    ) -> None:
        row = self._accounts[account]
        row[3] += amount
        row[4] += 1
        row[7] = moment
        self._lines.append((account, number, kind, amount, row[3], other, moment))

    def closed(self, account: UUID, number: int, moment: datetime) -> None:
        row = self._accounts[account]
        row[5] = "closed"
        row[7] = moment
        self._lines.append((account, number, "closed", 0, row[3], None, moment))

    def write(self, connection: psycopg.Connection[Any], workload: Workload, schema: str) -> None:
        """Copy everything into a schema's empty tables."""
        rows = {"account_records": self._accounts.values(), "statement_records": self._lines}
        for table in workload.tables:
            command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
                sql.Identifier(schema, table.name), columns_of(table)
            )
            with connection.cursor().copy(command) as copy:
                copy.set_types(_TYPES[table.name])
                for row in rows[table.name]:
                    copy.write_row(row)
