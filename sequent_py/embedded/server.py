"""The share of a process in the embedded server: starting or joining it, and leaving it."""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Mapping
from pathlib import Path

from sequent_py.embedded import process
from sequent_py.embedded.cluster import SUBDIRECTORY, Cluster
from sequent_py.embedded.unprivileged import choose_account
from sequent_py.embedded.waiting import try_lock
from sequent_py.embedded.wheel import binaries_of_wheel
from sequent_py.errors import ConfigurationError, DatabaseUnavailable


class EmbeddedServer:
    """This process's share in a running server; :meth:`join` makes one.

    The share ends with :meth:`release`, with the garbage collection of this object, or with the process, however that ends.
    """

    def __init__(self, cluster: Cluster, users_lock: int) -> None:
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
        binaries = binaries_of_wheel()
        directory = directory.resolve()
        is_in_project = directory.parts[-2:] == SUBDIRECTORY.parts
        account = choose_account(directory / "data", directory.parents[1] if is_in_project else directory)
        cluster = Cluster(directory, binaries, account, dict(settings or {}))
        cluster.create_directory()
        with cluster.starting():
            cluster.create_if_absent()
            process.ensure_running(cluster)
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


def _leave(cluster: Cluster, users_lock: int, owner_pid: int) -> None:
    """Drop the lock, and stop the server if nobody else holds it."""
    if os.getpid() != owner_pid:
        # A forked child shares the lock with its parent, who is the one to give it back.
        return
    try:
        with cluster.starting():
            if try_lock(users_lock):
                process.stop(cluster)
    except (OSError, ConfigurationError, DatabaseUnavailable):
        # The directory was removed under us, or somebody hangs while starting the server: it is not ours to stop.
        pass
    finally:
        os.close(users_lock)
