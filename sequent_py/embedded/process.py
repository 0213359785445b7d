"""The process of the embedded server: recognised, started and stopped.

Callers hold the cluster's ``start.lock``.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psycopg

from sequent_py.embedded.cluster import SOCKET_FILE, START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS, Cluster
from sequent_py.embedded.waiting import last_lines, wait_until
from sequent_py.embedded.wheel import environment
from sequent_py.errors import DatabaseUnavailable

LOG_LIMIT_BYTES = 10_000_000
"""A longer log is begun anew at the next start."""


def ensure_running(cluster: Cluster) -> None:
    """Return when our server answers."""
    # Whatever is left of an earlier server (one that is still starting, or back ends whose postmaster was killed) either answers or
    # goes away by itself. Two servers on one directory would destroy it, so this waits.
    if not wait_until(lambda: _answers(cluster) or not _processes(cluster), START_TIMEOUT_SECONDS):
        pids = ", ".join(map(str, sorted(_processes(cluster))))
        raise DatabaseUnavailable(
            f"A PostgreSQL that does not answer holds {cluster.data} (process {pids}); its log: {cluster.log}.",
            remedy="End that process, then try again.",
        )
    if not _answers(cluster):
        _start(cluster)


def _start(cluster: Cluster) -> None:
    cluster.make_private(cluster.socket_directory)
    # Nobody uses the directory (just seen), so a lock file that is left names a dead process or a stranger.
    for left in (cluster.data / "postmaster.pid", cluster.socket_directory / f"{SOCKET_FILE}.lock"):
        left.unlink(missing_ok=True)
    pid = _spawn(
        cluster, cluster.account.command(_arguments(cluster), reach=(cluster.data, cluster.binaries))
    )

    def has_ended_or_answers() -> bool:
        return _reap(pid) or _answers(cluster)

    wait_until(has_ended_or_answers, START_TIMEOUT_SECONDS)
    if not _answers(cluster):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL in {cluster.directory} does not start: {last_lines(cluster.log.read_text(errors='replace'))}",
            remedy=f"Read {cluster.log}.",
        )


def _arguments(cluster: Cluster) -> list[str]:
    quoted = str(cluster.socket_directory).replace('"', '""')
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{quoted}"',
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
        **cluster.settings,
        "cluster_name": cluster.name,
    }
    parameters = [part for item in settings.items() for part in ("-c", "=".join(item))]
    return [str(cluster.binaries / "postgres"), "-D", str(cluster.data), "-p", "5432", *parameters]


def _spawn(cluster: Cluster, command: list[str]) -> int:
    """Start the server in a session of its own, so that Ctrl-C in our terminal does not reach it."""
    is_long = cluster.log.exists() and cluster.log.stat().st_size > LOG_LIMIT_BYTES
    log = os.open(cluster.log, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if is_long else os.O_APPEND), 0o600)
    try:
        cluster.account.give(log)
        # PostgreSQL wants a current directory that it can enter.
        wrapped = ["/bin/sh", "-c", 'cd / && exec "$0" "$@"', *command]
        return os.posix_spawn(
            wrapped[0],
            wrapped,
            environment(),
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
        )
    finally:
        os.close(log)


def stop(cluster: Cluster) -> None:
    """Ask our own postmaster for a fast shutdown and wait for it."""
    pid = _recorded_pid(cluster.data)
    if pid is None or pid not in _processes(cluster, by_name_only=True):
        return
    os.kill(pid, signal.SIGINT)

    def is_gone() -> bool:
        _reap(pid)
        return pid not in _processes(cluster, by_name_only=True)

    if wait_until(is_gone, STOP_TIMEOUT_SECONDS) and cluster.socket_directory.parent != cluster.directory:
        with suppress(OSError):
            cluster.socket_directory.rmdir()


def _answers(cluster: Cluster) -> bool:
    """Whether a server on our socket serves our data directory."""
    try:
        with psycopg.connect(cluster.url, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.Error:
        return False
    return row is not None and Path(row[0]) == cluster.data


def _processes(cluster: Cluster, *, by_name_only: bool = False) -> set[int]:
    """Return the postgres processes on our data: by the name they carry, and by their working directory where it can be read.

    The latter finds the server of a directory that was moved while it ran; that one is waited for, never signalled.
    """
    import psutil  # comes with the wheel

    found = set()
    for process in psutil.process_iter():
        try:
            if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
                continue
            is_named = any(cluster.name in part for part in process.cmdline())
            if is_named or (not by_name_only and process.cwd() == str(cluster.data)):
                found.add(process.pid)
        except psutil.Error:
            # It ended while we looked, or its directory is none of our business.
            continue
    return found


def _recorded_pid(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


def _reap(pid: int) -> bool:
    """Whether ``pid`` was our child and has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
