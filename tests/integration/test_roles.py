"""Least privilege: a whole life under the roles, and everything that each of them must not be able to do."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from login_roles import PASSWORD, Login, login_url
from psycopg import sql
from psycopg.conninfo import make_conninfo
from shop import (
    LineAdded,
    OrderPlaced,
    Shop1,
    Shop2,
    actual_rows,
    expected_rows,
    live_shop,
    place_orders,
    shop,
)

from sequent_py import Event, Sequent
from sequent_py.doctor import Verdict, examine
from sequent_py.errors import (
    ConcurrentMigration,
    ConfigurationError,
    DefinitionError,
    InsufficientPrivileges,
    MaintenanceModeActive,
    StoreNotInstalled,
    VersionMismatch,
)
from sequent_py.roles.setup import set_up_roles
from sequent_py.schema_migrations.event_store import (
    event_store_migrations,
    install_event_store,
    latest_event_store_version,
)
from sequent_py.schema_migrations.integer import IntegerMigrator


def as_login(database_url: str, login: Login) -> psycopg.Connection[Any]:
    return psycopg.connect(login_url(database_url, login), autocommit=True)


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


def test_a_whole_life_under_the_roles(
    app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
) -> None:
    ids = place_orders(app, range(20))
    assert len(app.store.load(ids[0])) == 4
    app.view_schema.plan()
    app.view_schema.dry_run()
    app.view_schema.online()
    app.view_schema.abort()
    app.view_schema.online()
    place_orders(app, range(20, 25))
    app.view_schema.online()
    app.view_schema.offline()
    app.store.append(ids[0], [LineAdded(product="live", cents=3)])
    with shop(store_database_url, Shop2) as newer:
        newer.view_schema.online()
        place_orders(app, range(25, 30))
        newer.view_schema.golive()
        with pytest.raises(VersionMismatch):
            place_orders(app, [90])
        place_orders(newer, range(30, 35))
        newer.maintenance.on("moving")
        with pytest.raises(MaintenanceModeActive):
            place_orders(newer, [91])
        newer.maintenance.off()
        assert newer.view_schema.check().is_current
        assert newer.view_schema.status().live_version == 2
        assert {it.verdict for it in examine(newer).findings} <= {Verdict.OK, Verdict.NOTICE}
        assert newer.aggregates.erase([ids[2]]).places
    with shop(login_url(store_database_url, "deploy"), Shop2, as_login=False) as deploy:
        deploy.aggregates.refold([ids[1]])
        with pytest.raises(InsufficientPrivileges, match="does not own"):
            deploy.aggregates.erase([ids[1]])
    app.view_schema.rollback()
    app.store.append(ids[0], [LineAdded(product="back", cents=3)])
    with shop(store_database_url, Shop2) as newer:
        newer.view_schema.rollback()
        newer.view_schema.prune()
        newer.store.append(ids[0], [LineAdded(product="forth", cents=3)])
    assert actual_rows(connection) == expected_rows(connection)
    owners = connection.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'view_schema'::regnamespace AND relkind IN ('r', 'S')"
    ).fetchall()
    assert [name.rpartition("_")[2] for (name,) in owners] == ["migrator"], (
        "the next login could not rename them"
    )
    with as_login(store_database_url, "reports") as reports:
        assert reports.execute("SELECT count(*) FROM view_schema.order_records").fetchone() != (0,)


def test_worker_processes_work_under_the_migrators_role(
    app: Sequent, connection: psycopg.Connection[Any]
) -> None:
    from sequent_py.replay import replayer

    place_orders(app, range(30))
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(replayer, "INLINE_EVENTS", 0)
        app.view_schema.online(workers=2, group_target_events=20)
    app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def test_another_migrators_login_goes_on_where_the_first_stopped(
    app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
) -> None:
    place_orders(app, range(5))
    app.view_schema.online()
    name = f"other_{uuid.uuid4().hex[:8]}"
    role = next(
        it
        for (it,) in connection.execute("SELECT name FROM sequent_schema.store_roles WHERE kind = 'migrator'")
    )
    connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD))
    )
    try:
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))
        with shop(make_conninfo(store_database_url, user=name, password=PASSWORD), as_login=False) as other:
            other.view_schema.offline()
        with shop(store_database_url, Shop2) as newer:
            migrate(newer)
    finally:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


FORBIDDEN: dict[Login, list[str]] = {
    "web": [
        "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload) VALUES (gen_random_uuid(), 1, 1, '{}')",
        "INSERT INTO sequent_schema.events_03 (aggregate_id, sequence_number, event_type_id, payload) VALUES (gen_random_uuid(), 1, 1, '{}')",
        "COPY sequent_schema.events FROM STDIN",
        "UPDATE sequent_schema.events SET payload = '{}'",
        "UPDATE sequent_schema.events_03 SET payload = '{}'",
        "DELETE FROM sequent_schema.events",
        "DELETE FROM sequent_schema.events_03",
        "TRUNCATE sequent_schema.events",
        "TRUNCATE sequent_schema.events_03",
        "LOCK TABLE sequent_schema.events",
        "SELECT sequent_schema.lock_events_v1()",
        "SELECT sequent_schema.check_gate_v2()",
        "SELECT nextval('sequent_schema.event_positions')",
        "SELECT setval('sequent_schema.event_positions', 1)",
        "INSERT INTO sequent_schema.event_types (name) VALUES ('X')",
        "DELETE FROM sequent_schema.event_types",
        "UPDATE sequent_schema.gate SET maintenance = false, maintenance_reason = NULL, maintenance_since = NULL",
        "UPDATE sequent_schema.gate SET live_version = 7",
        "SELECT * FROM sequent_schema.gate FOR UPDATE",
        "DELETE FROM sequent_schema.gate",
        "SELECT * FROM sequent_schema.event_edits",
        "DELETE FROM sequent_schema.event_edits",
        "UPDATE sequent_schema.append_order SET id = true",
        "INSERT INTO sequent_schema.partitions (partition_key, xact_id) VALUES ('k', '3')",
        "DELETE FROM sequent_schema.aggregate_partitions",
        "UPDATE sequent_schema.view_migrations SET state = 'live'",
        "DELETE FROM sequent_schema.view_tables",
        "UPDATE sequent_schema.replay_groups SET done_at = now()",
        "UPDATE sequent_schema.store_roles SET name = 'x'",
        "UPDATE sequent_schema.schema_info SET version = 0",
        "ALTER TABLE sequent_schema.events DISABLE TRIGGER events_guard",
        "DROP TRIGGER events_guard ON sequent_schema.events",
        "CREATE TRIGGER t BEFORE INSERT ON sequent_schema.events EXECUTE FUNCTION sequent_schema.guard_events_v1()",
        "CREATE TABLE sequent_schema.mine ()",
        "CREATE TABLE view_schema.mine ()",
        "DROP TABLE view_schema.order_records",
        "TRUNCATE view_schema.order_records",
        "ALTER TABLE view_schema.order_records RENAME TO x",
        "SELECT nothing FROM (SELECT set_config('session_replication_role', 'replica', false)) AS nothing",
        "ALTER FUNCTION sequent_schema.check_gate_v2() SECURITY INVOKER",
        "SET ROLE {prefix}_owner",
        "SET ROLE {prefix}_migrator",
    ],
    "deploy": [
        "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload) VALUES (gen_random_uuid(), 1, 1, '{}')",
        "UPDATE sequent_schema.events SET payload = '{}'",
        "UPDATE sequent_schema.events_03 SET payload = '{}'",
        "DELETE FROM sequent_schema.events",
        "TRUNCATE sequent_schema.events",
        "DELETE FROM sequent_schema.event_edits",
        "DELETE FROM sequent_schema.event_types",
        "SELECT sequent_schema.append_events_v2(gen_random_uuid(), 0, '{1}', ARRAY['{}'::jsonb], '{}', NULL, '{0}', NULL)",
        "ALTER TABLE sequent_schema.events DISABLE TRIGGER events_guard",
        "INSERT INTO sequent_schema.gate DEFAULT VALUES",
        "DELETE FROM sequent_schema.gate",
        "CREATE TABLE sequent_schema.mine ()",
        "DROP TABLE sequent_schema.events",
        "SET ROLE {prefix}_owner",
        "SET ROLE {prefix}_application",
    ],
    "reports": [
        "SELECT * FROM sequent_schema.events",
        "SELECT * FROM sequent_schema.events_03",
        "SELECT * FROM sequent_schema.gate",
        "SELECT sequent_schema.append_events_v2(gen_random_uuid(), 0, '{1}', ARRAY['{}'::jsonb], '{}', NULL, '{0}', NULL)",
        "UPDATE view_schema.order_records SET total = 0",
        "INSERT INTO view_schema.line_records SELECT * FROM view_schema.line_records",
        "DELETE FROM view_schema.order_records",
        "TRUNCATE view_schema.order_records",
    ],
}


@pytest.mark.store(made_by=live_shop(3))
def test_what_a_role_must_not_do_it_cannot(
    app: Sequent, store_database_url: str, database_prefix: str
) -> None:
    allowed: list[str] = []
    for login, statements in FORBIDDEN.items():
        with as_login(store_database_url, login) as connection:
            for statement in statements:
                try:
                    with connection.transaction():
                        connection.execute(statement.replace("{prefix}", database_prefix))  # type: ignore[arg-type]
                        allowed.append(f"{login}: {statement}")
                except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue):
                    pass
    assert allowed == []


class Unheard(Event):
    pass


def test_the_application_registers_types_and_appends_in_every_isolation_level(
    app: Sequent, store_database_url: str
) -> None:
    place_orders(app, [1])
    migrate(app)
    order = uuid.uuid4()
    for number, level in enumerate(("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")):
        with app.engine.connect().execution_options(isolation_level=level) as connection, connection.begin():
            event = OrderPlaced(customer="x") if number == 0 else LineAdded(product="p", cents=1)
            app.store.append(order, [event, Unheard()], expected_version=number * 2, connection=connection)
    app.store.append(order, [Unheard()])
    assert len(app.store.load(order)) == 7


def test_operators_types_and_tables_of_the_callers_own_are_not_looked_at(
    store_database_url: str, connection: psycopg.Connection[Any], database_prefix: str
) -> None:
    """The append function runs as the owner: what the caller puts in front of its search path must not run with it."""
    web = f"{database_prefix}_web"
    connection.execute(sql.SQL("CREATE SCHEMA evil AUTHORIZATION {}").format(sql.Identifier(web)))
    with as_login(store_database_url, "web") as mine:
        mine.execute("CREATE TABLE evil.caught (who text, how text)")
        mine.execute("GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON evil.caught TO PUBLIC")
        for operator, left in (
            ("=", "integer"),
            ("<>", "integer"),
            ("+", "integer"),
            ("=", "text"),
            ("<>", "xid8"),
            ("=", "bigint"),
        ):
            returns = "integer" if operator == "+" else "boolean"
            mine.execute(
                f"CREATE OR REPLACE FUNCTION evil.trap_{left}_{returns}(a {left}, b {left}) RETURNS {returns} LANGUAGE plpgsql AS $$"  # noqa: S608
                f" BEGIN INSERT INTO evil.caught VALUES (current_user, '{operator}'); RETURN {'1' if operator == '+' else 'false'}; END $$"
            )
            mine.execute(
                f"CREATE OPERATOR evil.{operator} (LEFTARG = {left}, RIGHTARG = {left}, FUNCTION = evil.trap_{left}_{returns})"
            )
        for name, arguments, result in (
            ("clock_timestamp", "", "timestamptz"),
            ("pg_current_xact_id", "", "xid8"),
            ("current_setting", "text", "text"),
            ("hashtextextended", "text, bigint", "bigint"),
        ):
            mine.execute(
                f"CREATE FUNCTION evil.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS $$"  # noqa: S608
                f" BEGIN INSERT INTO evil.caught VALUES (current_user, '{name}'); RETURN NULL; END $$"
            )
        mine.execute("CREATE DOMAIN evil.timestamptz AS text")
        mine.execute("SET search_path = evil, pg_catalog")
        mine.execute("SELECT sequent_schema.register_event_types_v1(ARRAY['A', 'B'])")
        for expected in ("0", "NULL"):
            mine.execute(
                "SELECT sequent_schema.append_events_v2(pg_catalog.gen_random_uuid(), "
                + expected
                + ", '{1}', ARRAY['{}'::jsonb], '{}', NULL, '{0}', 'key')"
            )
        mine.execute(
            "SELECT sequent_schema.append_events_v1(pg_catalog.gen_random_uuid(), 0, '{1}', ARRAY['{}'::jsonb], '{}', NULL, 0)"
        )
        caught = mine.execute(
            "SELECT * FROM evil.caught WHERE who OPERATOR(pg_catalog.<>) SESSION_USER::text"
        ).fetchall()
    assert caught == []
    connection.execute("DROP SCHEMA evil CASCADE")


def test_temporary_tables_do_not_stand_in_for_the_stores(store_database_url: str) -> None:
    with as_login(store_database_url, "web") as mine:
        mine.execute("CREATE TEMP TABLE gate AS SELECT true AS maintenance")
        mine.execute("CREATE TEMP TABLE pg_locks (x int)")
        mine.execute("CREATE TEMP TABLE events (x int)")
        mine.execute("SELECT sequent_schema.register_event_types_v1(ARRAY['A'])")
        mine.execute(
            "SELECT sequent_schema.append_events_v2(gen_random_uuid(), 0, '{1}', ARRAY['{}'::jsonb], '{}', NULL, '{0}', NULL)"
        )
        assert mine.execute("SELECT count(*) FROM sequent_schema.events").fetchone() == (1,)


class TestSetUp:
    @pytest.fixture
    def prefix(self, server_url: str) -> Iterator[str]:
        prefix = f'ho"st %ü{uuid.uuid4().hex[:8]}'
        yield prefix
        with psycopg.connect(server_url, autocommit=True) as connection:
            for kind in ("owner", "migrator", "application", "reader"):
                connection.execute(
                    sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(f"{prefix}_{kind}"))
                )

    @pytest.fixture
    def bare(self, server_url: str, database_url: str, prefix: str) -> Iterator[psycopg.Connection[Any]]:
        """A store without roles, in hostile schemas; everything of its roles is gone at the end."""
        with psycopg.connect(database_url, autocommit=True) as connection:
            install_event_store(connection, 's"e%')
            yield connection
            for kind in ("owner", "migrator", "application", "reader"):
                role = sql.Identifier(f"{prefix}_{kind}")
                if connection.execute(
                    "SELECT 1 FROM pg_roles WHERE rolname = %s", (f"{prefix}_{kind}",)
                ).fetchone():
                    connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))

    def set_up(self, connection: psycopg.Connection[Any], prefix: str | None = None, **options: Any) -> Any:
        return set_up_roles(connection, schema='s"e%', view_schema='v"w %', prefix=prefix, **options)

    def test_hostile_names_work_and_a_second_run_does_nothing(
        self, bare: psycopg.Connection[Any], prefix: str
    ) -> None:
        first = self.set_up(bare, prefix)
        assert len(first.created) == 4
        assert first.granted > 50
        again = self.set_up(bare)
        assert (again.created, again.handed_over, again.granted, again.revoked, again.warnings) == (
            (),
            (),
            0,
            (),
            (),
        )

    def test_pre_existing_roles_are_used_and_named(self, bare: psycopg.Connection[Any], prefix: str) -> None:
        bare.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(f"{prefix}_application")))
        report = self.set_up(bare, prefix)
        assert len(report.created) == 3
        assert any("log in" in it for it in report.warnings)
        assert any("existed" in it for it in report.warnings)

    def test_a_superuser_of_that_name_is_refused_and_nothing_is_left(
        self, bare: psycopg.Connection[Any], prefix: str
    ) -> None:
        bare.execute(sql.SQL("CREATE ROLE {} SUPERUSER").format(sql.Identifier(f"{prefix}_reader")))
        with pytest.raises(ConfigurationError, match="superuser"):
            self.set_up(bare, prefix)
        rows = bare.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname::text, %s)", (prefix,)
        ).fetchall()
        assert rows == [(f"{prefix}_reader",)]

    @pytest.mark.parametrize("bad", ["", "pg_x", "p" * 60, "a\0b"])
    def test_prefixes_that_postgresql_would_cut_or_refuse(
        self, bare: psycopg.Connection[Any], bad: str
    ) -> None:
        with pytest.raises(DefinitionError, match=r"prefix|role"):
            self.set_up(bare, bad)

    def test_another_prefix_is_refused(self, bare: psycopg.Connection[Any], prefix: str) -> None:
        self.set_up(bare, prefix)
        with pytest.raises(ConfigurationError, match="already"):
            self.set_up(bare, "other")

    def test_the_reader_reads_events_only_if_that_was_asked_for(
        self, bare: psycopg.Connection[Any], prefix: str
    ) -> None:
        def may_read() -> bool:
            row = bare.execute(
                "SELECT has_table_privilege(%s, (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                " WHERE relname = 'events' AND nspname = 's\"e%%'), 'SELECT')",
                (f"{prefix}_reader",),
            ).fetchone()
            return bool(row and row[0])

        self.set_up(bare, prefix)
        assert not may_read()
        self.set_up(bare, reader_events=True)
        assert may_read()
        assert self.set_up(bare).reader_events, "it is remembered"
        self.set_up(bare, reader_events=False)
        assert not may_read()

    def test_a_migration_at_work_is_not_disturbed(
        self, bare: psycopg.Connection[Any], database_url: str, prefix: str
    ) -> None:
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute('SELECT pg_advisory_lock("s""e%".migration_key())')
            with pytest.raises(ConcurrentMigration):
                self.set_up(bare, prefix)

    def test_without_a_superuser(self, database_url: str, server_url: str, prefix: str) -> None:
        """A role with CREATEROLE that owns its database installs, sets up the roles, upgrades, and stays able to."""
        dba = f"dba_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(database_url) as connection:
            row = connection.execute("SELECT current_database()").fetchone()
        assert row is not None
        with psycopg.connect(server_url, autocommit=True) as server:
            server.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(
                    sql.Identifier(dba), sql.Literal(PASSWORD)
                )
            )
            server.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(row[0]), sql.Identifier(dba))
            )
        try:
            with shop(make_conninfo(database_url, user=dba, password=PASSWORD), as_login=False) as app:
                app.install()
                place_orders(app, range(3))
                migrate(app)
                report = app.set_up_roles(prefix=prefix)
                assert "table order_records" in report.handed_over
                with psycopg.connect(database_url) as connection:
                    # Before 16 whoever may create roles may grant that one, too.
                    is_restricted = connection.info.server_version >= 160_000
                if is_restricted:
                    assert any("pg_read_all_stats" in it for it in report.warnings)
                assert "roles" not in {
                    it.subject for it in examine(app).findings if it.verdict is Verdict.PROBLEM
                }
                with shop(
                    make_conninfo(database_url, user=dba, password=PASSWORD), Shop2, as_login=False
                ) as newer:
                    migrate(newer)
        finally:
            with psycopg.connect(database_url, autocommit=True) as connection:
                for name in [
                    f"{prefix}_{kind}" for kind in ("owner", "migrator", "application", "reader")
                ] + [dba]:
                    connection.execute(
                        sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(sql.Identifier(name))
                    )
                    connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
                for name in [
                    f"{prefix}_{kind}" for kind in ("owner", "migrator", "application", "reader")
                ] + [dba]:
                    connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))

    def test_without_the_right_to_create_roles_it_says_what_it_takes(
        self, database_url: str, server_url: str, prefix: str
    ) -> None:
        plain = f"plain_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(server_url, autocommit=True) as server:
            server.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(plain), sql.Literal(PASSWORD)
                )
            )
        try:
            with psycopg.connect(database_url, autocommit=True) as connection:
                row = connection.execute("SELECT current_database()").fetchone()
                assert row is not None
                connection.execute(
                    sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
                        sql.Identifier(row[0]), sql.Identifier(plain)
                    )
                )
            with shop(make_conninfo(database_url, user=plain, password=PASSWORD), as_login=False) as app:
                app.install()
                with pytest.raises(InsufficientPrivileges, match="CREATEROLE"):
                    app.set_up_roles(prefix=prefix)
                migrate(app)
        finally:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(plain)))
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(plain)))

    def test_nothing_to_set_up_before_the_store(self, database_url: str) -> None:
        with shop(database_url, as_login=False) as app, pytest.raises(StoreNotInstalled):
            app.set_up_roles()


class TestDoctor:
    @pytest.mark.parametrize(
        ("damage", "named"),
        [
            ("GRANT INSERT ON sequent_schema.events TO {application}", "INSERT on table events"),
            ("GRANT UPDATE (payload) ON sequent_schema.events_03 TO {application}", "events_03.payload"),
            ("GRANT EXECUTE ON FUNCTION sequent_schema.lock_events_v1() TO PUBLIC", "PUBLIC has EXECUTE"),
            ("REVOKE SELECT ON sequent_schema.event_types FROM {application}", "SELECT on table event_types"),
            (
                "ALTER FUNCTION sequent_schema.append_events_v2(uuid, integer, integer[], jsonb[], jsonb, timestamptz, integer[], text) SECURITY INVOKER",
                "append_events_v2",
            ),
            (
                "ALTER FUNCTION sequent_schema.append_events_v1(uuid, integer, integer[], jsonb[], jsonb, timestamptz, integer) RESET search_path",
                "append_events_v1",
            ),
            ("ALTER TABLE sequent_schema.events OWNER TO CURRENT_USER", "belongs to"),
        ],
    )
    def test_too_much_and_too_little_is_named_and_mended(
        self, store_database_url: str, connection: psycopg.Connection[Any], damage: str, named: str
    ) -> None:
        names = dict(connection.execute("SELECT kind, name FROM sequent_schema.store_roles").fetchall())
        connection.execute(damage.format(**{kind: f'"{name}"' for kind, name in names.items()}))  # type: ignore[arg-type]
        with shop(store_database_url, as_login=False) as admin:
            found = [it for it in examine(admin).findings if it.subject == "roles"]
            assert found[0].verdict is Verdict.PROBLEM
            assert named in found[0].message
            admin.set_up_roles()
            assert [it.verdict for it in examine(admin).findings if it.subject == "roles"] == [Verdict.OK]

    def test_a_membership_that_gives_more_is_named_with_the_revoke(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        names = dict(connection.execute("SELECT kind, name FROM sequent_schema.store_roles").fetchall())
        owner, application = sql.Identifier(names["owner"]), sql.Identifier(names["application"])
        connection.execute(sql.SQL("GRANT {} TO {}").format(owner, application))
        try:
            with shop(store_database_url, as_login=False) as admin:
                found = [
                    it
                    for it in examine(admin).findings
                    if it.subject == "roles" and it.verdict is Verdict.PROBLEM
                ]
                assert any(
                    f'REVOKE "{names["owner"]}" FROM "{names["application"]}"' in it.remedy for it in found
                )
        finally:
            connection.execute(sql.SQL("REVOKE {} FROM {}").format(owner, application))

    def test_a_store_without_roles_is_told_so(self, database_url: str) -> None:
        with shop(database_url) as app:
            app.install()
            found = [it for it in examine(app).findings if it.subject == "roles"]
            assert (found[0].verdict, found[0].remedy) == (Verdict.NOTICE, "Run: sequent init --roles")


def test_init_sets_up_roles_from_the_command_line(database_url: str, server_url: str, tmp_path: Path) -> None:
    prefix = f"cli_{uuid.uuid4().hex[:8]}"
    environment = os.environ | {
        "SEQUENT_DATABASE_URL": database_url,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    (tmp_path / "pyproject.toml").write_text("[tool.sequent]\n")

    def sequent(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sequent_py", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        assert sequent("init", "--role-prefix", prefix).returncode == 2
        done = sequent("init", "--roles", "--role-prefix", prefix)
        assert done.returncode == 0, done.stderr
        assert f'GRANT "{prefix}_application" TO' in done.stdout
        assert "as they should be" in sequent("init", "--roles").stdout
    finally:
        with psycopg.connect(database_url, autocommit=True) as connection:
            for kind in ("owner", "migrator", "application", "reader"):
                connection.execute(
                    sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(sql.Identifier(f"{prefix}_{kind}"))
                )
                connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(f"{prefix}_{kind}")))
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(f"{prefix}_{kind}")))


def test_an_upgrade_hands_over_what_it_created(
    store_database_url: str, connection: psycopg.Connection[Any]
) -> None:
    """As if the last migration of the store came with this release."""
    with shop(store_database_url, as_login=False) as admin:
        migrator = IntegerMigrator(
            connection,
            event_store_migrations(),
            schema="sequent_schema",
            search_path=("sequent_schema", "pg_catalog"),
        )
        migrator.migrate(latest_event_store_version() - 1)
        connection.execute("ALTER TABLE sequent_schema.replay_groups OWNER TO CURRENT_USER")
        assert len(admin.install()) == 1
        assert [it.verdict for it in examine(admin).findings if it.subject == "roles"] == [Verdict.OK]
    with shop(store_database_url, Shop1) as app:
        migrate(app)
