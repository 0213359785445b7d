"""A process of its own that does one thing when it is told to, and is timed from then on: imports and connections of the benchmark's are not its own, nor the reverse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


class WaitingProcess:
    """Runs ``command``, which reads ``task`` as a line of JSON, makes ready, prints the CPU seconds it has used and waits for another line; then it does its work, and ends."""

    def __init__(
        self, command: Sequence[str], task: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._tell(json.dumps(task))
        assert self._process.stdout is not None
        self.cpu_seconds_before = float(self._process.stdout.readline())
        """What it has used until now; whoever waits for its end is charged with that, too."""

    def run(self) -> None:
        """Let it do its work, and wait for its end.

        Raises
        ------
        RuntimeError
            It failed; it has said why.
        """
        self._tell("go")
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        if status != 0:
            raise RuntimeError(f"{self._process.args!r} ended with {status}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
