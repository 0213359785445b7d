"""Crash points: count what a process sends to the server, and crash at a chosen statement. Loaded into processes under test only.

Installed by ``sitecustomize`` beside this file, in every Python process whose environment has ``CRASH_POINT``: a JSON object with

* ``role``: ``coordinator`` (the command) or ``worker`` (``python -m sequent_py.replay.worker``, or a copy of the command); in other processes nothing
  happens;
* ``step``, ``index``: at which statement, counted from 0 within a named progress step;
* ``action``: ``record`` (crash nowhere), ``kill`` this process before the statement is sent, ``kill_inside`` while it runs,
  ``terminate`` the statement's backend before it is sent, ``kill_worker`` a child that replays (then, or as soon as there is one), or ``pause`` until
  the test lets go;
* ``inline_events``: passes up to this size run inside the command; 0 makes it start workers for every pass;
* ``directory``: where ``trace`` (what was sent), ``reached`` and ``go`` are.

A crash happens once, however many processes come to the point. Every way to the server goes through ``psycopg.Connection.wait``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_SECONDS = 60.0


class CrashPoint:
    """The plan of one process, and where it has got to."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.role: str = plan["role"]
        self.step: str = plan.get("step", "")
        self.index: int = plan.get("index", -1)
        self.action: str = plan["action"]
        self.directory = Path(plan["directory"])
        self.random = random.Random(plan.get("seed", 0))
        self._at_step = self._newest_step = "starting"
        self._sent = {"starting": 0}
        self._lock = threading.RLock()
        self._is_due = self._is_acting = False
        self._process = os.getpid()

    def enter(self, step: str) -> None:
        """A named step begins; one that comes again is part of the newest that came for the first time."""
        with self._lock:
            if step in self._sent:
                step = f"{self._newest_step} > {step}"
            else:
                self._newest_step = step
            self._at_step = step
            self._sent.setdefault(step, 0)

    def statement(self, connection: Any, text: str) -> None:
        """Something is about to be sent."""
        with self._lock:
            if self._is_acting or os.getpid() != self._process:
                return
            step, index = self._at_step, self._sent[self._at_step]
            self._sent[step] += 1
            if self.action == "record":
                with (self.directory / "trace").open("a", encoding="utf-8") as file:
                    file.write(json.dumps([step, index, text]) + "\n")
                return
            self._is_due = self._is_due or (step, index) == (self.step, self.index)
            if not self._is_due or not self._can_act() or not self._is_first(f"{step} {index}: {text}"):
                return
            self._is_due = False
            self._is_acting = True
            try:
                getattr(self, self.action)(connection)
            finally:
                self._is_acting = False

    def _can_act(self) -> bool:
        """Whether now is the moment: a worker can be killed only while there is one."""
        return self.action != "kill_worker" or bool(_workers())

    def _is_first(self, text: str) -> bool:
        try:
            handle = os.open(self.directory / "reached", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.write(handle, text.encode())
        os.close(handle)
        return True

    # -- what can be done

    def kill(self, _connection: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_inside(self, _connection: Any) -> None:
        """Let the statement be sent, and die while the server is at it, or just after."""
        delay = self.random.uniform(0.0, 0.002)

        def die() -> None:
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=die, daemon=True).start()

    def terminate(self, connection: Any) -> None:
        """End the backend that would run the statement, as an administrator does."""
        from psycopg import pq

        backend = connection.info.backend_pid
        own = pq.PGconn.connect(connection.info.dsn.encode())
        result = own.exec_(f"SELECT pg_terminate_backend({backend}, 10000)".encode())
        assert result.get_value(0, 0) == b"t", (backend, own.error_message)
        own.finish()

    def kill_worker(self, _connection: Any) -> None:
        workers = _workers()
        (self.directory / "workers").write_text(json.dumps(sorted(workers.values())))
        os.kill(self.random.choice(list(workers)), signal.SIGKILL)

    def pause(self, _connection: Any) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not (self.directory / "go").exists():
            if time.monotonic() > deadline:
                os._exit(99)
            time.sleep(0.002)


def _workers() -> dict[int, str]:
    """Return the children that replay, and what each is: a ``copy`` of this process, or ``new``."""
    own, found = _command_line(os.getpid()), {}
    for pid in _children():
        command_line = _command_line(pid)
        if command_line == own:
            found[pid] = "copy"
        elif b"sequent_py.replay.worker" in command_line:
            found[pid] = "new"
    return found


def _children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == os.getpid():
                found.append(int(entry.name))
    return sorted(found)


def _command_line(pid: int) -> bytes:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _describe(generator: Any) -> str:
    """Say what a psycopg operation is about to send."""
    frame = getattr(generator, "gi_frame", None)
    name = getattr(generator, "__name__", "copy")
    query = frame.f_locals.get("query", frame.f_locals.get("statement")) if frame is not None else None
    if query is None:
        return str(name).strip("_").removesuffix("_gen")
    if hasattr(query, "as_string"):
        query = query.as_string(None)
    elif isinstance(query, bytes):
        query = query.decode(errors="replace")
    return " ".join(str(query).split())[:90]


def install() -> None:
    """Read ``CRASH_POINT`` and begin to count; without it, or in another role, do nothing."""
    text = os.environ.get("CRASH_POINT")
    if not text:
        return
    plan = json.loads(text)
    if "inline_events" in plan and _role() == "coordinator":
        from sequent_py.replay import replayer

        replayer.INLINE_EVENTS = plan["inline_events"]
    if plan["role"] == _role():
        _begin(plan)
    elif plan["role"] == "worker":
        os.register_at_fork(after_in_child=lambda: _begin(plan))


def _begin(plan: dict[str, Any]) -> None:
    point = CrashPoint(plan)
    _count_statements(point)
    if plan["role"] == "worker":
        point.enter("worker")
    else:
        _follow_steps(point)


def _role() -> str:
    return "worker" if "sequent_py.replay.worker" in " ".join(sys.orig_argv) else "coordinator"


def _count_statements(point: CrashPoint) -> None:
    import psycopg

    original = psycopg.Connection.wait

    def wait(self: Any, generator: Any, *arguments: Any, **options: Any) -> Any:
        point.statement(self, _describe(generator))
        return original(self, generator, *arguments, **options)

    psycopg.Connection.wait = wait  # type: ignore[method-assign]


def _follow_steps(point: CrashPoint) -> None:
    from sequent_py.cli.render import Output

    original = Output.progress

    class Observed:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def step(self, name: str) -> None:
            point.enter(name)
            self._inner.step(name)

    @contextmanager
    def progress(self: Any) -> Any:
        with original(self) as inner:
            yield Observed(inner)

    Output.progress = progress  # type: ignore[method-assign]
