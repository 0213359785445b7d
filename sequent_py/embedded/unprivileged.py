"""Which user runs the embedded server, and how a program is run as that user.

PostgreSQL refuses to run as root. Root therefore runs it as the owner of the data, else of the project directory, else as ``postgres`` or
``nobody``. That user must be able to enter every directory above the data and above the programs, and under ``/root`` it is not: then the
process gets the right to pass as a capability of its own. Nobody's permissions on disk are changed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sequent_py.errors import ConfigurationError

USE_ANOTHER_SERVER = "set database_url (SEQUENT_DATABASE_URL) to use another server"


@dataclass(frozen=True)
class Account:
    """An operating system user other than root."""

    uid: int
    gid: int
    name: str

    def give(self, file: Path | int) -> None:
        """Make this user the owner of a file or directory that we, root, have created."""
        if os.geteuid() == 0:
            os.chown(file, self.uid, self.gid)

    def command(self, arguments: list[str], *, reach: Iterable[Path]) -> list[str]:
        """Return the command that runs ``arguments`` as this user, with a way to every path of ``reach``.

        Raises
        ------
        ConfigurationError
            This machine has no means to become that user, or to pass a closed directory.
        """
        if os.geteuid() == self.uid:
            return arguments
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise ConfigurationError(
                "PostgreSQL does not run as root, and there is no setpriv (of util-linux) to become another user.",
                remedy=f"Run as an ordinary user, or {USE_ANOTHER_SERVER}.",
            )
        switches = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        closed = [parent for path in reach for parent in path.parents if not self._can_enter(parent)]
        if closed:
            capability = self._passing_capability(closed[0])
            switches += [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
            # access(2), by which PostgreSQL checks its programs, disregards the capabilities of ordinary users without this.
            switches += ["--securebits=+no_setuid_fixup"]
        return [setpriv, *switches, "--", *arguments]

    def _can_enter(self, directory: Path) -> bool:
        found = directory.stat()
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)

    def _passing_capability(self, closed: Path) -> str:
        """Return the weaker capability that passes closed directories, of those that we hold (containers often lack it)."""
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        held = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
        for bit, name in ((2, "dac_read_search"), (1, "dac_override")):
            if held >> bit & 1:
                return name
        raise ConfigurationError(
            f"User {self.name}, who runs the embedded PostgreSQL for root, cannot enter {closed}.",
            remedy=f"Move the project, or run: chmod o+x {closed}, or {USE_ANOTHER_SERVER}.",
        )


def choose_account(data: Path, project_directory: Path) -> Account:
    """Return who runs the server over ``data``: ourselves, or for root somebody else.

    Raises
    ------
    ConfigurationError
        The data belongs to another user, or root finds nobody.
    """
    owner = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner != os.geteuid():
            raise ConfigurationError(
                f"The embedded PostgreSQL in {data} belongs to user {user_name(owner)}.",
                remedy=f"Run as that user or as root, or {USE_ANOTHER_SERVER}.",
            )
        return Account(os.geteuid(), os.getegid(), user_name(os.geteuid()))
    project = next(path for path in (project_directory, *project_directory.parents) if path.exists())
    for candidate in (owner, project.stat().st_uid, "postgres", "nobody"):
        entry = _entry(candidate)
        if entry is not None and entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it.",
        remedy=f"Run as an ordinary user, or {USE_ANOTHER_SERVER}.",
    )


def user_name(uid: int) -> str:
    """Return the user's name, or the number where it has none."""
    entry = _entry(uid)
    return entry.pw_name if entry is not None else str(uid)


def _entry(user: int | str | None) -> pwd.struct_passwd | None:
    try:
        if isinstance(user, int):
            return pwd.getpwuid(user)
        return pwd.getpwnam(user) if user is not None else None
    except KeyError:
        return None
