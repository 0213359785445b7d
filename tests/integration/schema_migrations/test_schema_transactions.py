"""Transactions, failures and the lock: section G of the case list."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from sequent_py.schema_migrations import choice
from sequent_py.schema_migrations.errors import MigrationLockHeld, TransactionEnded
from sequent_py.schema_migrations.migrator import LOCK_KEY
from sequent_py.schema_migrations.sql_log import SqlLog

FIXTURES = Path(__file__).parent / "fixtures"


def without_transaction(text: str, value: bool = False) -> str:
    return f"transaction = {value}\n\n\n{text}"


def logged(db, directory: Path, *arguments: int, **options: object) -> list[str]:
    """Run, and return what the log says without times, one word for each kind of line."""
    lines: list[str] = []
    choice.run(db.engine, directory, *arguments, log=SqlLog([lines.append]), **options)
    bare = [re.sub(r"^[-0-9]+ [:0-9]+ INFO: (\([0-9.]+s\) )?", "", line).strip() for line in lines]
    return [re.split(r"[ ,]", line)[0] for line in bare]


@pytest.mark.rows(231, 232, 235)
def test_every_migration_and_its_version_are_one_transaction(db, files):
    choice.run(db.engine, files.tables("001_a", "002_b"), 0)
    one = ["Begin", "BEGIN", "CREATE", "UPDATE", "COMMIT", "Finished"]
    assert logged(db, files.path) == one * 2
    assert logged(db, files.path, 0) == ["Begin", "BEGIN", "DROP", "UPDATE", "COMMIT", "Finished"] * 2


@pytest.mark.rows(232)
def test_timestamps_are_recorded_in_the_same_transaction(db, files):
    choice.run(db.engine, files.tables("20200101_a"), 0)
    assert logged(db, files.path) == ["Begin", "BEGIN", "CREATE", "INSERT", "COMMIT", "Finished"]
    assert logged(db, files.path, 0) == ["Begin", "BEGIN", "DROP", "DELETE", "COMMIT", "Finished"]


@pytest.mark.rows(233)
def test_the_tracking_table_outlives_a_failure(db, files):
    files.write({"001_a": "def up(op):\n    op.create_table('a')\n    raise ArithmeticError\n"})
    with pytest.raises(ArithmeticError):
        choice.run(db.engine, files.path)
    assert (db.version, db.tables) == (0, set())


@pytest.mark.rows(236, 237)
def test_a_migration_may_opt_out_for_itself(db, files):
    files.tables("001_a", "002_b")
    path = files.path / "002_b.py"
    path.write_text(f"transaction = True\n{without_transaction(path.read_text())}")
    choice.run(db.engine, files.path, 0)
    assert logged(db, files.path) == [
        *["Begin", "BEGIN", "CREATE", "UPDATE", "COMMIT", "Finished"],
        *["Begin", "CREATE", "UPDATE", "Finished"],
    ]


@pytest.mark.rows(235, 238, 239)
@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("said", [True, False])
def test_the_migrator_overrides_the_migration(db, files, forced, said):
    files.tables("001_a")
    path = files.path / "001_a.py"
    path.write_text(without_transaction(path.read_text(), said))
    choice.run(db.engine, files.path, 0)
    words = logged(db, files.path, use_transactions=forced)
    assert ("BEGIN" in words, "COMMIT" in words) == (forced, forced)
    assert db.version == 1


@pytest.mark.rows(241, 242, 243)
@pytest.mark.parametrize(
    ("fixture", "forced", "tables"),
    [
        ("without_transaction", None, {"a", "b"}),
        ("without_transaction", True, {"a"}),
        ("fails_going_up", False, {"a", "b"}),
    ],
)
def test_what_a_failure_leaves_without_a_transaction(db, fixture, forced, tables):
    with pytest.raises(ArithmeticError):
        choice.run(db.engine, FIXTURES / fixture, use_transactions=forced)
    assert (db.version, db.tables) == (1, tables)
    if forced is not True:
        with pytest.raises(sa.exc.ProgrammingError, match="DuplicateTable"):
            choice.run(db.engine, FIXTURES / fixture, use_transactions=forced)


@pytest.mark.rows(244)
def test_concurrently_fails_in_a_transaction(db):
    with pytest.raises(
        sa.exc.InternalError, match="CREATE INDEX CONCURRENTLY cannot run inside a transaction block"
    ):
        choice.run(db.engine, FIXTURES / "concurrently_in_transaction")
    assert db.version == 1


@pytest.mark.rows(64, 245)
def test_concurrently_works_without_one_both_ways(db, files):
    files.tables("001_a")
    files.write(
        {"002_i": "transaction = False\n\n\ndef change(op):\n    op.add_index('a', 'a', concurrently=True)\n"}
    )
    choice.run(db.engine, files.path)
    assert db.sql("SELECT indexname FROM pg_indexes WHERE tablename = 'a'") == [("a_a_index",)]
    lines: list[str] = []
    choice.run(db.engine, files.path, 1, log=SqlLog([lines.append]))
    assert "DROP INDEX CONCURRENTLY a_a_index" in "".join(lines)
    assert db.sql("SELECT indexname FROM pg_indexes WHERE tablename = 'a'") == []
    assert db.version == 1


@pytest.mark.rows(247)
def test_a_failure_at_commit_counts(db):
    with pytest.raises(sa.exc.IntegrityError, match="ForeignKeyViolation"):
        choice.run(db.engine, FIXTURES / "fails_at_commit")
    assert (db.version, db.tables) == (1, {"a"})


@pytest.mark.rows(248)
def test_a_migration_may_use_savepoints(db, files):
    text = (
        "def up(op):\n    op.create_table('kept')\n    nested = op.get_bind().begin_nested()\n    op.create_table('undone')\n"
        "    nested.rollback()\n    op.create_table('also')\n"
    )
    choice.run(db.engine, files.write({"001_x": text}))
    assert (db.version, db.tables) == (1, {"kept", "also"})


@pytest.mark.rows(249)
@pytest.mark.parametrize("fixture", ["ends_its_transaction", "begins_another_transaction"])
def test_a_migration_that_ends_its_transaction_fails(db, fixture):
    with pytest.raises(TransactionEnded, match=r"002_b\.py ended the transaction"):
        choice.run(db.engine, FIXTURES / fixture)
    assert db.version == 1


@pytest.mark.rows(249)
def test_a_rollback_inside_a_migration_is_a_failure(db, files):
    files.write({"001_x": "def up(op):\n    op.create_table('b')\n    op.get_bind().rollback()\n"})
    with pytest.raises(sa.exc.InvalidRequestError):
        choice.run(db.engine, files.path)
    assert (db.version, db.tables) == (0, set())


@pytest.mark.rows(250)
@pytest.mark.parametrize("fails", [True, False])
def test_a_callers_transaction_makes_the_run_atomic(db, files, fails):
    directory = FIXTURES / "fails_going_up" if fails else files.tables("001_a", "002_b")
    with db.engine.connect() as connection:
        transaction = connection.begin()
        if fails:
            with pytest.raises(ArithmeticError):
                choice.run(connection, directory)
            transaction.rollback()
        else:
            choice.run(connection, directory)
            assert db.all_tables == set()
            transaction.commit()
    assert db.all_tables == (set() if fails else {"a", "b", "schema_info"})


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_psycopg_connection_is_given_back_as_it_was(db, files, autocommit, in_transaction):
    files.tables("001_a")
    with psycopg.connect(db.url, autocommit=autocommit, row_factory=psycopg.rows.dict_row) as connection:
        if in_transaction:
            connection.execute("BEGIN" if autocommit else "SELECT 1")
        before = (connection.info.transaction_status, connection.autocommit, connection.isolation_level)
        assert choice.run(connection, files.path) == 1
        assert not choice.is_current(connection, files.path, 0)
        assert (
            connection.info.transaction_status,
            connection.autocommit,
            connection.isolation_level,
        ) == before
        assert connection.execute("SELECT version FROM schema_info").fetchone() == {"version": 1}
        assert db.all_tables == (set() if in_transaction else {"a", "schema_info"})
        connection.rollback()
    assert db.all_tables == (set() if in_transaction else {"a", "schema_info"})


def test_a_lent_connection_that_commits_at_once_still_gets_transactions(db):
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SELECT 1")
        with pytest.raises(ArithmeticError):
            choice.run(connection, FIXTURES / "fails_going_up")
        assert connection.get_execution_options()["isolation_level"] == "AUTOCOMMIT"
    assert (db.version, db.tables) == (1, {"a"})


def test_settings_of_a_migration_do_not_outlive_it(db, files):
    files.write(
        {
            "001_a": "def up(op):\n    op.run(\"SELECT set_config('search_path', '', false)\")\n    op.run('CREATE TABLE public.a ()')\n",
            "002_b": "transaction = False\n\n\ndef up(op):\n    op.run('SET search_path TO pg_catalog')\n    op.run('CREATE TABLE public.b ()')\n",
            "003_c": "def up(op):\n    op.run('CREATE TABLE c ()')\n",
        }
    )
    assert choice.run(db.engine, files.path) == 3
    assert db.tables == {"a", "b", "c"}


def test_a_statement_does_not_wait_for_ever_for_a_lock(db, files):
    db.sql("CREATE TABLE a ()")
    files.write({"001_x": "def up(op):\n    op.run('ALTER TABLE a ADD b integer')\n"})
    with psycopg.connect(db.url) as other:
        other.execute("LOCK TABLE a IN ACCESS SHARE MODE")
        with pytest.raises(sa.exc.OperationalError, match="LockNotAvailable"):
            choice.run(db.engine, files.path, lock_timeout_seconds=0.05)
    assert db.version == 0
    assert choice.run(db.engine, files.path) == 1


@pytest.mark.rows(253, 257)
def test_a_busy_lock_is_an_error_at_once(db, files):
    files.tables("001_a")
    with psycopg.connect(db.url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(
            MigrationLockHeld, match=r"(?i)unable to acquire advisory lock 4966325471869609408"
        ):
            choice.run(db.engine, files.path)
        assert db.all_tables == set()
        assert not choice.is_current(db.engine, files.path)
        with pytest.raises(MigrationLockHeld), db.engine.begin() as connection:
            choice.run(connection, files.path)
        # Given back, not left to the end of the session, which the server comes to some time after it was closed.
        other.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])
    assert choice.run(db.engine, files.path) == 1


def test_a_busy_lock_can_be_waited_for(db, files):
    files.tables("001_a")
    other = psycopg.connect(db.url, autocommit=True)
    other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
    timer = threading.Timer(0.3, other.close)
    timer.start()
    try:
        assert choice.run(db.engine, files.path, lock_wait_seconds=30) == 1
    finally:
        timer.join()


@pytest.mark.rows(254, 255)
@pytest.mark.parametrize(
    "fixture", ["gap", "fails_going_up", "syntax_error", "fails_at_commit", "ends_its_transaction"]
)
def test_the_lock_is_released(db, fixture):
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(db.url), pool_size=1, max_overflow=0
    )
    try:
        choice.run(engine, FIXTURES / fixture, allow_missing_migration_files=True)
    except Exception:
        assert fixture != "gap"
    # The pool still holds the run's connection: the lock did not go with it.
    assert db.sql(f"SELECT pg_try_advisory_lock({LOCK_KEY})") == [(True,)]
    engine.dispose()


@pytest.mark.rows(259)
def test_of_two_runs_at_once_one_goes_on(db, files):
    text = "def up(op):\n    op.run('CREATE TABLE a (); SELECT pg_sleep(0.5)')\n"
    files.write({"001_a": text})
    outcomes: list[object] = []

    def work() -> None:
        try:
            outcomes.append(choice.run(db.engine, files.path))
        except MigrationLockHeld as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 in outcomes
    assert db.version == 1


def test_a_killed_run_leaves_what_is_recorded(db, files):
    files.tables("001_a")
    files.write(
        {
            "002_b": "def up(op):\n    op.run('CREATE TABLE b ()')\n    op.run('SELECT pg_terminate_backend(pg_backend_pid())')\n"
        }
    )
    with pytest.raises(sa.exc.OperationalError):
        choice.run(db.engine, files.path)
    assert (db.version, db.tables) == (1, {"a"})
    files.tables("002_b")
    assert choice.run(db.engine, files.path) == 2
