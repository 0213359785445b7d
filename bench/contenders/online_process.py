"""A process of its own for one ``online``, as an operator's is: one thread, no connections, and the application imported.

The benchmark's process has threads and other contenders' connections, which the command would have to consider, see :mod:`sequent_py.replay.forking`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.contenders.waiting_process import WaitingProcess
from sequent_py import Config, Sequent
from sequent_py.collector import freeze_for_good


def waiting_online(url: str, migrations: str, sql_directory: Path, workers: int) -> WaitingProcess:
    """Return one that has imported the application, and waits."""
    task = {
        # The application is beside its SQL files, as with a pyproject.toml.
        "path": [str(sql_directory.parent), *sys.path],
        "url": url,
        "migrations": migrations,
        "sql_directory": str(sql_directory),
        "workers": workers,
    }
    return WaitingProcess([sys.executable, "-m", "bench.contenders.online_process"], task)


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
    # As the command does when it has imported.
    freeze_for_good()
    with Sequent(config) as app:
        sys.stdout.write(f"{sum(os.times()[:4])}\n")
        sys.stdout.flush()
        if sys.stdin.readline():
            app.view_schema.online(workers=task["workers"])


if __name__ == "__main__":
    main()
