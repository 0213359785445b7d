"""Logins with the roles of the stores that tests run on: the application appends by one, migrations run by another.

A store's database is called ``<prefix>_store_…``; the prefix is that of its roles, and of two logins: ``<prefix>_web`` and ``<prefix>_deploy``.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

STORE_MARK = "_store_"
PASSWORD = "only-for-tests"
Login = Literal["web", "deploy", "reports", "admin"]
ROLES: dict[Login, str] = {
    "web": "application",
    "deploy": "migrator",
    "reports": "reader",
    "admin": "owner",
}


def create_logins(server_url: str, prefix: str) -> None:
    """Create a login for each role of a prefix."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        for login, role in ROLES.items():
            name = sql.Identifier(f"{prefix}_{login}")
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(PASSWORD))
            )
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(f"{prefix}_{role}"), name))


def allow_migrations(server_url: str, database: str, prefix: str) -> None:
    """Give the migrator its rights on the database itself, which a clone does not inherit from its template."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}").format(
                sql.Identifier(database), sql.Identifier(f"{prefix}_migrator")
            )
        )
        for role in ("application", "reader"):
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                    sql.Identifier(database), sql.Identifier(f"{prefix}_{role}")
                )
            )


def drop_roles(server_url: str, prefix: str) -> None:
    """Drop logins and roles of a prefix, whose databases are gone."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        for name in [f"{prefix}_{it}" for it in (*ROLES, *ROLES.values())]:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def login_url(database_url: str, login: Login) -> str:
    """Return the URL by which a login reaches the database; the same URL where the database has no roles."""
    name = str(conninfo_to_dict(database_url).get("dbname", ""))
    prefix, mark, _ = name.partition(STORE_MARK)
    if not mark:
        return database_url
    user = f"{prefix}_{login}"
    if "://" not in database_url:
        return make_conninfo(database_url, user=user, password=PASSWORD)
    parts = urlsplit(database_url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{PASSWORD}@{address}"))
