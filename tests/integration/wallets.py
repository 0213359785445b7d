"""A small application whose projectors depend on more than one aggregate: wallets, with a projector of every ordering and a naive fold.

Wallets of one owner share the owner as their partition key. Every row's value depends on the order of the events, so that any other order shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Config, Event, Migrations, Projector, Record, Sequent, on

SQL_DIRECTORY = Path(__file__).parent / "wallet_sql"
TABLES = ("wallet_records", "statement_records", "journal_records", "count_records")


class WalletOpened(Event):
    owner: str


class Deposited(Event):
    owner: str
    cents: int


class WalletClosed(Event):
    """What is left goes to the owner's wallet that was opened first among those that are open: by id, to be exact."""

    owner: str


class WalletRecord(Record):
    __tablename__ = "wallet_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]
    balance: Mapped[int] = mapped_column(BigInteger)
    owner_total: Mapped[int] = mapped_column(BigInteger)


class StatementRecord(Record):
    __tablename__ = "statement_records"

    owner: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    cents: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int] = mapped_column(BigInteger)


class JournalRecord(Record):
    __tablename__ = "journal_records"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    aggregate_id: Mapped[UUID]
    total: Mapped[int] = mapped_column(BigInteger)


class CountRecord(Record):
    __tablename__ = "count_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    events: Mapped[int]


class WalletProjector(Projector):
    """Reads, updates and deletes rows of the owner's other wallets."""

    manages_tables = (WalletRecord, StatementRecord)
    ordering = "partition"

    @on(WalletOpened)
    def opened(self, event: WalletOpened) -> None:
        total = sum(wallet.balance for wallet in self.find_records(WalletRecord, owner=event.owner))
        self.create_record(
            WalletRecord, aggregate_id=event.aggregate_id, owner=event.owner, balance=0, owner_total=total
        )

    @on(Deposited)
    def deposited(self, event: Deposited) -> None:
        others = self.find_records(WalletRecord, owner=event.owner)
        with self.update_record(WalletRecord, event) as wallet:
            wallet.balance += event.cents
            wallet.owner_total = sum(other.balance for other in others) + event.cents
        last = self.last_record(StatementRecord, owner=event.owner)
        self.create_record(
            StatementRecord,
            owner=event.owner,
            number=last.number + 1 if last else 1,
            aggregate_id=event.aggregate_id,
            cents=event.cents,
            total=(last.total if last else 0) + event.cents,
        )

    @on(WalletClosed)
    def closed(self, event: WalletClosed) -> None:
        closed = self.get_record(WalletRecord, aggregate_id=event.aggregate_id)
        self.delete_record(WalletRecord, closed)
        first = self.find_record(WalletRecord, owner=event.owner)
        if first is not None:
            with self.update_record(WalletRecord, event, aggregate_id=first.aggregate_id) as heir:
                heir.balance += closed.balance


class JournalProjector(Projector):
    """Numbers all events of the store without gaps."""

    manages_tables = (JournalRecord,)
    ordering = "global"

    @on(WalletOpened, Deposited, WalletClosed)
    def happened(self, event: WalletOpened | Deposited | WalletClosed) -> None:
        last = self.last_record(JournalRecord)
        cents = event.cents if isinstance(event, Deposited) else 0
        self.create_record(
            JournalRecord,
            number=last.number + 1 if last else 1,
            aggregate_id=event.aggregate_id,
            total=(last.total if last else 0) + cents,
        )


class CountProjector(Projector):
    manages_tables = (CountRecord,)

    @on(WalletOpened, Deposited)
    def happened(self, event: WalletOpened | Deposited) -> None:
        with self.create_or_update_record(CountRecord, aggregate_id=event.aggregate_id) as count:
            count.events = (count.events or 0) + 1


class Wallets1(Migrations):
    version = 1
    versions = {1: [WalletProjector, JournalProjector, CountProjector]}


class Wallets2(Migrations):
    """Rebuilds everything."""

    version = 2
    versions = {
        1: [WalletProjector, JournalProjector, CountProjector],
        2: [WalletProjector, JournalProjector, CountProjector],
    }


class WalletsServing(Wallets2):
    """Goes on across the cut-over from version 1 to version 2."""

    also_serves = (Wallets1,)


class WalletsWithoutJournal(Migrations):
    """No projector is global."""

    version = 1
    versions = {1: [WalletProjector, CountProjector]}


class WalletsWithoutJournal2(Migrations):
    """The journal is left as it is."""

    version = 2
    versions = {1: [WalletProjector, CountProjector], 2: [CountProjector]}


class CarelessWalletProjector(WalletProjector):
    """Says that its rows depend on one aggregate each, which is not so."""

    ordering = "aggregate"


class WalletsCareless(Migrations):
    version = 1
    versions = {1: [CarelessWalletProjector, CountProjector]}


class NarrowJournalProjector(JournalProjector):
    """Says that its rows depend on one owner each, which is not so."""

    ordering = "partition"


