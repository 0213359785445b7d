"""The second process, as the demonstration sees it.

It lives no longer than we do: its standard input is a pipe whose other end is ours, and it stops when that closes, by us or by our death.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict

from sequent_py.demo.reports import WriterReport
from sequent_py.demo.writer_process import WriterTask
from sequent_py.errors import StoreError

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0


class WriterFailed(StoreError):
    """The writing process gave up or died."""


class Writer:
    """A running writer. A context manager: leaving it ends the process."""

    def __init__(self, task: WriterTask) -> None:
        self._task = task
        self._changed = threading.Condition()
        self._appends = 0
        self._ended = False
        self._report: WriterReport | None = None
        self._error: str | None = None

    def __enter__(self) -> Writer:
        """Start the process and wait until it has appended something.

        Raises
        ------
        WriterFailed
            It could not.
        """
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sequent_py.demo.writer_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Ctrl-C is for us: the process ends when we do, after its append.
            start_new_session=True,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(asdict(self._task)) + "\n")
                self._process.stdin.flush()
            self.wait_for(1, START_TIMEOUT_SECONDS)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def appends(self) -> int:
        """How many appends have succeeded, as last heard."""
        with self._changed:
            return self._appends

    def wait_for(self, appends: int, timeout_seconds: float) -> None:
        """Return when so many appends have succeeded.

        Raises
        ------
        WriterFailed
            It ended, or did not get there in time.
        """
        with self._changed:
            arrived = self._changed.wait_for(lambda: self._appends >= appends or self._ended, timeout_seconds)
            if self._appends >= appends:
                return
        if not arrived:
            raise WriterFailed(
                f"The writing process made {self._appends} of {appends} appends in {timeout_seconds:.0f} s."
            )
        raise self._failure()

    def stop(self) -> WriterReport:
        """Let it finish the append at hand, and return what it measured.

        Raises
        ------
        WriterFailed
            It had given up or died before.
        """
        self._end()
        if self._report is None:
            raise self._failure()
        return self._report

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            with self._changed:
                self._appends = message.get("appends", self._appends)
                self._error = message.get("error", self._error)
                if "report" in message:
                    self._report = WriterReport(**message["report"])
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _failure(self) -> WriterFailed:
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        why = self._error or (said[-1] if said else f"exit code {self._process.poll()}")
        return WriterFailed(f"The writing process ended: {why}")
