"""Making a migration file: the next version, a name, and a body to fill in."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from sequent_py.schema_migrations.errors import MigrationFilesError
from sequent_py.schema_migrations.files import MigrationFile, list_files

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
SMALLEST_WIDTH = 3

TEMPLATE = '''"""{title}."""

import sqlalchemy as sa


def change(op):
    """Reversible; write up(op) and down(op) instead where it cannot be."""
'''


def next_version(files: tuple[MigrationFile, ...], now: datetime, *, timestamp: bool = False) -> str:
    """Return the version that follows ``files``, padded like them; a timestamp if they are, or if asked for."""
    if timestamp or any(file.is_timestamp for file in files):
        return f"{now:%Y%m%d%H%M%S}"
    width = max((len(file.name.partition("_")[0]) for file in files), default=SMALLEST_WIDTH)
    latest = max((file.version for file in files), default=0)
    return f"{latest + 1:0{width}}"


def create_migration(directory: Path, name: str, now: datetime, *, timestamp: bool = False) -> Path:
    """Create the next migration file in ``directory``, which is made if it is missing; return its path.

    Raises
    ------
    MigrationFilesError
        The name is not one for a file: small letters, digits and underscores.
    """
    if not NAME.fullmatch(name):
        raise MigrationFilesError(
            f"{name!r} is not a name for a migration: use small letters, digits and underscores.",
            remedy="For example: sequent schema new create_artists",
        )
    directory.mkdir(parents=True, exist_ok=True)
    version = next_version(list_files(directory), now, timestamp=timestamp)
    path = directory / f"{version}_{name}.py"
    title = name.replace("_", " ").capitalize()
    with path.open("x", encoding="utf-8") as file:
        file.write(TEMPLATE.format(title=title))
    return path
