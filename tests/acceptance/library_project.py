"""A small project of its own, written into a directory and driven as its users drive it: by the command line and the public API.

A library lends books. Version 1 has one table; version 2 gives it a column and adds a second one. A book with the title ``CURSED`` makes a
handler fail. While the project's file ``pace`` says ``slow``, adding a book takes its time; while it says ``hold``, it waits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

import sequent_py

PACKAGE_PARENT = str(Path(sequent_py.__path__[0]).parent)
TIMEOUT_SECONDS = 120

PYPROJECT = """
[project]
name = "library"

[tool.sequent]
migrations_class = "library.migrations:LibraryMigrations"
"""

EVENTS = """
from sequent_py import Event


class BookAdded(Event):
    title: str


class BookLent(Event):
    reader: str


class BookReturned(Event):
    pass
"""

RECORDS = """
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Record


class BookRecord(Record):
    __tablename__ = "book_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    title: Mapped[str]
    reader: Mapped[str | None]
"""

PROJECTORS = """
import time
from pathlib import Path

from library.events import BookAdded, BookLent, BookReturned
from library.records import BookRecord
from sequent_py import Projector, on


PACE = Path(__file__).parent.parent / "pace"


def keep_pace() -> None:
    while PACE.exists() and PACE.read_text() == "hold":
        time.sleep(0.02)
    if PACE.exists():
        time.sleep(0.3)


class BookProjector(Projector):
    manages_tables = (BookRecord,)

    @on(BookAdded)
    def added(self, event: BookAdded) -> None:
        keep_pace()
        if event.title == "CURSED":
            raise LookupError("no shelf for this one")
        self.create_record(BookRecord, aggregate_id=event.aggregate_id, title=event.title)

    @on(BookLent)
    def lent(self, event: BookLent) -> None:
        with self.update_record(BookRecord, event) as book:
            book.reader = event.reader

    @on(BookReturned)
    def returned(self, event: BookReturned) -> None:
        with self.update_record(BookRecord, event) as book:
            book.reader = None
"""

MIGRATIONS = """
from library.projectors import BookProjector
from sequent_py import Migrations


class LibraryMigrations(Migrations):
    version = 1
    versions = {1: [BookProjector]}
"""

BOOKS_SQL = """
CREATE TABLE book_records%SUFFIX% (
    id bigserial NOT NULL,
    aggregate_id uuid NOT NULL,
    title text NOT NULL,
    reader text,
    CONSTRAINT book_records_pkey%SUFFIX% PRIMARY KEY (id)
);
"""

BOOKS_INDEXES_SQL = """
CREATE UNIQUE INDEX book_records_aggregate_id%SUFFIX% ON book_records%SUFFIX% (aggregate_id);
"""

VERSION_1 = {
    "pyproject.toml": PYPROJECT,
    "library/__init__.py": "",
    "library/events.py": EVENTS,
    "library/records.py": RECORDS,
    "library/projectors.py": PROJECTORS,
    "library/migrations.py": MIGRATIONS,
    "sql/book_records.sql": BOOKS_SQL,
    "sql/book_records.indexes.sql": BOOKS_INDEXES_SQL,
}

VERSION_2 = {
    "library/records.py": RECORDS
    + """    lendings: Mapped[int]


class ReaderRecord(Record):
    __tablename__ = "reader_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    reader: Mapped[str]
""",
    "library/projectors.py": PROJECTORS.replace("import BookRecord", "import BookRecord, ReaderRecord")
    .replace("title=event.title)", "title=event.title, lendings=0)")
    .replace("book.reader = event.reader", "book.reader = event.reader\n            book.lendings += 1")
    + """

class ReaderProjector(Projector):
    manages_tables = (ReaderRecord,)

    @on(BookLent)
    def lent(self, event: BookLent) -> None:
        self.create_record(ReaderRecord, aggregate_id=event.aggregate_id, reader=event.reader)
""",
    "library/migrations.py": MIGRATIONS.replace(
        "import BookProjector", "import BookProjector, ReaderProjector"
    )
    .replace("version = 1", "version = 2")
    .replace("{1: [BookProjector]}", "{1: [BookProjector], 2: [BookProjector, ReaderProjector]}"),
    "sql/book_records.sql": BOOKS_SQL.replace("reader text,", "reader text,\n    lendings integer NOT NULL,"),
    "sql/reader_records.sql": """
