"""A process of its own for one ``online``, as an operator's is: one thread, no connections, and the application imported.

The benchmark's process has threads and other contenders' connections, which the command would have to consider, see :mod:`sequent_py.replay.forking`.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sequent_py import Config, Sequent


class OnlineProcess:
    """Has imported the application when it is made, and waits; runs the command once."""

    def __init__(self, url: str, migrations: str, sql_directory: Path, workers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.contenders.online_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        task = {
            # The application is beside its SQL files, as with a pyproject.toml.
            "path": [str(sql_directory.parent), *sys.path],
            "url": url,
            "migrations": migrations,
            "sql_directory": str(sql_directory),
            "workers": workers,
        }
        self._tell(json.dumps(task))
        assert self._process.stdout is not None
        self.cpu_seconds_before = float(self._process.stdout.readline())
        """What it has used until now; whoever waits for its end is charged with that, too."""

    def run(self) -> None:
        """Let it run the command, and wait for its end."""
        self._tell("go")
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        if status != 0:
            raise RuntimeError(f"online in a process of its own ended with {status}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


def main() -> None:
    """Be that process."""
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path[:] = task["path"]
    importlib.import_module(task["migrations"].partition(":")[0])
    config = Config(
        database_url=task["url"],
        migrations_class=task["migrations"],
        sql_directory=Path(task["sql_directory"]),
    )
    with Sequent(config) as app:
        sys.stdout.write(f"{sum(os.times()[:4])}\n")
        sys.stdout.flush()
        if sys.stdin.readline():
            app.view_schema.online(workers=task["workers"])


if __name__ == "__main__":
    main()
