"""Worker pools: where the processes that replay groups run.

:class:`LocalPool` starts them on this machine, :class:`sequent_py.contrib.dask.DaskPool` on a Dask cluster. A pool only starts, watches and stops processes; which groups are done is the ledger's
business. Workers run in sessions of their own, so that Ctrl-C reaches the coordinator alone and it can stop them in order.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol, Self

from sequent_py.replay import worker as worker_process
from sequent_py.replay.forking import ForkedProcess, may_fork
from sequent_py.replay.task import EarlyStart, ReplayTask

STOP_TIMEOUT_SECONDS = 10.0
_STDERR_TAIL_BYTES = 2_000


@dataclass(frozen=True)
class WorkerExit:
    """How a worker ended; ``error`` is None when it found no group left."""

    pid: int
    status: int
    has_finished: bool
    """Whether it said that no group was left, as its last word."""
    error: dict[str, str] | None
    stderr: str
    where: str = ""
    """On which host, where that is another than this."""

    @property
    def name(self) -> str:
        """How it is called in messages."""
        return f"{self.pid} on {self.where}" if self.where else str(self.pid)

    @property
    def is_success(self) -> bool:
        """Whether the worker left because no group was left."""
        return self.status == 0 and self.has_finished


@dataclass
class _Worker:
    process: subprocess.Popen[str] | ForkedProcess
    stderr: IO[bytes]
    listener: threading.Thread = field(init=False)
    error: dict[str, str] | None = field(default=None)
    has_finished: bool = False
    news: threading.Event = field(default_factory=threading.Event)
    """Set when it has said something, and when it has left: whose worker it is can wait for that."""

    def listen(self) -> None:
        """Hear what it says, in a thread, from now on."""
        self.listener = threading.Thread(target=_listen(self), daemon=True, name=f"worker {self.process.pid}")
        self.listener.start()

    def tell(self, line: str) -> None:
        """Send it a line. A worker that cannot even start has said why on its stderr."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()


class WorkerPool(Protocol):
    """What the coordinator of a replay needs of a pool: a context manager that leaves no worker behind that could do harm."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    is_local: bool
    """Whether its workers run on this machine, where the coordinator could be one of them."""

    def start(self, count: int) -> None:
        """Start ``count`` more workers."""

    @property
    def running(self) -> int:
        """How many workers have not ended."""

    def collect(self) -> list[WorkerExit]:
        """Return the workers that have ended since the last call."""

    def wait(self, seconds: float) -> None:
        """Wait so long, or until a worker has said something or left, if that is known sooner."""


PoolFactory = Callable[[ReplayTask], WorkerPool]
"""Makes the pool of one pass."""


class LocalPool:
    """Worker processes on this machine. A context manager: leaving it stops every worker that still runs."""

    is_local = True

    def __init__(self, task: ReplayTask, early: EarlyWorkers | None = None) -> None:
        self._task = task
        self._early = early
        self._workers: list[_Worker] = []
        self._news = threading.Event()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, count: int) -> None:
        """Start ``count`` more workers."""
        for _ in range(count):
            worker = (self._early.take() if self._early is not None else None) or _start()
            worker.news = self._news
            self._workers.append(worker)
            worker.tell(self._task.to_json())

    @property
    def running(self) -> int:
        """How many workers have not ended."""
        return sum(worker.process.poll() is None for worker in self._workers)

    def collect(self) -> list[WorkerExit]:
        """Return the workers that have ended since the last call."""
        ended = [worker for worker in self._workers if worker.process.poll() is not None]
        self._workers = [worker for worker in self._workers if worker not in ended]
        return [_exit_of(worker) for worker in ended]

    def wait(self, seconds: float) -> None:
        """Wait so long, or until a worker has said something or left."""
        self._news.wait(seconds)
        self._news.clear()

    def stop(self) -> None:
        """End every worker: close its life line, then, if it does not leave, kill it. Its open group rolls back."""
        _stop(self._workers)
        self._workers = []


class EarlyWorkers:
    """Workers that were started before their task is known: as copies of this process, where it can be copied, else to import the application while the coordinator plans.

    ``sockets`` are those of this process that the copies are not to have; with others open it is not copied. A context manager; leaving it stops those that nobody took.
    As a :data:`PoolFactory` it makes local pools, which take them before they start others.
    """

    def __init__(self, start: EarlyStart, count: int, sockets: Collection[int] | None = None) -> None:
        self._are_copies = sockets is not None and may_fork(sockets)
        self._workers = _fork(count, sockets or ()) if self._are_copies else [_start() for _ in range(count)]
        for worker in self._workers:
            worker.tell(start.to_json())

    def __call__(self, task: ReplayTask) -> LocalPool:
        return LocalPool(task, self)

    def __enter__(self) -> EarlyWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        _stop(self._workers)
        self._workers = []

    @property
    def copies(self) -> int:
        """How many copies of this process are waiting."""
        return len(self._workers) if self._are_copies else 0

    def take(self) -> _Worker | None:
        """Return one that still runs, for good; None when there is none."""
        while self._workers:
            worker = self._workers.pop()
            if worker.process.poll() is None:
                return worker
            # Killed meanwhile; nothing was lost with it.
            _exit_of(worker)
        return None


def waiting_copies(pool: PoolFactory) -> int:
    """Return how many copies of this process a pool has waiting, which begin at once."""
    return pool.copies if isinstance(pool, EarlyWorkers) else 0


def _start() -> _Worker:
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
    process = subprocess.Popen(
        [sys.executable, "-m", "sequent_py.replay.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    worker = _Worker(process, stderr)
    worker.listen()
    return worker


def _fork(count: int, sockets: Collection[int]) -> list[_Worker]:
    """Start copies of this process, which has no other threads; nor has it while it is copied again."""
    workers: list[_Worker] = []
    ours = set(sockets)
    for _ in range(count):
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        process = ForkedProcess(worker_process.main, stderr, ours)
        ours |= {*process.open_files, stderr.fileno()}
        workers.append(_Worker(process, stderr))
    for worker in workers:
        worker.listen()
    return workers


def _stop(workers: Sequence[_Worker]) -> None:
    """Close their life lines, then kill whoever does not leave."""
    for worker in workers:
        with contextlib.suppress(OSError):
            if worker.process.stdin is not None:
                worker.process.stdin.close()
    for worker in workers:
        try:
            worker.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        _exit_of(worker)


def _listen(worker: _Worker) -> Callable[[], None]:
    """Read the worker's output so that its pipe never fills, and keep its error."""

    def listen() -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                message = json.loads(line)
                if isinstance(message, dict) and "error" in message:
                    worker.error = message["error"]
                if isinstance(message, dict) and "finished" in message:
                    worker.has_finished = True
            worker.news.set()
        worker.news.set()

    return listen


def _exit_of(worker: _Worker) -> WorkerExit:
    worker.listener.join(STOP_TIMEOUT_SECONDS)
    worker.stderr.seek(0, 2)
    worker.stderr.seek(max(worker.stderr.tell() - _STDERR_TAIL_BYTES, 0))
    stderr = worker.stderr.read().decode(errors="replace").strip()
    worker.stderr.close()
    for stream in (worker.process.stdin, worker.process.stdout):
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
    status = worker.process.returncode
    assert status is not None  # it has ended
    return WorkerExit(worker.process.pid, status, worker.has_finished, worker.error, stderr)
