"""Forked workers: copies of this process, which has imported the application already.

Importing takes a worker as long as replaying tens of thousands of events. A copy has it done, but it also has a copy of everything else, and what a process shares with its
copy can go wrong silently: a lock that another thread held, a session of the database that both talk to, a file that both read at one offset. So a process is copied only if it
has none of that (:func:`may_fork`); any other starts its workers anew.

What the copy has of ours, it gives up before anything else: the coordinator's session, whose socket would keep the session alive when the coordinator has died, and the life lines
of the other workers, which would not break. It never returns into the code that it was copied in, and ends without running anything that this process has left for its own end.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import IO, NoReturn, TextIO

_POLL_SECONDS = 0.005
_STANDARD_FILES = (0, 1, 2)
_ENDING = [
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__
]
_OPEN_FILES = "/proc/self/fd"
_ABOUT_OPEN_FILES = "/proc/self/fdinfo"
_THREADS = "/proc/self/task"


def may_fork(ours: Collection[int] = ()) -> bool:
    """Whether this process has nothing that a copy of it must not share, but for the open files ``ours``, which a :class:`ForkedProcess` is told to close.

    Only on Linux: elsewhere one cannot see it, and libraries of macOS do not survive it.
    """
    if sys.platform != "linux":
        return False
    try:
        # Threads of C libraries, too, which Python does not know.
        if len(os.listdir(_THREADS)) > 1:
            return False
        for number in _STANDARD_FILES:
            # Where one is closed, a pipe would take its place.
            os.fstat(number)
        open_files = [int(name) for name in os.listdir(_OPEN_FILES)]
    except OSError:
        return False
    return all(number in ours or _may_share(number) for number in open_files if number not in _STANDARD_FILES)


def _may_share(number: int) -> bool:
    """Whether two processes can have this open file without noticing each other."""
    try:
        found = os.fstat(number)
    except OSError as error:
        # The directory's own, while it was listed.
        return error.errno == errno.EBADF
    if stat.S_ISREG(found.st_mode):
        # Of logs nobody reads: two that read one at their common offset would each get a part. A file that is empty so far may be somebody's scratch file, or database.
        return _is_only_written(number) or (found.st_size == 0 and _is_locked(number))
    if stat.S_ISFIFO(found.st_mode):
        # Python makes none that a program it starts would inherit: it is from whoever started this one, a shell or make.
        return os.get_inheritable(number)
    return stat.S_ISCHR(found.st_mode) and os.path.realpath(f"{_OPEN_FILES}/{number}") in _DEVICES


_DEVICES = frozenset({"/dev/null", "/dev/urandom", "/dev/random"})


def _is_locked(number: int) -> bool:
    """Whether somebody holds a lock by this open file, as by lock files."""
    with open(f"{_ABOUT_OPEN_FILES}/{number}") as told:
        return any(line.startswith("lock:") for line in told)


def _is_only_written(number: int) -> bool:
    import fcntl  # not everywhere

    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY


class ForkedProcess:
    """A copy of this process that runs ``main`` with pipes for its standard input and output; has of :class:`subprocess.Popen` what a pool uses.

    ``ours`` are the open files that the copy closes. Call it only where :func:`may_fork` said so; nothing of ``main`` comes back but its exit status.
    """

    def __init__(self, main: Callable[[], int], stderr: IO[bytes], ours: Collection[int]) -> None:
        self.returncode: int | None = None
        child_input, own_output = os.pipe()
        own_input, child_output = os.pipe()
        # What waits in a buffer would be written twice.
        _flush()
        # A Ctrl-C between the copy's first breath and its own handlers would let it end this process's work.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _serve(
                    main,
                    (child_input, child_output, stderr.fileno()),
                    {*ours, own_input, own_output, child_input, child_output},
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(child_input)
        os.close(child_output)
        self.stdin: IO[str] = os.fdopen(own_output, "w")
        self.stdout: IO[str] = os.fdopen(own_input)

    @property
    def open_files(self) -> tuple[int, int]:
        """Our ends of its pipes: no other copy may have them."""
        return self.stdin.fileno(), self.stdout.fileno()

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Whoever ignores SIGCHLD never learns it.
                self.returncode = 0
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises
        ------
        subprocess.TimeoutExpired
            It still runs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            time.sleep(_POLL_SECONDS)
        return status

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _serve(main: Callable[[], int], standard_files: tuple[int, int, int], ours: Collection[int]) -> NoReturn:
    """Be the copy, to its end."""
    status = 1
    try:
        # Whatever this process has of the other's objects stays as it is: none is ever collected, closed, or told that this is the end.
        gc.disable()
        os.setsid()
        for handled in _ENDING:
            signal.signal(handled, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        for number, replaced in zip(standard_files, _STANDARD_FILES, strict=True):
            os.dup2(number, replaced)
        _replace(ours)
        sys.stdin, sys.stdout, sys.stderr = (_standard(number) for number in _STANDARD_FILES)
        status = main()
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _replace(numbers: Collection[int]) -> None:
    """Close open files, but leave their numbers taken: objects that still have them must not meet files of ours."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(nothing, number)


def _standard(number: int) -> TextIO:
    return open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)
