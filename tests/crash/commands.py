"""Commands as processes of their own: ``sequent …``, forked from a process that has imported it already, which saves a second per run."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import parcels

import sequent_py

HOOK = Path(__file__).parent / "hook"
PATHS = (str(Path(sequent_py.__path__[0]).parent), str(Path(parcels.__file__).parent), str(HOOK))
TIMEOUT_SECONDS = 90.0

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["sequent_py.cli", "sequent_py.verification", "parcels"])


@dataclass
class Command:
    """A run of ``sequent`` in a directory of its own, which receives its output."""

    arguments: tuple[str, ...]
    directory: Path
    database_url: str
    version: int
    crash_point: Mapping[str, Any] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    may_copy: bool = False
    """It has nothing open that keeps it from copying itself to have workers."""

    def start(self) -> Command:
        """Start it and return at once."""
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {
            "SEQUENT_DATABASE_URL": self.database_url,
            "SEQUENT_MIGRATIONS_CLASS": parcels.reference(self.version),
            "SEQUENT_SQL_DIRECTORY": str(parcels.SQL_DIRECTORY),
            "PYTHONPATH": os.pathsep.join(PATHS),
            "CRASH_POINT": json.dumps(self.crash_point) if self.crash_point else "",
            **self.settings,
        }
        self._process = _processes.Process(
            target=_run, args=(self.arguments, str(self.directory), environment, self.may_copy)
        )
        self._process.start()
        return self

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return not self._process.is_alive()

    def wait(self) -> int:
        """Wait for its end and return the exit code; negative for a signal."""
        self._process.join(TIMEOUT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise AssertionError(f"{self} did not end within {TIMEOUT_SECONDS:g} s:\n{self.output}")
        code = self._process.exitcode
        assert code is not None
        return code

    def run(self) -> int:
        """Start it and wait for its end."""
        return self.start().wait()

    def report(self) -> dict[str, Any]:
        """Return the document that it printed."""
        document: dict[str, Any] = json.loads((self.directory / "stdout").read_text())
        return document

    @property
    def output(self) -> str:
        """What it said."""
        return "".join(
            (self.directory / name).read_text()
            for name in ("stdout", "stderr")
            if (self.directory / name).exists()
        )

    def __str__(self) -> str:
        return f"sequent {' '.join(self.arguments)} (code of version {self.version})"


def _run(arguments: tuple[str, ...], directory: str, environment: Mapping[str, str], may_copy: bool) -> None:
    os.chdir(directory)
    if may_copy:
        # The pipes by which it was forked; none of them is used any more.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - to the end
    os.environ.update(environment)
    sys.path[:0] = [path for path in PATHS if path not in sys.path]
    sys.argv = ["sequent", *arguments]
    if environment["CRASH_POINT"]:
        import crash_points

        crash_points.install()
    from sequent_py.cli import main

    main()
