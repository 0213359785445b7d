"""The bank's two tables under every ordering, for measuring catch-up; importable by worker processes.

Under ``partition`` and ``global`` the statement's line before is asked for as the account's last one, rather than by its number: as projectors do that number
rows themselves.
"""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

from sequent_py import Event, Migrations
from sequent_py.demo.examples import example_directory

if str(example_directory("bank")) not in sys.path:
    sys.path.insert(0, str(example_directory("bank")))

from bank.projectors import AccountProjector, StatementProjector
from bank.records import StatementRecord


class LastLineProjector(StatementProjector):
    """Goes on from an account's last line."""

    def _line(
        self,
        event: Event,
        kind: str,
        amount: int,
        *,
        balance_before: int | None = None,
        other_account: UUID | None = None,
    ) -> None:
        last: Any = self.last_record(StatementRecord, aggregate_id=event.aggregate_id)
        self.create_record(
            StatementRecord,
            aggregate_id=event.aggregate_id,
            sequence_number=last.sequence_number + 1 if last else 1,
            kind=kind,
            amount=amount,
            balance=(last.balance if last else 0) + amount,
            other_account=other_account,
            booked_at=event.created_at,
        )


class PartitionAccountProjector(AccountProjector):
    ordering = "partition"


class PartitionLineProjector(LastLineProjector):
    ordering = "partition"


class GlobalAccountProjector(AccountProjector):
    ordering = "global"


class GlobalLineProjector(LastLineProjector):
    ordering = "global"


class ByAggregate(Migrations):
    version = 1
    versions = {1: [AccountProjector, StatementProjector]}


class ByPartition(Migrations):
    version = 1
    versions = {1: [PartitionAccountProjector, PartitionLineProjector]}


class ByPosition(Migrations):
    version = 1
    versions = {1: [GlobalAccountProjector, GlobalLineProjector]}


ORDERINGS: dict[str, type[Migrations]] = {
    "aggregate": ByAggregate,
    "partition": ByPartition,
    "global": ByPosition,
}
