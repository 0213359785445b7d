"""``eventsource-py`` (https://pypi.org/project/eventsource-py/): its PostgreSQL event store, database projections and coordinator.

Per event, as its documentation shows: a ``DatabaseProjection`` with a handler per event type, fed by the ``ProjectionCoordinator`` from the store's global feed; each
event is a transaction. One projection fills both tables and keeps no checkpoint: both spare it half of the work. In bulk: a ``BatchAwareSubscriber`` gets pages of the feed,
which the event store has decoded; folding them in memory and writing by COPY is the user's own part, and is written here as well as it can be.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
from eventsource import DomainEvent, handles, register_event
from eventsource.adapters.postgresql.store import PostgreSQLEventStore
from eventsource.adapters.sql.projection import DatabaseProjection
from eventsource.application.projections.coordinator import ProjectionCoordinator, ProjectionRegistry
from eventsource.application.subscriptions.subscriber import BatchAwareSubscriber
from eventsource.domain.stream_id import StreamId
from eventsource.migrations import get_schema
from eventsource.ports.envelopes import EventEnvelope, FeedReadOptions
from eventsource.ports.store import ExpectedVersion
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from bench.contenders import (
    Contender,
    create_indexes,
    create_tables,
    drop_tables,
    schema_differences,
)
from bench.contenders.bank_rows import BankRows
from bench.workloads import Workload

_APPENDS_SCHEMA = "eventsource_appends"
_PAGE_EVENTS = 5_000


class _AccountEvent(DomainEvent):
    aggregate_type: str = "Account"


@register_event
class BankAccountOpened(_AccountEvent):
    event_type: str = "BankAccountOpened"
    owner: str
    currency: str


@register_event
class BankMoneyDeposited(_AccountEvent):
    event_type: str = "BankMoneyDeposited"
    amount: int


@register_event
class BankMoneyWithdrawn(_AccountEvent):
    event_type: str = "BankMoneyWithdrawn"
    amount: int


@register_event
class BankTransferSent(_AccountEvent):
    event_type: str = "BankTransferSent"
    amount: int
    to_account: UUID


@register_event
class BankTransferReceived(_AccountEvent):
    event_type: str = "BankTransferReceived"
    amount: int
    from_account: UUID


@register_event
class BankAccountClosed(_AccountEvent):
    event_type: str = "BankAccountClosed"


_CLASSES: dict[str, type[DomainEvent]] = {
    "AccountOpened": BankAccountOpened,
    "MoneyDeposited": BankMoneyDeposited,
    "MoneyWithdrawn": BankMoneyWithdrawn,
    "TransferSent": BankTransferSent,
    "TransferReceived": BankTransferReceived,
    "AccountClosed": BankAccountClosed,
}

_OPEN = text(
    "INSERT INTO account_records (aggregate_id, owner, currency, balance, transactions, status, opened_at, updated_at)"
    " VALUES (:id, :owner, :currency, 0, 0, 'open', :moment, :moment)"
)
_MOVE = text(
    "UPDATE account_records SET balance = balance + :amount, transactions = transactions + 1, updated_at = :moment"
    " WHERE aggregate_id = :id RETURNING balance"
)
_CLOSE = text(
    "UPDATE account_records SET status = 'closed', updated_at = :moment WHERE aggregate_id = :id RETURNING balance"
)
_LINE = text("INSERT INTO statement_records VALUES (:id, :number, :kind, :amount, :balance, :other, :moment)")


class BankProjection(DatabaseProjection):
    """Both tables, event by event."""

    @handles(BankAccountOpened)
    async def _opened(self, conn: Any, event: BankAccountOpened) -> None:
        values = {"id": event.aggregate_id, "moment": event.occurred_at}
        await conn.execute(_OPEN, {**values, "owner": event.owner, "currency": event.currency})
        await self._line(conn, event, "opened", 0, 0)

    @handles(BankMoneyDeposited)
    async def _deposited(self, conn: Any, event: BankMoneyDeposited) -> None:
        await self._moved(conn, event, "deposit", event.amount)

    @handles(BankMoneyWithdrawn)
    async def _withdrawn(self, conn: Any, event: BankMoneyWithdrawn) -> None:
        await self._moved(conn, event, "withdrawal", -event.amount)

    @handles(BankTransferSent)
    async def _sent(self, conn: Any, event: BankTransferSent) -> None:
        await self._moved(conn, event, "transfer", -event.amount, event.to_account)

    @handles(BankTransferReceived)
    async def _received(self, conn: Any, event: BankTransferReceived) -> None:
        await self._moved(conn, event, "transfer", event.amount, event.from_account)

    @handles(BankAccountClosed)
    async def _closed(self, conn: Any, event: BankAccountClosed) -> None:
        values = {"id": event.aggregate_id, "moment": event.occurred_at}
        balance = (await conn.execute(_CLOSE, values)).scalar_one()
        await self._line(conn, event, "closed", 0, balance)

    async def _moved(
        self, conn: Any, event: DomainEvent, kind: str, amount: int, other: UUID | None = None
    ) -> None:
        values = {"id": event.aggregate_id, "moment": event.occurred_at, "amount": amount}
        balance = (await conn.execute(_MOVE, values)).scalar_one()
        await self._line(conn, event, kind, amount, balance, other)

    async def _line(
        self,
        conn: Any,
        event: DomainEvent,
        kind: str,
        amount: int,
        balance: int,
        other: UUID | None = None,
    ) -> None:
        values = {
            "id": event.aggregate_id,
            "number": event.aggregate_version,
            "kind": kind,
            "amount": amount,
            "balance": balance,
            "other": other,
            "moment": event.occurred_at,
        }
        await conn.execute(_LINE, values)


class BankSubscriber(BatchAwareSubscriber):
    """Both tables in memory, page by page."""

    def __init__(self) -> None:
        self.rows = BankRows()

    def subscribed_to(self) -> list[type[DomainEvent]]:
        return list(_CLASSES.values())

    async def handle(self, event: DomainEvent) -> None:
        await self.handle_batch([event])

    async def handle_batch(self, events: Sequence[DomainEvent]) -> None:
        for event in events:
            self._fold(event)

    def _fold(self, event: DomainEvent) -> None:
        key = (event.aggregate_id, event.aggregate_version, event.occurred_at)
        match event:
            case BankMoneyDeposited():
                self.rows.moved(*key, "deposit", event.amount)
            case BankMoneyWithdrawn():
                self.rows.moved(*key, "withdrawal", -event.amount)
            case BankTransferSent():
                self.rows.moved(*key, "transfer", -event.amount, event.to_account)
            case BankTransferReceived():
                self.rows.moved(*key, "transfer", event.amount, event.from_account)
            case BankAccountOpened():
                self.rows.opened(*key, event.owner, event.currency)
            case BankAccountClosed():
                self.rows.closed(*key)


class _Eventsource(Contender):
    """What both ways share: an event store of the package's own, filled once."""

    _schema: str
    """Of the tables that are rebuilt, and of the store."""

    def __init__(self, url: str, workload: Workload, events: int) -> None:
        self.events = events
        self._url, self._workload = url, workload

    def prepare(self) -> None:
        _install(self._url, self._schema)
        query = (
            "SELECT e.aggregate_id, e.sequence_number, e.created_at, t.name, e.payload FROM sequent_schema.events e"
            " JOIN sequent_schema.event_types t ON t.id = e.event_type_id ORDER BY e.position LIMIT %s"
        )
        with psycopg.connect(self._url) as connection:
            history = connection.execute(query, [self.events]).fetchall()
            # Its append inserts event by event; the rows are the same.
            command = sql.SQL(
                "COPY {} (event_id, aggregate_id, aggregate_type, event_type, version, timestamp, payload) FROM STDIN"
            ).format(sql.Identifier(self._schema, "events"))
            with connection.cursor().copy(command) as copy:
                for account, number, moment, name, payload in history:
                    made = _CLASSES[name](
                        aggregate_id=account, aggregate_version=number, occurred_at=moment, **payload
                    )
                    copy.write_row(
                        (
                            made.event_id,
                            account,
                            "Account",
                            made.event_type,
                            number,
                            moment,
                            json.dumps(made.model_dump(mode="json")),
                        )
                    )
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(self._schema, "events")))

    def reset(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            create_tables(connection, self._workload, self._schema, with_indexes=False)

    def differences(self) -> int | None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return schema_differences(connection, self._workload, self._schema, self.events)

    def discard(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            drop_tables(connection, self._workload, self._schema)

    async def _pages(self, engine: AsyncEngine) -> AsyncIterator[list[DomainEvent]]:
        store = PostgreSQLEventStore(engine)
        seen, position = 0, None
        while seen < self.events:
            options = FeedReadOptions(limit=min(_PAGE_EVENTS, self.events - seen))
            page: list[EventEnvelope] = [item async for item in store.read_all(position, options)]
            seen, position = seen + len(page), page[-1].position
            yield [item.event for item in page]


class PerEvent(_Eventsource):
    """A database projection, a transaction for each event."""

    name = "eventsource-py, per event"
    _schema = "eventsource_per_event"

    def reset(self) -> None:
        super().reset()
        with psycopg.connect(self._url, autocommit=True) as connection:
            create_indexes(connection, self._workload, self._schema)

    def run(self) -> float | None:
        asyncio.run(self._run())
        return None

    async def _run(self) -> None:
        async with _engine(self._url, self._schema) as engine:
            registry = ProjectionRegistry()
            registry.register_projection(BankProjection(async_sessionmaker(engine)))
            coordinator = ProjectionCoordinator(registry)
            async for events in self._pages(engine):
                await coordinator.dispatch_events(events)


class Bulk(_Eventsource):
    """The global feed by the page, a fold in memory, COPY."""

    name = "eventsource-py, bulk"
    _schema = "eventsource_bulk"

    def run(self) -> float | None:
        started = time.perf_counter()
        subscriber = BankSubscriber()
        asyncio.run(self._read(subscriber))
        with psycopg.connect(self._url, autocommit=True) as connection:
            subscriber.rows.write(connection, self._workload, self._schema)
            seconds = time.perf_counter() - started
            create_indexes(connection, self._workload, self._schema)
        return seconds

    async def _read(self, subscriber: BankSubscriber) -> None:
        async with _engine(self._url, self._schema) as engine:
            async for events in self._pages(engine):
                await subscriber.handle_batch(events)


def appender(url: str) -> tuple[Callable[[int], None], Callable[[], None]]:
    """Return a function that appends as many events, one by one, to some aggregates, and one that ends it."""
    _install(url, _APPENDS_SCHEMA)
    loop = asyncio.new_event_loop()
    opened = _engine(url, _APPENDS_SCHEMA)
    engine = loop.run_until_complete(opened.__aenter__())
    store = PostgreSQLEventStore(engine)
    accounts = [uuid4() for _ in range(50)]
    versions = dict.fromkeys(accounts, 0)

    async def append_all(count: int) -> None:
        for number in range(count):
            account = accounts[number % len(accounts)]
            version = versions[account]
            made = BankMoneyDeposited(aggregate_id=account, aggregate_version=version + 1, amount=5)
            await store.append(StreamId(account, "Account"), [made], ExpectedVersion.exact(version))
            versions[account] = version + 1

    def append(count: int) -> None:
        loop.run_until_complete(append_all(count))

    def close() -> None:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()

    return append, close


def _install(url: str, schema: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}").format(
                schema=sql.Identifier(schema)
            )
        )
        connection.execute(get_schema("events").encode())


@asynccontextmanager
async def _engine(url: str, schema: str) -> AsyncIterator[AsyncEngine]:
    parameters = conninfo_to_dict(url)
    password = f":{quote(str(parameters['password']), safe='')}" if "password" in parameters else ""
    host = quote(str(parameters.get("host", "localhost")), safe="")
    engine = create_async_engine(
        f"postgresql+asyncpg://{parameters.get('user', 'postgres')}{password}@/{parameters['dbname']}"
        f"?host={host}&port={parameters.get('port', '5432')}",
        connect_args={"server_settings": {"search_path": schema}},
    )
    try:
        yield engine
    finally:
        await engine.dispose()
