"""A server of its own for each process, for it will be crashed; and the table of what was found, at the end of the run."""

from __future__ import annotations

import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenarios import Matrix

from sequent_py.testing.server import SERVER_OPTIONS, roomy_memory, shared_server

OPTIONS = {**SERVER_OPTIONS, "synchronous_commit": "on", "max_connections": "60", "shared_buffers": "64MB"}
"""Nothing that was committed may be lost with the server: only then can appends be held to their acknowledgement."""
_BINARIES = os.environ.get("POSTGRES_BINARIES") or None


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """The scenarios on a server that is nobody else's."""
    binaries = Path(_BINARIES) if _BINARIES else None
    run = uuid.uuid4().hex[:12]
    with shared_server(run, binaries=binaries, options=OPTIONS, memory=roomy_memory()) as url:
        yield Matrix(url, tmp_path_factory.mktemp("crash"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print step × kill × outcome; what the processes found arrives with their reports."""
    found: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for kind in ("passed", "failed"):
        for report in terminalreporter.getreports(kind):
            values = dict(report.user_properties)
            if report.when == "call" and "kill" in values:
                outcome = values.get("outcome", "") if kind == "passed" else "FAILED"
                found[values["scenario"], values["step"], values["kill"]][outcome] += 1
    if not found:
        return
    write = terminalreporter.write_line
    write("")
    write(f"crash points: {sum(counts.total() for counts in found.values())}")
    for (scenario, step, kill), counts in found.items():
        outcomes = ", ".join(f"{count} × {outcome}" for outcome, count in sorted(counts.items()))
        write(f"  {scenario:30} {step:28} {kill:12} {outcomes}")
