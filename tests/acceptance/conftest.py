"""The example project of these tests, fresh for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from library_project import VERSION_1, VERSION_2, Library
from stores import Clones


@pytest.fixture(scope="session")
def clones(server_url: str, database_prefix: str) -> Iterator[Clones]:
    """Databases as the commands have left them."""
    clones = Clones(server_url, f"{database_prefix}_library_")
    yield clones
    clones.close()


@pytest.fixture
def project(tmp_path: Path, database_url: str) -> Library:
    """A library of version 1 on an empty database."""
    library = Library(tmp_path, database_url)
    library.write(VERSION_1)
    return library


@pytest.fixture
def library(tmp_path: Path, clones: Clones) -> Iterator[Library]:
    """A library of version 1, installed, with three books in the event store and nothing migrated."""
    with clones.fresh(with_books) as url:
        library = Library(tmp_path, url)
        library.write(VERSION_1)
        yield library


@pytest.fixture
def at_2(tmp_path: Path, clones: Clones) -> Iterator[Library]:
    """Version 2 is live, with a book that version 1 has never seen."""
    with clones.fresh(with_version_2) as url:
        library = Library(tmp_path, url)
        library.write(VERSION_1 | VERSION_2)
        yield library


def with_books(database_url: str) -> None:
    with TemporaryDirectory() as directory:
        library = Library(Path(directory), database_url)
        library.write(VERSION_1)
        library.sequent("init")
        library.append("Emma", "Ulysses", "Walden")


def with_version_2(database_url: str) -> None:
    with_books(database_url)
    with TemporaryDirectory() as directory:
        library = Library(Path(directory), database_url)
        library.write(VERSION_1)
        library.migrate()
        library.write(VERSION_2)
        library.migrate()
        library.append("Dracula")
