"""``eventsourcing`` (https://pypi.org/project/eventsourcing/): its PostgreSQL recorders, projection runner and notification log.

Per event, as its documentation shows: a ``Projection`` run by a ``ProjectionRunner``, whose view is a ``PostgresTrackingRecorder`` with a method per kind of
change; each is a transaction that records the position and changes the tables. One projection fills both tables, and one statement each suffices per table: a projection per
table would take twice as long. In bulk: events are selected from the notification log by the thousand and mapped by the application's mapper, as documented; folding
them in memory and writing by COPY is the user's own part, and is written here as well as it can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import psycopg
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import get_topic
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bench.contenders import (
    Contender,
    create_indexes,
    create_tables,
    drop_tables,
    schema_differences,
)
from bench.contenders.bank_rows import BankRows
from bench.workloads import Workload

_APPENDS_SCHEMA = "eventsourcing_appends"
_PAGE_EVENTS = 5_000
_INSERTED_EVENTS = 500
"""At a time, while its store is filled: with thousands in one pipeline the driver was seen to wait for ever."""
_TIMEOUT_SECONDS = 3_600.0


class Account(Aggregate):
    """The bank's account."""

    class Opened(Aggregate.Created):
        owner: str
        currency: str

    class Deposited(Aggregate.Event):
        amount: int

    class Withdrawn(Aggregate.Event):
        amount: int

    class Sent(Aggregate.Event):
        amount: int
        to_account: UUID

    class Received(Aggregate.Event):
        amount: int
        from_account: UUID

    class Closed(Aggregate.Event):
        pass

    @event(Opened)
    def __init__(self, owner: str, currency: str) -> None:
        self.owner, self.currency, self.balance = owner, currency, 0

    @event(Deposited)
    def deposit(self, amount: int) -> None:
        self.balance += amount


class Bank(Application[UUID]):
    """The application."""


def environment(url: str, schema: str) -> dict[str, str]:
    """Return the settings by which the package finds the database."""
    parameters = conninfo_to_dict(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parameters["dbname"]),
        "POSTGRES_HOST": str(parameters.get("host", "localhost")),
        "POSTGRES_PORT": str(parameters.get("port", "5432")),
        "POSTGRES_USER": str(parameters.get("user", "postgres")),
        "POSTGRES_PASSWORD": str(parameters.get("password", "unused")),
        "POSTGRES_SCHEMA": schema,
    }


class BankView(PostgresTrackingRecorder):
    """The materialised view: both tables."""

    table_schema: str

    def opened(self, tracking: Tracking, made: Account.Opened) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                self._sql(
                    "INSERT INTO {accounts} (aggregate_id, owner, currency, balance, transactions, status, opened_at, updated_at)"
                    " VALUES (%s, %s, %s, 0, 0, 'open', %s, %s)"
                ),
                (made.originator_id, made.owner, made.currency, made.timestamp, made.timestamp),
                prepare=True,
            )
            self._line(cursor, made, "opened", 0, 0, None)

    def moved(
        self, tracking: Tracking, made: Aggregate.Event, kind: str, amount: int, other: UUID | None
    ) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                self._sql(
                    "UPDATE {accounts} SET balance = balance + %s, transactions = transactions + 1, updated_at = %s"
                    " WHERE aggregate_id = %s RETURNING balance"
                ),
                (amount, made.timestamp, made.originator_id),
                prepare=True,
            )
            self._line(cursor, made, kind, amount, _only(cursor)["balance"], other)

    def closed(self, tracking: Tracking, made: Account.Closed) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                self._sql(
                    "UPDATE {accounts} SET status = 'closed', updated_at = %s WHERE aggregate_id = %s RETURNING balance"
                ),
                (made.timestamp, made.originator_id),
                prepare=True,
            )
            self._line(cursor, made, "closed", 0, _only(cursor)["balance"], None)

    def _line(self, cursor: Any, made: Any, kind: str, amount: int, balance: int, other: UUID | None) -> None:
        cursor.execute(
            self._sql("INSERT INTO {statements} VALUES (%s, %s, %s, %s, %s, %s, %s)"),
            (made.originator_id, made.originator_version, kind, amount, balance, other, made.timestamp),
            prepare=True,
        )

    def _sql(self, text: Any) -> sql.Composed:
        return sql.SQL(text).format(
            accounts=sql.Identifier(self.table_schema, "account_records"),
            statements=sql.Identifier(self.table_schema, "statement_records"),
        )


class BankProjection(Projection[BankView]):
    """Both tables, event by event."""

    name = "bank"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        raise NotImplementedError(type(domain_event))

    @process_event.register
    def opened(self, domain_event: Account.Opened, tracking: Tracking) -> None:
        self.view.opened(tracking, domain_event)

    @process_event.register
    def deposited(self, domain_event: Account.Deposited, tracking: Tracking) -> None:
        self.view.moved(tracking, domain_event, "deposit", domain_event.amount, None)

    @process_event.register
    def withdrawn(self, domain_event: Account.Withdrawn, tracking: Tracking) -> None:
        self.view.moved(tracking, domain_event, "withdrawal", -domain_event.amount, None)

    @process_event.register
    def sent(self, domain_event: Account.Sent, tracking: Tracking) -> None:
        self.view.moved(tracking, domain_event, "transfer", -domain_event.amount, domain_event.to_account)

    @process_event.register
    def received(self, domain_event: Account.Received, tracking: Tracking) -> None:
        self.view.moved(tracking, domain_event, "transfer", domain_event.amount, domain_event.from_account)

    @process_event.register
    def closed(self, domain_event: Account.Closed, tracking: Tracking) -> None:
        self.view.closed(tracking, domain_event)


