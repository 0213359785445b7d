"""Whether a worker has the code of the run that it joins: fingerprints, written down by the coordinator and compared by whoever comes from elsewhere.

Compared are the application's parts of each table (:mod:`sequent_py.view_schema.fingerprints`, table files aside: only the coordinator runs those), and this library
as a whole, its C module aside: whether a host has that makes no difference to rows. Workers that the coordinator starts on its own host read the same files, and are not asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sequent_py.errors import ConfigurationError
from sequent_py.view_schema.fingerprints import PYTHON, TableCode, changed_parts, described, table_code
from sequent_py.view_schema.migrations import MigrationsDefinition

Document = Mapping[str, Any]

_ADDED_BY_A_WHEEL = ("_examples", "_migrations")
"""In a checkout they are elsewhere. The store's version is checked by itself."""


def code_document(definition: MigrationsDefinition, tables: Collection[str]) -> Document:
    """Return JSON values that stand for the code with which these tables are folded."""
    return {
        "library": _library(),
        "python": PYTHON,
        "tables": {table: dict(table_code(definition, table, {}).parts) for table in tables},
    }


def require_same_code(written: Document | None, definition: MigrationsDefinition) -> None:
    """Refuse to fold with other code than the run's.

    Raises
    ------
    ConfigurationError
        Naming what differs.
    """
    if written is None:
        return
    if written["library"] != _library():
        raise _different("sequent_py itself is another version here")
    changes: dict[str, list[str]] = {}
    for table, parts in written["tables"].items():
        ours = TableCode(dict(table_code(definition, table, {}).parts))
        if changed := changed_parts(TableCode(parts), ours):
            changes[table] = changed
    if changes:
        python = f"; Python {PYTHON} here, {written['python']} there" if written["python"] != PYTHON else ""
        raise _different(f"{described(changes)}{python}")


def _different(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"This worker's code is not the one that the replay runs with: {what}.",
        remedy="Deploy the same code to every host that replays, and begin again; finished groups are kept.",
    )


@cache
def _library() -> str:
    """Digest this package's sources; empty where there are none."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] in _ADDED_BY_A_WHEEL:
            continue
        digest.update(relative.as_posix().encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]
