"""Stores to test on: each a clone of a database that was made once, however far it had come."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from login_roles import STORE_MARK, allow_migrations, create_logins, drop_roles

from sequent_py.roles.setup import set_up_roles
from sequent_py.schema_migrations.event_store import install_event_store
from sequent_py.testing.server import create_database, drop_database, fresh_database, with_database

Maker = Callable[[str], None]
"""Takes the URL of an empty store as far as tests want it, and leaves no connection behind."""


class Stores:
    """Databases with the event store, its roles, and logins for these; the process's own, on one server.

    Their names lead :func:`login_roles.login_url` to the logins.
    """

    def __init__(self, server_url: str, prefix: str) -> None:
        self._server_url = server_url
        self._prefix = prefix
        self._made: dict[Maker | None, str] = {}

    @contextmanager
    def fresh(self, made_by: Maker | None = None) -> Iterator[str]:
        """Yield the administrator's URL of a store that nobody has used since it was made, dropped at the end.

        ``made_by`` is called once in a process, for the first who asks for it: a clone takes some milliseconds, and a view migration a second.
        """
        name = self._unused_name()
        with fresh_database(self._server_url, name, template=self.template(made_by)) as url:
            allow_migrations(self._server_url, name, self._prefix)
            yield url

    def template(self, made_by: Maker | None = None) -> str:
        """Return the name of the database that is cloned."""
        if made_by not in self._made:
            name = self._unused_name()
            create_database(self._server_url, name, template=None if made_by is None else self.template())
            try:
                self._take_further(name, made_by)
            except BaseException:
                drop_database(self._server_url, name)
                raise
            self._made[made_by] = name
        return self._made[made_by]

    def close(self) -> None:
        """Drop the templates, the roles and the logins."""
        for name in self._made.values():
            drop_database(self._server_url, name)
        drop_roles(self._server_url, self._prefix)

    def _take_further(self, name: str, made_by: Maker | None) -> None:
        url = with_database(self._server_url, name)
        if made_by is not None:
            allow_migrations(self._server_url, name, self._prefix)
            made_by(url)
            return
        with psycopg.connect(url, autocommit=True) as connection:
            install_event_store(connection, "sequent_schema")
            set_up_roles(connection, schema="sequent_schema", view_schema="view_schema", prefix=self._prefix)
        create_logins(self._server_url, self._prefix)

    def _unused_name(self) -> str:
        return f"{self._prefix}{STORE_MARK}{uuid.uuid4().hex[:8]}"
