"""The edge to PostgreSQL: how connections are made, and what every one of them has in common.

libpq parses the URL, for psycopg and SQLAlchemy alike. Every connection has ``search_path = <view schema>, public`` ``TimeZone = UTC`` and psycopg's date styles, and talks
to a supported server. Failures to connect become :class:`~sequent_py.errors.DatabaseUnavailable`, which names user, host and database and never a password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import psycopg
import sqlalchemy
from psycopg import sql
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sequent_py.cursors import SHIPPED
from sequent_py.errors import DatabaseUnavailable, StoreError
from sequent_py.kept_connections import KeptConnections

OLDEST_SERVER_VERSION = 15
"""``max(xid8)`` and ``NULLS NOT DISTINCT`` came with it."""
CONNECT_TIMEOUT_SECONDS = 10
"""For URLs that set no ``connect_timeout``: a host that swallows packets would hold a command for minutes."""
POOL_SIZE = 5
POOL_OVERFLOW = 15
"""An append that meets an event type for the first time uses a second connection for a moment, so the pool must give way. With those that are kept
(:mod:`sequent_py.kept_connections`) a process has 25 at most."""
KEPT = "sequent_py.kept"
"""The execution option by which an engine has its kept connections; engines that others made have none."""

PREPARE_AFTER = 5
"""How often the store executes a statement before the server is to remember it; the driver's own default."""
PREPARED_BY_THE_STORE_ONLY = 2**31 - 1
"""The driver's ``prepare_threshold`` on an engine's connections while somebody else than the store is using them: so many that nothing is prepared."""

MIGRATION_SETTINGS = (
    ("statement_timeout", "0"),
    ("transaction_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("lock_timeout", "10s"),
    ("jit", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
)
"""Session settings of a view migration's connections; those that the server does not have (``transaction_timeout`` before 17) are skipped."""

AnyConnection = psycopg.Connection[Any] | sqlalchemy.Connection


def connect(
    url: str,
    *,
    view_schema: str | None = None,
    application_name: str = "sequent",
    autocommit: bool = False,
    adapters: AdaptersMap = SHIPPED,
) -> psycopg.Connection:
    """Open a connection with our session settings; with the driver's own conversions, unless others are given.

    Raises
    ------
    DatabaseUnavailable
        The URL is malformed, nobody answers, the login fails, or the server is too old.
    """
    connection = connect_plainly(url, application_name=application_name, adapters=adapters)
    try:
        check_server_version(connection)
        path = sql.SQL(", ").join(
            [sql.Identifier(view_schema), sql.SQL("public")] if view_schema else [sql.SQL("public")]
        )
        connection.execute(
            sql.SQL(
                "SET search_path = {}; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres';"
                " SET extra_float_digits = 1"
            ).format(path)
        )
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def connect_plainly(
    url: str, *, application_name: str = "sequent", adapters: AdaptersMap = SHIPPED
) -> psycopg.Connection:
    """Open an autocommit connection with the settings that login and database have, but for the encoding.

    Raises
    ------
    DatabaseUnavailable
        The URL is malformed, nobody answers, or the login fails.
    """
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq quotes the part that it could not parse, which may be the password.
        raise DatabaseUnavailable(
            "The database URL cannot be parsed.",
            remedy="Write postgresql://user:password@host:port/database, with %-escapes for special characters.",
        ) from None
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": application_name,
    }
    missing = {key: value for key, value in defaults.items() if key not in parameters}
    try:
        # Autocommit, lest a rollback undo the settings.
        # UTF-8 whatever role, database, PGCLIENTENCODING or URL say: payloads travel as bytes, which another encoding would garble.
        return psycopg.connect(
            make_conninfo(url, **missing, client_encoding="UTF8"), autocommit=True, context=adapters
        )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"Cannot connect to {_describe(parameters)}: {_without_password(str(error), parameters)}",
            remedy="Check database_url (SEQUENT_DATABASE_URL) and whether the server is running.",
        ) from None


def connect_for_migration(url: str, *, application_name: str) -> psycopg.Connection:
    """Open an autocommit connection for the work of a view migration, whatever defaults the role or the database has.

    Time limits that suit requests would end a replay or an index build, and windows, claims and the gate count on READ COMMITTED.

    Raises
    ------
    DatabaseUnavailable
        As :func:`connect`.
    """
    connection = connect(url, application_name=application_name, autocommit=True)
    try:
        names = [name for name, _ in MIGRATION_SETTINGS]
        known = connection.execute("SELECT name FROM pg_settings WHERE name = ANY (%s)", [names]).fetchall()
        for name, value in MIGRATION_SETTINGS:
            if (name,) in known:
                connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        with suppress(psycopg.errors.InvalidParameterValue):  # not on every platform of the server
            # A process that died in mid-statement must not keep its locks until that statement ends.
            connection.execute("SET client_connection_check_interval = '1s'")
    except BaseException:
        connection.close()
        raise
    return connection


