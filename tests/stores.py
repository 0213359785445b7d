"""Databases to test on: each a clone of one that was made once, however far it had come."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from login_roles import STORE_MARK, allow_migrations, create_logins, drop_roles

from sequent_py.roles.setup import set_up_roles
from sequent_py.schema_migrations.event_store import install_event_store
from sequent_py.testing.server import create_database, drop_database, with_database

Maker = Callable[[str], None]
"""Takes the URL of a database as far as tests want it, and leaves no connection behind."""


class Clones:
    """Databases on one server, the process's own; their names begin with ``prefix``."""

    _beginning: str | None = None
    """The database that makers begin with; None: an empty one."""

    def __init__(self, server_url: str, prefix: str) -> None:
        self._server_url = server_url
        self._prefix = prefix
        self._made: dict[Maker, str] = {}

    @contextmanager
    def fresh(self, made_by: Maker | None = None) -> Iterator[str]:
        """Yield the administrator's URL of a database that nobody has used since it was made, dropped at the end.

        ``made_by`` is called once in a process, for the first who asks for it: a clone takes some milliseconds, a view migration up to a second.
        """
        template = self._beginning if made_by is None else self._template(made_by)
        with self._created(template) as name:
            yield with_database(self._server_url, name)
        drop_database(self._server_url, name)

    def close(self) -> None:
        """Drop what was cloned."""
        for name in self._made.values():
            drop_database(self._server_url, name)

    def _template(self, made_by: Maker) -> str:
        if made_by not in self._made:
            with self._created(self._beginning) as name:
                made_by(with_database(self._server_url, name))
            self._made[made_by] = name
        return self._made[made_by]

    @contextmanager
    def _created(self, template: str | None) -> Iterator[str]:
        """Yield the name of a new database, which is dropped where the block fails."""
        name = f"{self._prefix}{uuid.uuid4().hex[:8]}"
        create_database(self._server_url, name, template=template)
        try:
            yield name
        except BaseException:
            drop_database(self._server_url, name)
            raise


class Stores(Clones):
    """Databases with the event store, its roles, and logins for these: their names lead :func:`login_roles.login_url` there."""

    def __init__(self, server_url: str, prefix: str) -> None:
        super().__init__(server_url, f"{prefix}{STORE_MARK}")
        self._roles = prefix
        self._beginning = self._template(self._install)
        create_logins(server_url, prefix)

    def close(self) -> None:
        """Drop what was cloned, the roles and the logins."""
        super().close()
        drop_roles(self._server_url, self._roles)

    def _install(self, database_url: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            install_event_store(connection, "sequent_schema")
            set_up_roles(connection, schema="sequent_schema", view_schema="view_schema", prefix=self._roles)

    @contextmanager
    def _created(self, template: str | None) -> Iterator[str]:
        with super()._created(template) as name:
            if template is not None:
                # A clone does not inherit what was granted on the database itself.
                allow_migrations(self._server_url, name, self._roles)
            yield name
