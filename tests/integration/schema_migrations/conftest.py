"""A database and a directory of migrations for the tests of schema migrations.

``rows`` marks which rows of the case list a test covers; ``tests/unit/test_schema_migrations_cases.py`` checks that none is forgotten.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from sequent_py.testing.server import embedded_binaries, fresh_database

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rows(*numbers): the rows of the case list that the test covers")


class Database:
    """A fresh database, looked at from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool
        )

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL and return its rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @property
    def tables(self) -> set[str]:
        """The ordinary tables but for the tracking tables."""
        return self.all_tables - {"schema_info", "schema_migrations"}

    @property
    def all_tables(self) -> set[str]:
        return {row[0] for row in self.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}

    @property
    def version(self) -> int:
        ((version,),) = self.sql("SELECT version FROM schema_info")
        return int(version)

    @property
    def filenames(self) -> list[str]:
        return [row[0] for row in self.sql("SELECT filename FROM schema_migrations ORDER BY filename")]

    def dump(self, *, without_tracking: bool = False) -> str:
        """The schema as ``pg_dump -s`` prints it, without anything random."""
        program = embedded_binaries() / "pg_dump"
        arguments = ["--schema-only", "--restrict-key=x", f"--dbname={self.url}"]
        if without_tracking:
            arguments.append("--exclude-table=schema_info")
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


class Directory:
    """A directory of migration files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def write(self, files: Mapping[str, str]) -> Path:
        """Write files; a name without an ending gets ``.py``."""
        for name, text in files.items():
            ended = name if "." in name else f"{name}.py"
            (self.path / ended).write_text(text, encoding="utf-8")
        return self.path

    def tables(self, *names: str) -> Path:
        """Write ``001_a`` and so on: up creates the table that the name ends with, down drops it."""
        return self.write({name: creates(name.rpartition("_")[2].lower()) for name in names})

    def remove(self, *names: str) -> None:
        for name in names:
            (self.path / f"{name}.py").unlink()


def creates(table: str) -> str:
    return (
        f"def up(op):\n    op.run('CREATE TABLE {table} (a integer)')\n\n\n"
        f"def down(op):\n    op.run('DROP TABLE {table}')\n"
    )


@pytest.fixture
def db(database_url: str) -> Database:
    """A fresh database."""
    return Database(database_url)


@pytest.fixture
def other_db(server_url: str, database_prefix: str) -> Iterator[Database]:
    """A second fresh database."""
    with fresh_database(server_url, f"{database_prefix}_{uuid.uuid4().hex[:8]}") as url:
        yield Database(url)


@pytest.fixture
def files(tmp_path: Path) -> Directory:
    """An empty directory for migrations."""
    return Directory(tmp_path / "migrations")


@pytest.fixture
def directory_of(tmp_path: Path) -> Callable[[str], Directory]:
    """Make further directories by name."""
    return lambda name: Directory(tmp_path / name)
