"""Cursors of our own: what they send and give back does not depend on how anybody set up the connection.

Appending, loading and projecting work on connections that belong to the caller. Such a connection may make dictionaries of its rows, have cursors with another syntax of
placeholders, a DateStyle that the driver cannot read, or loaders and dumpers of its own; an application may also register those for the whole process. None of that reaches
these cursors: they give tuples, take ``%s``, convert as the driver does when it is first imported, and read the binary formats, which no setting changes. The connection
itself stays as it is.
"""

from __future__ import annotations

import json
import struct
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg import dbapi20, postgres
from psycopg.adapt import AdaptersMap, Buffer, Loader, PyFormat
from psycopg.pq import Format
from psycopg.rows import tuple_row
from psycopg.types import TypesRegistry
from psycopg.types.array import register_all_arrays
from psycopg.types.json import set_json_dumps, set_json_loads

from sequent_py.events import moment

Connection = psycopg.Connection[Any]
Row = tuple[Any, ...]

_unpack_int8 = struct.Struct("!q").unpack


class UtcLoader(Loader):
    """Loads ``timestamptz`` in UTC: in the session's time zone the first and the last day that Python knows may have no datetime."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime | int:
        """Return the datetime.

        Raises
        ------
        psycopg.DataError
            There is none: infinity, years before 1 and after 9999.
        """
        (microseconds,) = _unpack_int8(data)
        try:
            return moment(microseconds)
        except OverflowError:
            return self.without_datetime(microseconds)

    def without_datetime(self, microseconds: int) -> int:
        """Say what becomes of a moment that Python has no datetime for."""
        raise psycopg.DataError(f"no moment of the years 1 to 9999: {microseconds} µs from 2000-01-01 on")


class MomentLoader(UtcLoader):
    """As that, but a moment without a datetime stays a number, for its reader to name the event."""

    def without_datetime(self, microseconds: int) -> int:
        """Return the microseconds since 2000."""
        return microseconds


def shipped_adapters() -> AdaptersMap:
    """Return the driver's conversions as it ships them, without those that were registered in this process."""
    types = TypesRegistry()
    postgres.register_default_types(types)
    adapters = AdaptersMap(types=types)
    postgres.register_default_adapters(adapters)
    dbapi20.register_dbapi20_adapters(adapters)
    register_all_arrays(adapters)
    # Process-wide functions are kept by the classes themselves.
    set_json_loads(json.loads, adapters)
    set_json_dumps(json.dumps, adapters)
    # The driver replaces the names of classes by the classes at first use, which two threads must not do at once.
    for kind in (UUID, datetime, date, time, timedelta, Decimal):
        for form in PyFormat:
            adapters.get_dumper(kind, form)
    return adapters


SHIPPED = shipped_adapters()
"""Never changed, as those below: cursors read them, in whatever thread."""
_OF_TABLES, _OF_EVENTS = AdaptersMap(SHIPPED), AdaptersMap(SHIPPED)
_OF_TABLES.register_loader("timestamptz", UtcLoader)
_OF_EVENTS.register_loader("timestamptz", MomentLoader)


class OwnCursor(psycopg.Cursor[Row]):
    """A cursor for statements on managed tables."""

    __slots__ = ()

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, row_factory=tuple_row)
        self.format = Format.BINARY

    @property
    def adapters(self) -> AdaptersMap:
        """The driver's own conversions, but for ``timestamptz``."""
        return _OF_TABLES


class EventCursor(OwnCursor):
    """A cursor for statements on events."""

    __slots__ = ()

    @property
    def adapters(self) -> AdaptersMap:
        """As those of :class:`OwnCursor`, and every ``timestamptz`` is taken."""
        return _OF_EVENTS


class EventServerCursor(psycopg.ServerCursor[Row]):
    """A server-side cursor for reading events."""

    __slots__ = ()

    def __init__(self, connection: Connection, name: str) -> None:
        super().__init__(connection, name, row_factory=tuple_row)
        self.format = Format.BINARY

    @property
    def adapters(self) -> AdaptersMap:
        """As those of :class:`EventCursor`."""
        return _OF_EVENTS