class WalletsNarrow(Migrations):
    version = 1
    versions = {1: [NarrowJournalProjector, CountProjector]}


def wallets(database_url: str, migrations: type[Migrations] = Wallets1, **settings: Any) -> Sequent:
    """The application on a database of its own; replays in this process unless told otherwise."""
    values = {"workers": 0, "sql_directory": SQL_DIRECTORY} | settings
    return Sequent(Config(database_url=database_url, **values), migrations=migrations)


def open_wallets(app: Sequent, owners: Sequence[str], each: int = 2) -> dict[UUID, str]:
    """Open some wallets for each owner; return the owner of each."""
    opened = {}
    for owner in owners:
        for _ in range(each):
            wallet = uuid4()
            app.store.append(wallet, [WalletOpened(owner=owner)], 0, partition_key=owner)
            opened[wallet] = owner
    return opened


def deposit_at_random(app: Sequent, wallets: dict[UUID, str], count: int, seed: int) -> None:
    """Append deposits, one or several wallets of an owner in a transaction, and sometimes roll one back."""
    source = random.Random(seed)
    by_owner: dict[str, list[UUID]] = {}
    for wallet, owner in wallets.items():
        by_owner.setdefault(owner, []).append(wallet)
    for _ in range(count):
        owner = source.choice(sorted(by_owner))
        chosen = source.sample(by_owner[owner], k=source.randint(1, len(by_owner[owner])))
        with app.engine.connect() as connection:
            for wallet in chosen:
                cents = source.randint(1, 500)
                app.store.append(wallet, [Deposited(owner=owner, cents=cents)], connection=connection)
            if source.random() < 0.9:
                connection.commit()


def history(owners: int, each: int, deposits: int) -> Iterator[tuple[UUID, Event, None]]:
    """Wallets with interleaved deposits, for an import; the partition key of each is :func:`owner_of`."""
    source = random.Random(owners)
    ids = [(wallet_id(owner, wallet), f"owner {owner}") for owner in range(owners) for wallet in range(each)]
    for wallet, owner in ids:
        yield wallet, WalletOpened(owner=owner), None
    for _ in range(deposits):
        wallet, owner = source.choice(ids)
        yield wallet, Deposited(owner=owner, cents=source.randint(1, 500)), None


def wallet_id(owner: int, wallet: int) -> UUID:
    return UUID(int=((owner * 1_000 + wallet + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128)


def owners_of(owners: int, each: int) -> dict[UUID, str]:
    return {wallet_id(owner, wallet): f"owner {owner}" for owner in range(owners) for wallet in range(each)}


Rows = dict[str, list[tuple[Any, ...]]]


def expected_rows(connection: psycopg.Connection[Any], tables: Sequence[str] = TABLES) -> Rows:
    """Fold the events naively, straight from the table, in position order."""
    found: dict[UUID, list[Any]] = {}
    statements: list[tuple[Any, ...]] = []
    last: dict[str, tuple[int, int]] = {}
    journal: list[tuple[Any, ...]] = []
    counts: dict[UUID, int] = {}
    total = 0
    for aggregate_id, name, payload in connection.execute(
        "SELECT e.aggregate_id, t.name, e.payload FROM sequent_schema.events e"
        " JOIN sequent_schema.event_types t ON t.id = e.event_type_id ORDER BY e.position"
    ):
        owner, cents = payload["owner"], payload.get("cents", 0)
        total += cents
        journal.append((len(journal) + 1, aggregate_id, total))
        own = [wallet for wallet in sorted(found) if found[wallet][0] == owner]
        owner_total = sum(found[wallet][1] for wallet in own)
        if name == "WalletOpened":
            found[aggregate_id] = [owner, 0, owner_total]
        elif name == "Deposited":
            found[aggregate_id][1] += cents
            found[aggregate_id][2] = owner_total + cents
            number, sum_ = last.get(owner, (0, 0))
            last[owner] = (number + 1, sum_ + cents)
            statements.append((owner, number + 1, aggregate_id, cents, sum_ + cents))
        else:
            balance = found.pop(aggregate_id)[1]
            heirs = [wallet for wallet in own if wallet != aggregate_id]
            if heirs:
                found[heirs[0]][1] += balance
        if name != "WalletClosed":
            counts[aggregate_id] = counts.get(aggregate_id, 0) + 1
    rows: Rows = {
        "wallet_records": sorted((wallet, *values) for wallet, values in found.items()),
        "statement_records": sorted(statements),
        "journal_records": journal,
        "count_records": sorted(counts.items()),
    }
    return {table: rows[table] for table in tables}


def actual_rows(
    connection: psycopg.Connection[Any], suffix: str = "", tables: Sequence[str] = TABLES
) -> Rows:
    """Read the tables."""
    return {
        table: sorted(connection.execute(f'SELECT * FROM view_schema."{table}{suffix}"').fetchall())  # noqa: S608
        for table in tables
    }
