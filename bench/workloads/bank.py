"""The bank of ``examples/bank``: one row per account, one row per transaction; and the same with few, long streams."""

from __future__ import annotations

import importlib
import random
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from bench.workloads import History, ReadTable, Workload
from sequent_py.demo.bank_check import _ACCOUNTS, _MOVES, _STATEMENTS
from sequent_py.demo.bank_events import bank_history
from sequent_py.demo.examples import example_directory

EVENTS_PER_LONG_STREAM = 10_000
_DIRECTORY = example_directory("bank")
_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)

if str(_DIRECTORY) not in sys.path:
    # The example is no package of ours: it is found by path, here as in the worker processes, which get ours.
    sys.path.insert(0, str(_DIRECTORY))

TABLES = (
    ReadTable(
        "account_records",
        ("aggregate_id", "owner", "currency", "balance", "transactions", "status", "opened_at", "updated_at"),
        f"WITH moves AS ({_MOVES}) {_ACCOUNTS}",
    ),
    ReadTable(
        "statement_records",
        ("aggregate_id", "sequence_number", "kind", "amount", "balance", "other_account", "booked_at"),
        f"WITH moves AS ({_MOVES}) {_STATEMENTS}",
    ),
)

INCREMENTS = (
    f"CREATE TEMPORARY TABLE new_moves ON COMMIT DROP AS {_MOVES}",
    "ANALYZE new_moves",
    f"""
    INSERT INTO statement_records (aggregate_id, sequence_number, kind, amount, balance, other_account, booked_at)
    WITH moves AS (TABLE new_moves), lines AS ({_STATEMENTS}),
         before AS (
            SELECT a.aggregate_id, l.balance FROM (SELECT DISTINCT aggregate_id FROM new_moves) AS a CROSS JOIN LATERAL (
                SELECT balance FROM statement_records AS r WHERE r.aggregate_id = a.aggregate_id ORDER BY sequence_number DESC LIMIT 1
            ) AS l)
    SELECT aggregate_id, sequence_number, kind, amount, lines.balance + coalesce(before.balance, 0), other_account, booked_at
    FROM lines LEFT JOIN before USING (aggregate_id)
    """,  # noqa: S608
    f"""
    UPDATE account_records AS r
    SET balance = r.balance + n.balance, transactions = r.transactions + n.transactions, updated_at = n.updated_at,
        status = CASE WHEN n.status = 'closed' THEN n.status ELSE r.status END
    FROM (WITH moves AS (TABLE new_moves) {_ACCOUNTS}) AS n WHERE n.aggregate_id = r.aggregate_id
    """,  # noqa: S608
    f"""
    INSERT INTO account_records (aggregate_id, owner, currency, balance, transactions, status, opened_at, updated_at)
    WITH moves AS (
        SELECT * FROM new_moves WHERE aggregate_id IN (SELECT aggregate_id FROM new_moves WHERE type_name = 'AccountOpened')
    ) {_ACCOUNTS}
    """,  # noqa: S608
)
"""What one would write by hand to keep the tables up to date."""


def bank_events() -> Any:
    """Return the example's module of events."""
    return importlib.import_module("bank.events")


def _bank(count: int) -> History:
    yield from bank_history(bank_events(), count)


def _streams(count: int, *, length: int | None) -> History:
    """Deposits and withdrawals in turn over streams of ``length`` events, interleaved; None: one stream."""
    events = bank_events()
    chance = random.Random(count)
    accounts = [
        UUID(int=chance.getrandbits(128), version=4) for _ in range(max(1, count // length) if length else 1)
    ]
    for number in range(count):
        turn, index = divmod(number, len(accounts))
        if turn == 0:
            event = events.AccountOpened(owner=f"Owner {index}")
        elif turn % 2:
            event = events.MoneyDeposited(amount=chance.randrange(1, 1000))
        else:
            event = events.TransferSent(amount=1, to_account=accounts[index - 1])
        yield accounts[index], event, _BEGIN + timedelta(milliseconds=number)


def _workload(name: str, describes: str, history: Any) -> Workload:
    return Workload(
        name,
        describes,
        "bank.migrations:BankMigrations",
        _DIRECTORY / "sql",
        history,
        TABLES,
        declared="bench.workloads.declared_bank:DeclaredBankMigrations",
        increments=INCREMENTS,
    )


BANK = _workload("bank", "two projectors: a row per account, a row per transaction", _bank)
LONG_STREAMS = _workload(
    "long-streams",
    f"the bank's projectors over aggregates of {EVENTS_PER_LONG_STREAM:,} events",
    partial(_streams, length=EVENTS_PER_LONG_STREAM),
)
ONE_STREAM = _workload(
    "one-stream", "the bank's projectors over a single aggregate", partial(_streams, length=None)
)
