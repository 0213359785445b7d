"""The SQL files of managed tables: finds them, reads them, and replaces ``%SUFFIX%``, which happens nowhere else.

``sql/<table>.sql`` creates a table in its newest shape, ``sql/<table>.indexes.sql`` what is cheaper to build once the rows are there
(keys, indexes, constraints), ``sql/<table>_<version>.sql`` alters the live table in place for one version. The first two name everything
that they create with ``%SUFFIX%``; an alter file names the table as it is. Reads files and nothing else; what is inside is judged by the
server, in :func:`sequent_py.view_schema.ddl.trial.trial`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sequent_py.errors import TableFileError
from sequent_py.view_schema.plans import Plan

PLACEHOLDER = "%SUFFIX%"
_ALTER_FILE = re.compile(r"(?P<table>.+)_(?P<version>0|[1-9][0-9]*)\.sql", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TableFiles:
    """The files of one table, as they were written."""

    table: str
    create_sql: str
    indexes_sql: str | None


def create_file_name(table: str) -> str:
    """Return the name of the file that creates the table."""
    return f"{table}.sql"


def indexes_file_name(table: str) -> str:
    """Return the name of the file that builds keys and indexes after the load."""
    return f"{table}.indexes.sql"


def alter_file_name(table: str, version: int) -> str:
    """Return the name of the file that alters the live table."""
    return f"{table}_{version}.sql"


def read_table_files(directory: Path, table: str) -> TableFiles:
    """Read the files of a table.

    Raises
    ------
    TableFileError
        A file is missing, empty, not UTF-8, or has no ``%SUFFIX%``.
    """
    create_sql = _read(directory, table, create_file_name(table))
    _require_placeholder(directory / create_file_name(table), create_sql)
    indexes_sql = None
    if (directory / indexes_file_name(table)).exists():
        indexes_sql = _read(directory, table, indexes_file_name(table))
        _require_placeholder(directory / indexes_file_name(table), indexes_sql)
    return TableFiles(table, create_sql, indexes_sql)


def alter_files(directory: Path) -> frozenset[tuple[str, int]]:
    """Return the table and version of every alter file; empty where there is no directory.

    A table whose own name ends in a number (``report_2.sql``) is listed too: only the planner knows which names are tables.
    """
    if not directory.is_dir():
        return frozenset()
    matches = [_ALTER_FILE.fullmatch(path.name) for path in directory.iterdir() if path.is_file()]
    return frozenset((match["table"], int(match["version"])) for match in matches if match)


def read_alter_file(directory: Path, table: str, version: int) -> str:
    """Read an alter file.

    Raises
    ------
    TableFileError
        It is missing, empty, not UTF-8, or has a ``%SUFFIX%``.
    """
    name = alter_file_name(table, version)
    text = _read(directory, table, name)
    if PLACEHOLDER in text:
        raise TableFileError(
            f"{directory / name} has {PLACEHOLDER}, but an alter file runs on the live table.",
            remedy=f"Write {table} without a suffix.",
        )
    return text


def with_suffix(text: str, suffix: str) -> str:
    """Return the text for one generation of the table: ``suffix`` is ``_<version>``, or empty for the plain names."""
    return text.replace(PLACEHOLDER, suffix)


def fingerprint(files: Iterable[tuple[str, str]]) -> str:
    """Return a SHA-256 over names and texts, in whatever order they come."""
    digest = hashlib.sha256()
    for name, text in sorted(files):
        for part in (name.encode(), text.encode()):
            # The length keeps ("a", "bc") and ("ab", "c") apart.
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def plan_fingerprint(directory: Path, plan: Plan) -> str:
    """Return, as JSON, a SHA-256 of every file that a plan uses.

    Raises
    ------
    TableFileError
        One of them cannot be read.
    """
    files: list[tuple[str, str]] = []
    tables = [step.table_name for step in plan.replays] + [step.table_name for step in plan.alters]
    for table in dict.fromkeys(tables):
        found = read_table_files(directory, table)
        files.append((create_file_name(table), found.create_sql))
        files.append((indexes_file_name(table), found.indexes_sql or ""))
    for step in plan.alters:
        text = read_alter_file(directory, step.table_name, step.version)
        files.append((alter_file_name(step.table_name, step.version), text))
    return json.dumps({name: fingerprint([(name, text)]) for name, text in sorted(files)})


def changed_files(before: str, after: str) -> list[str]:
    """Return the names of the files in which two results of :func:`plan_fingerprint` differ."""
    old, new = json.loads(before), json.loads(after)
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def _read(directory: Path, table: str, name: str) -> str:
    path = directory / name
    if "/" in name or "\0" in name:
        raise TableFileError(f"A table called {table!r} cannot have a file.", remedy="Rename the table.")
    try:
        # utf-8-sig: editors on Windows put a byte order mark in front, which the server would take for an identifier.
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise TableFileError(f"{path} does not exist.", remedy=f"Write the SQL of {table} there.") from None
    except UnicodeDecodeError as error:
        raise TableFileError(
            f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.",
            remedy="Save it as UTF-8.",
        ) from error
    except OSError as error:
        raise TableFileError(f"{path} cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise TableFileError(f"{path} is empty.", remedy=f"Write the SQL of {table} there.")
    if "\0" in text:
        raise TableFileError(f"{path} has a NUL character.", remedy="Remove it.")
    return text


def _require_placeholder(path: Path, text: str) -> None:
    if PLACEHOLDER in text:
        return
    close = re.search(re.escape(PLACEHOLDER), text, re.IGNORECASE)
    written = f" (it has {close.group()}, which is not replaced)" if close else ""
    raise TableFileError(
        f"{path} has no {PLACEHOLDER}{written}.",
        remedy=f"Put {PLACEHOLDER} after every name that the file creates, such as {path.name.split('.')[0]}{PLACEHOLDER}.",
    )
