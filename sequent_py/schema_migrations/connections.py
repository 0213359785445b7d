"""The one connection of a run, its transactions and its lock.

A run uses a single connection from the advisory lock to the last version write: if it dies, lock and transaction die with it, and a pool
of one is enough. Alembic's transaction helpers are not used: on a connection that has already read something they never commit.

Three kinds of database are taken. An ``Engine``: a connection is checked out for the run. A connection that is in no transaction: it
is used and given back as it was. A connection in a transaction: everything happens in it, nothing is committed, and the whole run stands or
falls with the caller's transaction; migrations that opt out of transactions run inside it all the same. Both SQLAlchemy's and psycopg's
connections are taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy.pool import NullPool

from sequent_py.schema_migrations.errors import MigrationLockHeld

Database = sa.Engine | sa.Connection | psycopg.Connection[Any]

UNLOGGED = "sequent_unlogged"
"""Execution option of statements that are no part of a migration: the SQL log leaves them out."""

LOCK_TIMEOUT_SECONDS = 10.0
"""How long one statement of a migration may wait for a lock: later readers of the table queue behind it."""

POLL_SECONDS = 0.05
"""Between two tries for the advisory lock; a blocking wait would hold a snapshot that CREATE INDEX CONCURRENTLY waits for."""


class _BorrowedConnection:
    """A caller's psycopg connection in SQLAlchemy's hands: it is never closed, nor ended if it is in a transaction."""

    def __init__(self, connection: psycopg.Connection[Any], *, in_transaction: bool) -> None:
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_in_transaction", in_transaction)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._connection, name, value)

    def close(self) -> None:
        """Leave it open: the caller closes it."""

    def commit(self) -> None:
        if not self._in_transaction:
            self._connection.commit()

    def rollback(self) -> None:
        if not self._in_transaction:
            self._connection.rollback()


@contextmanager
def connect(database: Database) -> Iterator[sa.Connection]:
    """Yield the run's connection; give back what was lent as it was lent."""
    if isinstance(database, sa.Engine):
        with database.connect() as connection:
            yield connection
    elif isinstance(database, sa.Connection):
        with _lent(database) as connection:
            yield connection
    else:
        with _borrow(database) as connection:
            yield connection


@contextmanager
def _lent(connection: sa.Connection) -> Iterator[sa.Connection]:
    level = connection.get_execution_options().get("isolation_level", connection.default_isolation_level)
    if level == "AUTOCOMMIT" and connection.in_transaction():
        connection.commit()  # SQLAlchemy speaks of a transaction here; the server has none
    if connection.in_transaction():
        yield connection
        return
    try:
        yield connection
    finally:
        if not connection.closed and not connection.invalidated:
            connection.rollback()
            connection.execution_options(isolation_level=level)


@contextmanager
def _borrow(lent: psycopg.Connection[Any]) -> Iterator[sa.Connection]:
    in_transaction = lent.info.transaction_status is not TransactionStatus.IDLE
    autocommit, isolation_level, row_factory = lent.autocommit, lent.isolation_level, lent.row_factory
    borrowed = _BorrowedConnection(lent, in_transaction=in_transaction)
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: borrowed, poolclass=NullPool, use_native_hstore=False
    )
    lent.row_factory = psycopg.rows.tuple_row
    try:
        with engine.connect() as connection, connection.begin() if in_transaction else nullcontext():
            yield connection
    finally:
        lent.row_factory = row_factory
        if not in_transaction and not lent.closed:
            lent.rollback()
            lent.autocommit, lent.isolation_level = autocommit, isolation_level


@contextmanager
def scope(connection: sa.Connection, *, transactional: bool) -> Iterator[None]:
    """One transaction, or every statement committed at once; inside a caller's transaction, nothing."""
    if connection.in_transaction():
        yield
        return
    connection.execution_options(isolation_level="READ COMMITTED" if transactional else "AUTOCOMMIT")
    with connection.begin():  # a formality under AUTOCOMMIT, so that one `with` serves both
        yield


def is_committing(connection: sa.Connection) -> bool:
    """Whether every statement of the present scope is committed at once."""
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


@contextmanager
def advisory_lock(connection: sa.Connection, key: int, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock that only one run has; in a caller's transaction it is held until that ends.

    Raises
    ------
    MigrationLockHeld
        Another session has it, and still has after ``wait_seconds``.
    """
    in_transaction = connection.in_transaction()
    take = sa.func.pg_try_advisory_xact_lock if in_transaction else sa.func.pg_try_advisory_lock
    number = sa.cast(sa.literal(key), sa.BigInteger)
    give_up_at = time.monotonic() + wait_seconds
    while True:
        with scope(connection, transactional=False):
            if ask(connection, sa.select(take(number)))[0][0]:
                break
        if time.monotonic() >= give_up_at:
            raise MigrationLockHeld(key)
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        if not in_transaction and not connection.closed and not connection.invalidated:
            with scope(connection, transactional=False):
                ask(connection, sa.select(sa.func.pg_advisory_unlock(number)))


def ask(connection: sa.Connection, statement: sa.Executable, **parameters: Any) -> Sequence[sa.Row[Any]]:
    """Return the rows of a question of the migrator's own, which the SQL log leaves out. Leaves no transaction open."""
    with scope(connection, transactional=False):
        return connection.execute(statement, parameters, execution_options={UNLOGGED: True}).all()


@contextmanager
def settings(connection: sa.Connection, values: Mapping[str, str]) -> Iterator[None]:
    """Set run-time parameters for the block; afterwards they are what they were, whatever the block set them to.

    After an error in a transaction nothing is put back: the rollback does it. In a caller's transaction too: it has to roll back.
    """
    names = ("search_path", *(name for name in values if name != "search_path"))
    before = {name: ask(connection, sa.select(sa.func.current_setting(name)))[0][0] for name in names}

    def put(chosen: Mapping[str, str]) -> None:
        for name, value in chosen.items():
            ask(connection, sa.select(sa.func.set_config(name, value, False)))

    put(values)
    try:
        yield
    except BaseException:
        if is_committing(connection) and not connection.closed and not connection.invalidated:
            put(before)
        raise
    put(before)
