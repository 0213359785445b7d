"""What a piece of work costs: time, CPU of Python and of PostgreSQL, memory, WAL, bytes read.

CPU and memory come from /proc, and are missing elsewhere or when the server runs on another machine. CPU of PostgreSQL is that of the whole server: the
postmaster's, its children's, and what its ended children had used; so nothing else may use the server meanwhile. CPU of Python is that of this process and of
the worker processes it has waited for.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psycopg

SAMPLE_SECONDS = 0.1
"""Between two looks at the memory of all processes. A look costs about a millisecond; the kernel keeps the peak of a process while it lives."""

_TICKS = os.sysconf("SC_CLK_TCK")
_BYTES_READ = {
    True: "SELECT coalesce(sum(read_bytes), 0)::bigint FROM pg_stat_io",
    False: "SELECT coalesce(sum(reads * op_bytes), 0)::bigint FROM pg_stat_io",
}
"""By whether the server is PostgreSQL 18 or later. Earlier than 16 there is no such view."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of one contender cost. None: not to be had here."""

    seconds: float
    python_cpu_seconds: float
    postgres_cpu_seconds: float | None
    peak_rss_mib: float | None
    """Of the Python process that was largest: a worker, or this one where the work is done here."""
    peak_backend_mib: float | None
    """Private memory of the backend that was largest; shared buffers are not counted."""
    wal_mib: float
    read_mib: float | None
    """Read into shared buffers, be it from the disk or from the operating system's cache."""
    rows_seconds: float | None = None
    """Until all rows were written; keys, indexes and statistics are the rest. Of ours it is the replay, from the first group's claim to the last one's commit."""


def median_cost(costs: Iterable[Cost]) -> Cost:
    """Return the median of each figure by itself."""
    found = list(costs)
    medians: dict[str, Any] = {}
    for field in fields(Cost):
        values = [value for item in found if (value := getattr(item, field.name)) is not None]
        medians[field.name] = statistics.median(values) if values else None
    return Cost(**medians)


def as_json(cost: Cost) -> dict[str, float | None]:
    """Return the figures by name."""
    return asdict(cost)


class Meter:
    """Measures work on one server."""

    def __init__(self, url: str) -> None:
        self._url = url
        with psycopg.connect(url, autocommit=True) as connection:
            self._postmaster = _postmaster_of(connection)
            self._version = connection.info.server_version

    @contextmanager
    def measuring(self) -> Iterator[Result]:
        """Measure the block; the result is there when it has ended without an exception."""
        result = Result()
        before = self._server_figures()
        _forget_own_peak()
        with _Peaks(self._postmaster) as peaks:
            cpu, started = os.times(), time.perf_counter()
            yield result
            seconds = time.perf_counter() - started
            after_cpu = os.times()
        after = self._server_figures()
        changes = {name: _difference(after[name], before[name]) for name in after}
        result.cost = Cost(
            seconds=seconds,
            python_cpu_seconds=sum(after_cpu[:4]) - sum(cpu[:4]) - result.cpu_seconds_before,
            postgres_cpu_seconds=changes["cpu"],
            peak_rss_mib=peaks.python_mib,
            peak_backend_mib=peaks.backend_mib,
            wal_mib=(changes["wal"] or 0) / 2**20,
            read_mib=None if changes["read"] is None else changes["read"] / 2**20,
            rows_seconds=result.rows_seconds,
        )

    def _server_figures(self) -> Mapping[str, float | None]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            read = None
            if self._version >= 160000:
                # Sessions report when they end, or with their first statement after a second.
                read = _value(connection, _BYTES_READ[self._version >= 180000])
            wal = _value(connection, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
        cpu = _tree_cpu_seconds(self._postmaster) if self._postmaster else None
        return {"cpu": cpu, "wal": float(wal), "read": None if read is None else float(read)}


class Result:
    """Filled when the measured block ends."""

    cost: Cost
    rows_seconds: float | None = None
    cpu_seconds_before: float = 0.0
    """What processes had used before that ended in the block."""


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


# /proc


def _postmaster_of(connection: psycopg.Connection[Any]) -> int | None:
    """Return the postmaster's process id, if it runs on this machine."""
    backend = connection.info.backend_pid
    with suppress(OSError):
        if Path(f"/proc/{backend}/comm").read_text().strip() == "postgres":
            return int(_stat(backend)[1])
    return None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat behind the command, which may hold anything: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children() -> dict[int, list[int]]:
    """Return all processes of the machine by their parents."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                found.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    return found


def _tree_cpu_seconds(postmaster: int) -> float:
    # Children first: one that ends between the two looks is then counted twice for a moment's work, and not lost.
    ticks = 0
    for child in _children().get(postmaster, []):
        with suppress(OSError):
            ticks += sum(int(value) for value in _stat(child)[11:13])
    return (ticks + sum(int(value) for value in _stat(postmaster)[11:15])) / _TICKS


def _forget_own_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class _Peaks:
    """Watches memory: of our descendants and of this process, and of the server's backends."""

    def __init__(self, postmaster: int | None) -> None:
        self._postmaster = postmaster
        self._own: dict[int, float] = {}
        self._backends: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        self._stop.set()
        self._thread.join()

    @property
    def python_mib(self) -> float | None:
        """The largest worker's peak; this process's where there was none."""
        workers = {pid: peak for pid, peak in self._own.items() if pid != os.getpid()}
        return max((workers or self._own).values(), default=None)

    @property
    def backend_mib(self) -> float | None:
        return max(self._backends.values(), default=None)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        children = _children()
        for pid in _tree(os.getpid(), children, without=self._postmaster):
            self._keep(self._own, pid, "VmHWM")
        for pid in children.get(self._postmaster or -1, []):
            self._keep(self._backends, pid, "RssAnon")

    @staticmethod
    def _keep(peaks: dict[int, float], pid: int, name: str) -> None:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(name):
                    peaks[pid] = max(peaks.get(pid, 0.0), int(line.split()[1]) / 1024)


def _tree(pid: int, children: Mapping[int, list[int]], *, without: int | None) -> Iterator[int]:
    if pid != without:
        yield pid
        for child in children.get(pid, []):
            yield from _tree(child, children, without=without)