def create_engine(
    url: str, view_schema: str, *, application_name: str = "sequent", **options: Any
) -> sqlalchemy.Engine:
    """Return an engine whose pool opens connections by :func:`connect`; opens none yet.

    The driver prepares nothing on them but what the store executes (:func:`preparing`), which knows when a cut-over makes the server refuse
    to run a statement again: where a column has changed its type. The application's queries see no cut-over. They convert as the application has
    told the driver for the whole process.

    Without ``options``, which may say how connections are pooled, the store keeps some for its appends.
    """

    def creator() -> psycopg.Connection:
        connection = connect(
            url, view_schema=view_schema, application_name=application_name, adapters=psycopg.adapters
        )
        connection.prepare_threshold = PREPARED_BY_THE_STORE_ONLY
        return connection

    kept = None if options else KeptConnections[Any](lambda exchange: exchange.connection.close())
    defaults = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW, "use_native_hstore": False}
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=creator, **(defaults | options))
    if kept is not None:
        engine.update_execution_options(**{KEPT: kept})
        sqlalchemy.event.listen(engine, "engine_disposed", lambda _engine: kept.close())
    return engine


@contextmanager
def preparing(connection: psycopg.Connection) -> Iterator[None]:
    """Let the driver prepare what an engine's connection executes often, until the block ends; anybody else's connection stays as it is."""
    if connection.prepare_threshold != PREPARED_BY_THE_STORE_ONLY:
        yield
        return
    connection.prepare_threshold = PREPARE_AFTER
    try:
        yield
    finally:
        connection.prepare_threshold = PREPARED_BY_THE_STORE_ONLY


def raw_connection(connection: AnyConnection) -> psycopg.Connection:
    """Return the psycopg connection under a SQLAlchemy one, or the psycopg connection itself.

    A SQLAlchemy connection that is not in a transaction begins one: it does not see what is executed underneath, and its ``commit()``
    would do nothing.

    Raises
    ------
    StoreError
        It is of another driver, or asynchronous; or its client encoding is not UTF-8: the server would take the bytes of payloads for other characters.
    """
    raw = connection
    if isinstance(connection, sqlalchemy.Connection):
        if not connection.in_transaction():
            connection.begin()
        raw = cast(psycopg.Connection, connection.connection.driver_connection)
    if not isinstance(raw, psycopg.Connection):
        raise StoreError(
            f"A connection of psycopg 3 is needed, or one of SQLAlchemy over it, not {type(raw).__module__}.{type(raw).__qualname__}.",
            remedy="Make it with psycopg.connect(…), or with an engine for postgresql+psycopg://…",
        )
    if raw.info.encoding != "utf-8":
        raise StoreError(
            f"The connection's client encoding is {raw.info.encoding}; payloads would be garbled.",
            remedy="Run on it: SET client_encoding = 'UTF8'",
        )
    return raw


def check_server_version(connection: psycopg.Connection) -> None:
    """Raise DatabaseUnavailable for a server that is older than we support."""
    version = connection.info.server_version
    if version // 10_000 < OLDEST_SERVER_VERSION:
        raise DatabaseUnavailable(
            f"The server is PostgreSQL {version // 10_000}.{version % 10_000}; "
            f"{OLDEST_SERVER_VERSION} or later is needed.",
            remedy="Upgrade the server, or point database_url at another one.",
        )


def is_lost(error: psycopg.Error) -> bool:
    """Whether an error of the driver says that there is no server to talk to any more, or not yet: no statement is to blame."""
    state = error.sqlstate
    if state is None:
        # libpq's own words; what the server refuses has a state.
        return isinstance(error, psycopg.OperationalError)
    return state.startswith("08") or state in _ENDED


_ENDED = ("57P01", "57P02", "57P03", "57P05")
"""An administrator or a crash ended the session, the server is starting or stopping, or an idle session was ended."""


def for_parameters(composed: sql.Composable) -> sql.SQL:
    """Return SQL for use beside parameters: psycopg would take a ``%`` in an identifier for a placeholder."""
    return sql.SQL(cast(Any, composed.as_string(None).replace("%", "%%")))


def _describe(parameters: dict[str, Any]) -> str:
    host = str(parameters.get("host", parameters.get("hostaddr", "the default host")))
    if "@" in host:
        # What follows an unescaped "@" of a password ends up here.
        host = "a host with an unescaped @ before it"
    port = f":{parameters['port']}" if "port" in parameters else ""
    user = f"{parameters['user']}@" if "user" in parameters else ""
    return f"{user}{host}{port}/{parameters.get('dbname', '')}"


def _without_password(text: str, parameters: dict[str, Any]) -> str:
    text = " ".join(text.split())
    if "@" in str(parameters.get("host", "")):
        return "the password must be %-escaped in the URL"
    for key in ("password", "sslpassword", "passfile"):
        if secret := str(parameters.get(key) or ""):
            text = text.replace(secret, "***")
    return text
