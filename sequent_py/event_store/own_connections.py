"""The store's own connections: lent by the engine's pool for as long as one call takes, and given back as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, cast

import psycopg
import sqlalchemy
from psycopg.pq import PipelineStatus, TransactionStatus

from sequent_py.database import KEPT, preparing
from sequent_py.exchange import Exchange
from sequent_py.kept_connections import KeptConnections

_KEY = "sequent_py.exchange"
"""Where the pool keeps a connection's :class:`~sequent_py.exchange.Exchange`, as long as the connection lives."""

_HAS_PIPELINES = psycopg.Pipeline.is_supported()


class OwnConnections:
    """Lends connections of one engine. Safe for threads, as the engine is."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self._kept: KeptConnections[Exchange] | None = engine.get_execution_options().get(KEPT)

    @contextmanager
    def lend(self, *, autocommit: bool = False) -> Iterator[psycopg.Connection]:
        """Lend a pooled connection: committed at the end, rolled back on any exception."""
        pooled = self._engine.raw_connection()
        connection = cast(psycopg.Connection, pooled.driver_connection)
        try:
            connection.autocommit = autocommit
            with preparing(connection):
                yield connection
            if not autocommit:
                connection.commit()
        finally:
            self._take_back(pooled, connection)

    def lend_exchange(self) -> AbstractContextManager[Exchange | None]:
        """Lend a pooled connection to be talked to by exchanges; None where it has to be asked through cursors.

        That is where transactions are to begin in a way of their own (an isolation level, say), or nothing may be prepared, or libpq is too old. What is not
        committed at the end is rolled back.
        """
        return self._lend_pooled_exchange() if self._kept is None else _LentExchange(self, self._kept)

    @contextmanager
    def _lend_pooled_exchange(self) -> Iterator[Exchange | None]:
        exchange: Exchange | None = None
        pooled = self._engine.raw_connection()
        driver_connection: Any = pooled.driver_connection
        connection: psycopg.Connection = driver_connection
        is_plain = False
        try:
            exchange = pooled.info.get(_KEY)
            if exchange is None:
                exchange = pooled.info[_KEY] = Exchange(connection)
            is_plain = _is_plain(connection)
            yield exchange if is_plain else None
        finally:
            if is_plain and exchange is not None and self._kept is not None and self._kept.adopt(exchange):
                pooled.detach()
                self._put_back(self._kept, exchange)
            else:
                self._take_back(pooled, connection)

    def _put_back(self, kept: KeptConnections[Exchange], exchange: Exchange) -> None:
        """As :meth:`_take_back`, for one that is kept."""
        connection, pgconn = exchange.connection, exchange.pgconn
        is_kept = False
        try:
            if connection.closed:
                self._engine.dispose()
            elif (
                pgconn.transaction_status != TransactionStatus.ACTIVE
                and pgconn.pipeline_status == PipelineStatus.OFF
            ):
                if pgconn.transaction_status != TransactionStatus.IDLE:
                    connection.rollback()
                kept.put_back(exchange)
                is_kept = True
        finally:
            if not is_kept:
                # Whatever came between: nobody else may get it.
                kept.drop(exchange)
                connection.close()

    def _take_back(self, pooled: sqlalchemy.PoolProxiedConnection, connection: psycopg.Connection) -> None:
        pgconn = connection.pgconn
        status = pgconn.transaction_status
        if connection.closed:
            pooled.invalidate()
            # The others in the pool were probably cut off by the same event, and each would fail one append.
            self._engine.dispose()
        elif status == TransactionStatus.ACTIVE or pgconn.pipeline_status != PipelineStatus.OFF:
            # An exception came while the driver waited for the server: nothing more can be sent.
            connection.close()
            pooled.invalidate()
        else:
            if status != TransactionStatus.IDLE:
                connection.rollback()
            if connection.autocommit:
                connection.autocommit = False
            pooled.close()


class _LentExchange:
    """The loan of an exchange that is kept, or of a pooled one where none is. A context by hand: a generator's costs an append as much as taking and putting back."""

    __slots__ = ("_exchange", "_kept", "_lender", "_pooled")

    def __init__(self, lender: OwnConnections, kept: KeptConnections[Exchange]) -> None:
        self._lender, self._kept = lender, kept
        self._exchange: Exchange | None = None

    def __enter__(self) -> Exchange | None:
        try:
            self._exchange = self._kept.take()
            if self._exchange is not None:
                return self._exchange
        except BaseException:
            if self._exchange is not None:
                self._lender._put_back(self._kept, self._exchange)
            raise
        self._pooled = self._lender._lend_pooled_exchange()
        return self._pooled.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._exchange is None:
            return self._pooled.__exit__(kind, error, traceback)
        self._lender._put_back(self._kept, self._exchange)
        return None


def _is_plain(connection: psycopg.Connection[Any]) -> bool:
    return (
        connection.isolation_level is None
        and connection.read_only is None
        and connection.deferrable is None
        and connection.prepare_threshold is not None
        and _HAS_PIPELINES
    )
