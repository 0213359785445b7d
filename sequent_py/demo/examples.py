"""Where the example applications are: inside the installed package, or beside it in a source checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

from sequent_py.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent.parent


def example_directory(name: str) -> Path:
    """Return the project directory of the example ``bank`` or ``git_history``.

    Raises
    ------
    ConfigurationError
        It is neither in the package nor beside it.
    """
    candidates = [_PACKAGE / "_examples" / name, _PACKAGE.parent / "examples" / name]
    for candidate in candidates:
        if (candidate / "pyproject.toml").is_file():
            return candidate
    raise ConfigurationError(
        f"The example {name!r} is missing: neither {candidates[0]} nor {candidates[1]} exists.",
        remedy="Install sequent-py again.",
    )


def copy_example(name: str, target: Path) -> None:
    """Copy an example's project to a directory that does not exist yet."""
    shutil.copytree(example_directory(name), target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
