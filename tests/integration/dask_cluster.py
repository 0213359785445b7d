"""A Dask scheduler and workers as processes of their own, on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from waiting import wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class Cluster:
    """What is running; every process is ended at the end, by its id."""

    directory: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(json.loads((self.directory / "scheduler.json").read_text())["address"])

    @property
    def scheduler(self) -> subprocess.Popen[bytes]:
        return self.processes[0]

    @property
    def workers(self) -> list[subprocess.Popen[bytes]]:
        return self.processes[1:]

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with (self.directory / f"{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
                    cwd=self.directory,
                    env={
                        **os.environ,
                        "PYTHONPATH": path,
                        "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
                        **(environment or {}),
                    },
                    stdout=log,
                    stderr=log,
                )
            )

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


@contextmanager
def dask_cluster(
    directory: Path, *, workers: int, environment: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Run a scheduler with so many workers of one thread each; ready when both can be used."""
    cluster = Cluster(directory)
    file = directory / "scheduler.json"
    try:
        cluster.run(
            "dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        )
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        for _ in range(workers):
            cluster.run(
                "dask_worker", "--scheduler-file", str(file), "--no-nanny", "--nthreads", "1",
                "--no-dashboard", "--host", "127.0.0.1", environment=environment,
            )  # fmt: skip
        yield cluster
    finally:
        for process in cluster.processes:
            if process.poll() is None:
                cluster.kill(process)