CREATE TABLE reader_records%SUFFIX% (
    id bigserial NOT NULL,
    aggregate_id uuid NOT NULL,
    reader text NOT NULL,
    CONSTRAINT reader_records_pkey%SUFFIX% PRIMARY KEY (id)
);
""",
}

APPEND = """
import sys
import uuid
from library.events import BookAdded, BookLent, BookReturned
from sequent_py import Sequent

with Sequent.load() as app:
    for title in sys.argv[1:]:
        book = uuid.uuid5(uuid.NAMESPACE_OID, title)
        app.store.append(book, [BookAdded(title=title), BookLent(reader="Ann"), BookReturned(), BookLent(reader="Bob")])
"""

IMPORT = """
import sys
import uuid
from library.events import BookAdded, BookLent, BookReturned
from sequent_py import Sequent

def history(books, lendings):
    for number in range(books):
        book = uuid.uuid5(uuid.NAMESPACE_OID, str(number))
        yield book, BookAdded(title=f"Volume {number:03}"), None
        for _ in range(lendings):
            yield book, BookLent(reader="Ann"), None
            yield book, BookReturned(), None
        yield book, BookLent(reader="Bob"), None

with Sequent.load() as app:
    app.store.import_history(history(*map(int, sys.argv[1:])))
"""


@dataclass
class Library:
    """The project in ``directory``, on the database at ``database_url``."""

    directory: Path
    database_url: str | None
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, files: dict[str, str]) -> None:
        """Write files; what Python compiled of their predecessors goes."""
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            self._forget_compiled()

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text that must be there in a file."""
        path = self.directory / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        self._forget_compiled()

    def _forget_compiled(self) -> None:
        # Python tells files apart by size and whole seconds, and tests are faster than that.
        shutil.rmtree(self.directory / "library/__pycache__", ignore_errors=True)

    # -- the command line

    def sequent(
        self, *arguments: str, expect: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``sequent`` and check its exit code; None: any."""
        result = subprocess.run(
            self._command(arguments),
            cwd=self.directory,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert expect is None or result.returncode == expect, (
            f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        )
        assert "Traceback" not in result.stderr or "--debug" in arguments, result.stderr
        return result

    def json(self, *arguments: str, expect: int = 0, **environment: str) -> Any:
        """Run ``sequent … --json`` and return the one document on standard output."""
        return json.loads(self.sequent(*arguments, "--json", expect=expect, **environment).stdout)

    def run_with_closed_streams(self, *arguments: str) -> int:
        """Run ``sequent`` without standard input, output and error; return its exit code."""
        closing = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", closing, *self._command(arguments)]
        return subprocess.run(
            command, cwd=self.directory, env=self._environment({}), timeout=TIMEOUT_SECONDS, check=False
        ).returncode

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start ``sequent`` in a process group of its own, and return at once."""
        return subprocess.Popen(
            self._command(arguments),
            cwd=self.directory,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def pace(self, pace: str | None) -> None:
        """Set the pace of every handler that runs from now on: ``slow``, ``hold``, or None for as fast as it can."""
        file, new = self.directory / "pace", self.directory / "pace.new"
        if pace is None:
            file.unlink(missing_ok=True)
        else:
            new.write_text(pace)
            new.rename(file)

    def migrate(self) -> None:
        """Run online and offline."""
        self.sequent("migrate", "online", "--workers", "1")
        self.sequent("migrate", "offline")

    # -- the public API, and the database

    def python(self, code: str, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a script of the project."""
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            cwd=self.directory,
            env=self._environment({}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert result.returncode == expect, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def append(self, *titles: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Append four events per title: added, lent to Ann, returned, lent to Bob."""
        return self.python(APPEND, *titles, expect=expect)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database directly."""
        assert self.database_url is not None
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement).fetchall()

    def tables(self, schema: str = "view_schema") -> set[str]:
        """Return the names of the tables in a schema."""
        return {
            name
            for name, found in self.query("SELECT tablename, schemaname FROM pg_tables")
            if found == schema
        }

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "sequent_py", *arguments]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        # Hundreds of processes are started; compiling anew what they import would take most of the time.
        ours = {"PYTHONPATH": PACKAGE_PARENT, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": ""}
        if self.database_url is not None:
            ours["SEQUENT_DATABASE_URL"] = self.database_url
        return {**os.environ, **ours, **self.environment, **more}


def eventually(condition: Callable[[], bool], *, timeout_seconds: float = 30) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
