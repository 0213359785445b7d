"""A login that lacks a role is told which one, and how it is given; nobody meets the driver's words for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from login_roles import STORE_MARK, Login, login_url
from psycopg.conninfo import conninfo_to_dict
from shop import (
    OrderPlaced,
    Shop1,
    live_shop,
)

from sequent_py import Config, Sequent
from sequent_py.cli import run
from sequent_py.errors import InsufficientPrivileges

ORDER = UUID(int=1)
pytestmark = pytest.mark.store(made_by=live_shop(2))


@pytest.fixture
def prefix(store_database_url: str) -> str:
    return str(conninfo_to_dict(store_database_url)["dbname"]).partition(STORE_MARK)[0]


@pytest.fixture
def as_login(store_database_url: str) -> Iterator[Callable[[Login], Sequent]]:
    """Open the application by one login, version 1 being live."""
    opened: list[Sequent] = []

    def open_by(login: Login) -> Sequent:
        opened.append(Sequent(Config(database_url=login_url(store_database_url, login)), migrations=Shop1))
        return opened[-1]

    yield open_by
    for app in opened:
        app.close()


def append(app: Sequent, connection: Any = None) -> None:
    app.store.append(ORDER, [OrderPlaced(customer="Ann")], connection=connection)


def test_a_reader_that_appends_is_told_the_applications_role(
    as_login: Callable[[Login], Sequent], prefix: str
) -> None:
    for login in ("reports", "deploy"):
        with pytest.raises(InsufficientPrivileges) as caught:
            append(as_login(login))  # type: ignore[arg-type]
        assert f"{prefix}_{login} may not append events: permission denied" in caught.value.message
        assert f"It takes the role {prefix}_application." in caught.value.message
        assert f'GRANT "{prefix}_application" TO "{prefix}_{login}"' in caught.value.remedy
        assert "docs/roles.md" in caught.value.remedy
        assert isinstance(caught.value.__cause__, psycopg.errors.InsufficientPrivilege)


def test_it_is_told_so_on_a_connection_of_its_own(
    as_login: Callable[[Login], Sequent], store_database_url: str
) -> None:
    app = as_login("web")
    append(app)
    with (
        psycopg.connect(login_url(store_database_url, "reports")) as connection,
        pytest.raises(InsufficientPrivileges, match="_reports may not append events"),
    ):
        append(app, connection)


def test_a_reader_that_loads_is_told_who_may_read(as_login: Callable[[Login], Sequent], prefix: str) -> None:
    store = as_login("reports").store
    for load in (
        lambda: store.load(ORDER),
        lambda: store.load_range(),
        lambda: store.version_of(ORDER),
        lambda: list(store.window(None)),
        lambda: store.load_range(event_types=[OrderPlaced]),
    ):
        with pytest.raises(InsufficientPrivileges, match="may not read events") as caught:
            load()
        assert f"{prefix}_application or {prefix}_migrator" in caught.value.message
        assert "--reader-events" in caught.value.remedy


@pytest.mark.store(made_by=None)
@pytest.mark.parametrize("login", ["deploy", "reports"])
def test_importing_takes_another_role(store_database_url: str, prefix: str, login: Login) -> None:
    with (
        Sequent(Config(database_url=login_url(store_database_url, login)), migrations=Shop1) as app,
        pytest.raises(InsufficientPrivileges) as caught,
    ):
        app.store.import_history([(ORDER, OrderPlaced(customer="Ann"), None)])
    assert f"{prefix}_{login} may not " in caught.value.message
    assert f'TO "{prefix}_{login}"' in caught.value.remedy


def test_a_reader_that_looks_at_migrations_is_told_who_may(
    as_login: Callable[[Login], Sequent], prefix: str
) -> None:
    app = as_login("reports")
    for command in (
        app.view_schema.status,
        app.view_schema.plan,
        app.view_schema.online,
        app.view_schema.check,
    ):
        with pytest.raises(InsufficientPrivileges, match="may not look at the event store") as caught:
            command()
        assert f'GRANT "{prefix}_migrator" TO "{prefix}_reports"' in caught.value.remedy


def test_a_store_without_roles_names_its_owner_and_what_sets_up_roles(
    database_url: str, store_database_url: str, prefix: str
) -> None:
    with Sequent(Config(database_url=database_url), migrations=Shop1) as app:
        app.install()
    name = str(conninfo_to_dict(database_url)["dbname"])
    as_web = login_url(store_database_url, "web").replace(
        str(conninfo_to_dict(store_database_url)["dbname"]), name
    )
    with (
        Sequent(Config(database_url=as_web), migrations=Shop1) as app,
        pytest.raises(InsufficientPrivileges, match="the store has no roles") as caught,
    ):
        append(app)
    assert "sequent init --roles" in caught.value.remedy


class TestSchemaMigrations:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        (tmp_path / "migrations").mkdir()
        (tmp_path / "migrations" / "001_artists.py").write_text(
            "import sqlalchemy as sa\n\n\ndef change(op):\n    op.create_table('artists', sa.Column('id', sa.Integer))\n"
        )
        (tmp_path / "pyproject.toml").write_text("[tool.sequent]\n")
        return tmp_path

    def test_a_login_without_rights_is_told_the_role_and_the_statements(
        self,
        project: Path,
        store_database_url: str,
        prefix: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("SEQUENT_DATABASE_URL", login_url(store_database_url, "deploy"))
        assert run(["schema", "migrate", "--project", str(project)]) == 1
        said = capsys.readouterr().err
        assert "permission denied for schema public" in said
        assert f"that is {prefix}_migrator" in " ".join(said.split())
        statements = f'GRANT CREATE ON SCHEMA "public" TO "{prefix}_migrator"; GRANT "{prefix}_migrator" TO "{prefix}_deploy"; ALTER ROLE "{prefix}_deploy" SET role = "{prefix}_migrator"'
        assert statements in said
        assert "docs/roles.md" in said

        # What it says helps.
        with psycopg.connect(store_database_url, autocommit=True) as admin:
            admin.execute(statements)  # type: ignore[call-overload]
            try:
                assert run(["schema", "migrate", "--project", str(project)]) == 0
            finally:
                admin.execute(f'ALTER ROLE "{prefix}_deploy" RESET role')  # type: ignore[call-overload]

        monkeypatch.setenv("SEQUENT_DATABASE_URL", login_url(store_database_url, "web"))
        capsys.readouterr()
        assert run(["schema", "status", "--project", str(project)]) == 1
        assert "permission denied for table schema_info" in capsys.readouterr().err

    def test_a_server_that_is_away_is_named(
        self,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("SEQUENT_DATABASE_URL", "postgresql://ann:geheim@localhost:1/shop")
        for command in (["migrate"], ["status"], ["check"], ["dump", "-D"], ["dump", "--sql"]):
            assert run(["schema", *command, "--project", str(project)]) == 1
            said = capsys.readouterr().err
            assert "Cannot connect to ann@localhost:1/shop" in said
            assert "SEQUENT_DATABASE_URL" in said
            assert "geheim" not in said
