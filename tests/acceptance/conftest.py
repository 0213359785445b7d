"""The example project of these tests, fresh for each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from library_project import VERSION_1, Library


@pytest.fixture
def project(tmp_path: Path, database_url: str) -> Library:
    """A library of version 1 on an empty database."""
    library = Library(tmp_path, database_url)
    library.write(VERSION_1)
    return library


@pytest.fixture
def library(project: Library) -> Library:
    """A library of version 1, installed, with three books in the event store and nothing migrated."""
    project.sequent("init")
    project.append("Emma", "Ulysses", "Walden")
    return project
