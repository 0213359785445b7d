"""A database for one demonstration, and nothing of the caller's.

With a server named: a new database on it, dropped at the end. Without: an embedded PostgreSQL in a temporary directory, removed at the end.
To be kept: the example's project is copied to ``.sequent/demo`` (or ``demo-2``, …), an embedded server lives inside it, and whoever runs
``sequent`` there finds everything as the demonstration left it.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sequent_py.demo.examples import copy_example, example_directory
from sequent_py.demo.reports import Kept
from sequent_py.embedded import EmbeddedServer, directory_of
from sequent_py.errors import ConfigurationError, DatabaseUnavailable

_CONNECT_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Scratch:
    """Where a demonstration runs."""

    database_url: str
    """May hold a password: never shown."""
    server: str
    """The server in words."""
    project_directory: Path
    """The example application."""
    kept: Kept | None


@contextmanager
def scratch(
    example: str, *, server_url: str | None, keep: bool, working_directory: Path
) -> Iterator[Scratch]:
    """Yield a fresh database for the example; drop it at the end, however the block ends, unless ``keep``.

    Raises
    ------
    ConfigurationError
        The role may not create databases, or no embedded PostgreSQL is installed.
    DatabaseUnavailable
        No server answers.
    """
    project = example_directory(example)
    if keep:
        project = _free_directory(working_directory / ".sequent")
        copy_example(example, project)
    if server_url is not None:
        with _database_on(server_url, keep=keep) as name:
            kept = Kept(project, name) if keep else None
            yield Scratch(make_conninfo(server_url, dbname=name), _in_words(server_url), project, kept)
    elif keep:
        with _embedded(directory_of(project)) as url:
            yield Scratch(url, "an embedded PostgreSQL (kept)", project, Kept(project, None))
    else:
        # Removing may meet a file that the server is just removing itself.
        with (
            tempfile.TemporaryDirectory(prefix="sequent-demo-", ignore_cleanup_errors=True) as temporary,
            _embedded(directory_of(Path(temporary))) as url,
        ):
            yield Scratch(url, "an embedded PostgreSQL in a temporary directory", project, None)


@contextmanager
def _embedded(directory: Path) -> Iterator[str]:
    server = EmbeddedServer.join(directory)
    try:
        yield server.url
    finally:
        server.release()


@contextmanager
def _database_on(server_url: str, *, keep: bool) -> Iterator[str]:
    name = f"sequent_demo_{secrets.token_hex(4)}"
    try:
        with psycopg.connect(
            server_url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_SECONDS
        ) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name))
            )
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"The demo needs a database of its own, and the role may not create one on {_in_words(server_url)}.",
            remedy="Name a role with CREATEDB, or unset SEQUENT_DATABASE_URL to use the embedded PostgreSQL.",
        ) from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"{_in_words(server_url)} does not answer: {_first_line(error)}.",
            remedy="Start it, or unset SEQUENT_DATABASE_URL to use the embedded PostgreSQL.",
        ) from error
    try:
        yield name
    finally:
        if not keep:
            with psycopg.connect(server_url, autocommit=True) as connection:
                connection.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
                )


def _free_directory(parent: Path) -> Path:
    number = 1
    while (directory := parent / ("demo" if number == 1 else f"demo-{number}")).exists():
        number += 1
    parent.mkdir(parents=True, exist_ok=True)
    ignore = parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    return directory


def _in_words(server_url: str) -> str:
    try:
        parameters = conninfo_to_dict(server_url)
    except psycopg.ProgrammingError:
        raise ConfigurationError("database_url is neither a PostgreSQL URL nor a key=value string.") from None
    return f"the server {parameters.get('host') or 'on this machine'}:{parameters.get('port') or 5432}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
