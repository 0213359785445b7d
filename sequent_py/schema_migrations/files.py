"""Migration files: their names, and what a module of them defines.

A file is ``<version>_<name>.py``: the version is the integer before the first underscore, padding does not count, case does
not count. Whatever else lies in the directory is ignored, subdirectories included. Listing reads names only; a file is executed only
when it is about to be run, so that an old and by now broken migration stops nobody.

A migration module has at its top level either ``up(op)`` and ``down(op)``, or ``change(op)``, which is reversed to go down, or
``revert(op)``, which is ``change`` with the directions exchanged. Where a module has several, a later definition replaces what an
earlier one said about its direction. ``transaction = True | False`` decides for this migration alone.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sequent_py.schema_migrations.errors import (
    BrokenMigrationFile,
    DuplicateMigrationVersion,
    InvalidMigrationsDirectory,
)

FILE_NAME = re.compile(r"([0-9]+)_(.+)\.py", re.IGNORECASE | re.DOTALL)
NEAR_MISS = re.compile(r"[0-9].*\.py", re.IGNORECASE | re.DOTALL)
"""Names that somebody probably meant to be run; ignored like all others, but reports name them."""

HIGHEST_INTEGER_VERSION = 20_000_101
"""Versions above it are timestamps. Sequel's own boundary, except that it refuses the boundary itself in both modes."""

Block = Callable[[Any], object]

_modules = itertools.count(1)


class Direction(StrEnum):
    """Which way a migration is run."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One file of the directory. ``name`` is the base name as it is on disk, ``key`` the case-folded form that is compared."""

    version: int
    name: str
    path: Path

    @property
    def key(self) -> str:
        return self.name.lower()

    @property
    def order(self) -> tuple[int, str]:
        return self.version, self.key

    @property
    def is_timestamp(self) -> bool:
        return self.version > HIGHEST_INTEGER_VERSION


@dataclass(frozen=True, slots=True)
class Migration:
    """What a file defines. ``None`` for a direction that it says nothing about.

    ``up_is_reversed``/``down_is_reversed``: the block is to be recorded and run backwards.
    """

    file: MigrationFile
    up: Block | None = None
    down: Block | None = None
    up_is_reversed: bool = False
    down_is_reversed: bool = False
    transaction: bool | None = None

    def block(self, direction: Direction) -> tuple[Block | None, bool]:
        """Return the block of a direction and whether it has to be reversed."""
        if direction is Direction.UP:
            return self.up, self.up_is_reversed
        return self.down, self.down_is_reversed


def parse_names(names: Iterable[str], directory: Path) -> tuple[MigrationFile, ...]:
    """Return the migration files among ``names``, by version and then by the rest of the name.

    Raises
    ------
    DuplicateMigrationVersion
        Two names differ by case alone.
    """
    found: dict[str, MigrationFile] = {}
    for name in sorted(names):
        if match := FILE_NAME.fullmatch(name):
            file = MigrationFile(int(match[1]), name, directory / name)
            if other := found.get(file.key):
                raise DuplicateMigrationVersion(str(file.version), [other.name, name])
            found[file.key] = file
    return tuple(sorted(found.values(), key=lambda file: file.order))


def near_misses(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that look like migrations but are not, so that a report can name them."""
    return tuple(
        sorted(name for name in names if NEAR_MISS.fullmatch(name) and not FILE_NAME.fullmatch(name))
    )


def list_names(directory: Path) -> list[str]:
    """Read the names in the directory.

    Raises
    ------
    InvalidMigrationsDirectory
        It is not a directory.
    """
    if not directory.is_dir():
        raise InvalidMigrationsDirectory(directory)
    return [path.name for path in directory.iterdir()]


def list_files(directory: Path) -> tuple[MigrationFile, ...]:
    """Read the directory's migration files; executes none of them."""
    return parse_names(list_names(directory), directory)


def load(file: MigrationFile) -> Migration:
    """Execute a migration file and return what it defines.

    The module gets a name of its own that is forgotten afterwards, and no byte code is written: two directories may use the same
    names, and a file edited within one second is never run in its old form.

    Raises
    ------
    BrokenMigrationFile
        It cannot be read or executed, or does not define a migration.
    """
    name = f"sequent_py._migration_{next(_modules)}"
    module = types.ModuleType(name)
    module.__file__ = str(file.path)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        source = importlib.util.decode_source(file.path.read_bytes())
        exec(compile(source, str(file.path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        raise BrokenMigrationFile(
            file.path, f"does not load: {type(error).__name__}: {error}".rstrip(".")
        ) from error
    finally:
        del sys.modules[name]
    return define(file, vars(module))


def define(file: MigrationFile, namespace: dict[str, Any]) -> Migration:
    """Make a migration of a module's namespace; definitions count in their order.

    Raises
    ------
    BrokenMigrationFile
        None of the four functions is there, one is not callable with ``op``, or ``transaction`` is not a bool.
    """
    up = down = None
    up_is_reversed = down_is_reversed = False
    blocks = {name: value for name, value in namespace.items() if name in ("up", "down", "change", "revert")}
    for name, block in sorted(blocks.items(), key=lambda item: _line_of(item[1])):
        _check_block(file, name, block)
        if name in ("up", "change", "revert"):
            up, up_is_reversed = block, name == "revert"
        if name in ("down", "change", "revert"):
            down, down_is_reversed = block, name == "change"
    if not blocks:
        raise BrokenMigrationFile(
            file.path, "defines no migration: it has neither up, down, change nor revert"
        )
    transaction = namespace.get("transaction")
    if transaction is not None and not isinstance(transaction, bool):
        raise BrokenMigrationFile(file.path, f"sets transaction to {transaction!r}; it is True or False")
    return Migration(file, up, down, up_is_reversed, down_is_reversed, transaction)


def _line_of(block: object) -> int:
    code = getattr(block, "__code__", None)
    return code.co_firstlineno if code is not None else 0


def _check_block(file: MigrationFile, name: str, block: object) -> None:
    if not callable(block):
        raise BrokenMigrationFile(
            file.path, f"defines {name} as {type(block).__name__}; it is a function of op"
        )
    if inspect.iscoroutinefunction(block) or inspect.isgeneratorfunction(block):
        # Calling it would run nothing and succeed.
        raise BrokenMigrationFile(
            file.path, f"defines {name} as a coroutine or generator; it would never run"
        )
    try:
        inspect.signature(block).bind(None)
    except TypeError as error:
        raise BrokenMigrationFile(
            file.path, f"defines {name} so that it does not take one argument, op"
        ) from error