class _Eventsourcing(Contender):
    """What both ways share: an event store of the package's own, filled once."""

    _schema: str
    """Of the tables that are rebuilt; the store is beside it."""

    def __init__(self, url: str, workload: Workload, events: int) -> None:
        self.events = events
        self._url, self._workload = url, workload

    def prepare(self) -> None:
        _create_schema(self._url, self._store)
        with Bank(environment(self._url, self._store)) as app:
            history = self._history()
            while page := list(islice(history, _INSERTED_EVENTS)):
                app.recorder.insert_events([app.mapper.to_stored_event(item) for item in page])

    @property
    def _store(self) -> str:
        return f"{self._schema}_store"

    def reset(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            create_tables(connection, self._workload, self._schema, with_indexes=False)

    def differences(self) -> int | None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return schema_differences(connection, self._workload, self._schema, self.events)

    def discard(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            drop_tables(connection, self._workload, self._schema)

    def _history(self) -> Iterator[Any]:
        """Our events as the package's, the first ``events`` of them."""
        query = (
            "SELECT e.aggregate_id, e.sequence_number, e.created_at, t.name, e.payload FROM sequent_schema.events e"
            " JOIN sequent_schema.event_types t ON t.id = e.event_type_id ORDER BY e.position LIMIT %s"
        )
        with psycopg.connect(self._url) as connection:
            for account, number, moment, name, payload in connection.execute(query, [self.events]):
                yield _translated(account, number, moment, name, payload)


class PerEvent(_Eventsourcing):
    """A projection runner, a transaction for each event."""

    name = "eventsourcing, per event"
    _schema = "eventsourcing_per_event"

    def reset(self) -> None:
        super().reset()
        with psycopg.connect(self._url, autocommit=True) as connection:
            # Each event looks its account up.
            create_indexes(connection, self._workload, self._schema)
            for table in ("bank_tracking", "notification_tracking"):
                connection.execute(
                    sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(self._store, table))
                )

    def run(self) -> float | None:
        schema = self._schema

        class View(BankView):
            table_schema = schema

        runner = ProjectionRunner(
            application_class=Bank,
            projection_class=BankProjection,
            view_class=View,
            env=environment(self._url, self._store),
        )
        with runner:
            runner.wait(self.events, timeout=_TIMEOUT_SECONDS)
        return None


class Bulk(_Eventsourcing):
    """The notification log by the page, a fold in memory, COPY."""

    name = "eventsourcing, bulk"
    _schema = "eventsourcing_bulk"

    def run(self) -> float | None:
        started = time.perf_counter()
        rows, position = BankRows(), 0
        with Bank(environment(self._url, self._store)) as app:
            to_event = app.mapper.to_domain_event
            while position < self.events:
                page = app.recorder.select_notifications(position + 1, _PAGE_EVENTS, self.events)
                for notification in page:
                    _fold(rows, to_event(notification))
                position = page[-1].id
        with psycopg.connect(self._url, autocommit=True) as connection:
            rows.write(connection, self._workload, self._schema)
            seconds = time.perf_counter() - started
            create_indexes(connection, self._workload, self._schema)
        return seconds


def appender(url: str) -> tuple[Callable[[int], None], Callable[[], None]]:
    """Return a function that appends as many events, one by one, to some aggregates, and one that ends it."""
    _create_schema(url, _APPENDS_SCHEMA)
    app = Bank(environment(url, _APPENDS_SCHEMA))
    accounts = [Account(owner=f"Owner {uuid4()}", currency="EUR") for _ in range(50)]
    app.save(*accounts)

    def append(count: int) -> None:
        for number in range(count):
            account = accounts[number % len(accounts)]
            account.deposit(5)
            app.save(account)

    return append, app.close


def _create_schema(url: str, schema: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def _translated(account: UUID, number: int, moment: datetime, name: str, payload: Any) -> Any:
    envelope: dict[str, Any] = {"originator_id": account, "originator_version": number, "timestamp": moment}
    match name:
        case "AccountOpened":
            return Account.Opened(**envelope, originator_topic=get_topic(Account), **payload)
        case "MoneyDeposited":
            return Account.Deposited(**envelope, **payload)
        case "MoneyWithdrawn":
            return Account.Withdrawn(**envelope, **payload)
        case "TransferSent":
            return Account.Sent(**envelope, amount=payload["amount"], to_account=UUID(payload["to_account"]))
        case "TransferReceived":
            return Account.Received(
                **envelope, amount=payload["amount"], from_account=UUID(payload["from_account"])
            )
        case _:
            return Account.Closed(**envelope)


def _fold(rows: BankRows, made: Any) -> None:
    key = (made.originator_id, made.originator_version, made.timestamp)
    match made:
        case Account.Deposited():
            rows.moved(*key, "deposit", made.amount)
        case Account.Withdrawn():
            rows.moved(*key, "withdrawal", -made.amount)
        case Account.Sent():
            rows.moved(*key, "transfer", -made.amount, made.to_account)
        case Account.Received():
            rows.moved(*key, "transfer", made.amount, made.from_account)
        case Account.Opened():
            rows.opened(*key, made.owner, made.currency)
        case Account.Closed():
            rows.closed(*key)


def _only(cursor: Any) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row
