"""Projectors that depend on more than one aggregate: live tables, replayed tables and a naive fold are the same."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from waiting import wait_until
from wallets import (
    Deposited,
    WalletClosed,
    WalletOpened,
    Wallets2,
    WalletsCareless,
    WalletsNarrow,
    WalletsWithoutJournal,
    WalletsWithoutJournal2,
    actual_rows,
    deposit_at_random,
    expected_rows,
    history,
    open_wallets,
    owners_of,
    wallets,
)

from sequent_py import Sequent
from sequent_py.errors import (
    DrainTimeout,
    InvalidTransition,
    OrderingViolated,
    PlanChanged,
    VerificationFailed,
)
from sequent_py.ordering_check import OrderingCheck, check_orderings
from sequent_py.view_schema.context import Context

GROUP_EVENTS = 300


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with wallets(store_database_url, group_target_events=GROUP_EVENTS) as app:
        yield app


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


def is_serial(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT serial_appends FROM sequent_schema.gate").fetchone()
    assert row is not None
    return bool(row[0])


def groups(connection: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(
        connection.execute(
            "SELECT ordering, count(*)::int FROM sequent_schema.replay_groups WHERE pass = 0 GROUP BY ordering"
        ).fetchall()
    )


class TestReplay:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_every_ordering_replays_to_what_a_fold_by_position_gives(
        self,
        app: Sequent,
        connection: psycopg.Connection[Any],
        workers: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)
        app.store.import_history(history(20, 3, 1_500), partition_keys=owners_of(20, 3))
        report = app.view_schema.online(workers=workers)
        assert groups(connection)["partition"] > 1
        assert groups(connection)["global"] == 1
        assert actual_rows(connection, "_1") == expected_rows(connection)
        assert report.events == 3 * 1_560, "an event is read once for each ordering that handles its type"
        assert app.view_schema.online().events == 0

    def test_live_tables_go_on_where_the_replay_ended(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        opened = open_wallets(app, ["ann", "bob"], each=3)
        deposit_at_random(app, opened, 20, seed=1)
        migrate(app)
        assert actual_rows(connection) == expected_rows(connection)
        deposit_at_random(app, opened, 20, seed=2)
        app.store.append(min(opened), [WalletClosed(owner=opened[min(opened)])])
        assert actual_rows(connection) == expected_rows(connection)

    def test_catch_up_reads_and_deletes_rows_of_other_aggregates_from_the_table(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        opened = open_wallets(app, [f"owner {number}" for number in range(10)], each=4)
        deposit_at_random(app, opened, 30, seed=3)
        app.view_schema.online()
        for seed in (4, 5):
            closing_ = sorted(opened)[0]
            app.store.append(closing_, [WalletClosed(owner=opened.pop(closing_))])
            deposit_at_random(app, opened, 30, seed=seed)
            app.view_schema.online()
            assert actual_rows(connection, "_1") == expected_rows(connection)
        report = app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)
        assert report.rows["journal_records"] == len(expected_rows(connection)["journal_records"])

    def test_rows_that_do_not_fit_into_memory_are_the_same(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with wallets(store_database_url, max_rows_in_memory=50) as app:
            app.store.import_history(history(10, 3, 700), partition_keys=owners_of(10, 3))
            app.view_schema.online()
        assert actual_rows(connection, "_1") == expected_rows(connection)

    def test_aggregates_without_a_key_are_partitions_of_their_own(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with wallets(store_database_url, WalletsWithoutJournal) as app:
            for number in range(30):
                wallet = uuid4()
                owner = f"owner {number}"
                app.store.append(wallet, [WalletOpened(owner=owner), Deposited(owner=owner, cents=number)])
            migrate(app)
        tables = ("wallet_records", "statement_records", "count_records")
        assert actual_rows(connection, "", tables) == expected_rows(connection, tables)


APPEND = """
import sys
sys.path[:0] = {path!r}
from uuid import UUID
from wallets import Wallets2, WalletsServing, deposit_at_random, wallets
opened = {{UUID(wallet): owner for wallet, owner in {opened!r}.items()}}
with wallets({url!r}, WalletsServing) as app:
    deposit_at_random(app, opened, {count}, seed={seed})
"""


@contextmanager
def writing(
    url: str, opened: dict[UUID, str], *, count: int, processes: int = 2
) -> Iterator[Callable[[], bool]]:
    """Append in processes of their own, which serve versions 1 and 2; yields whether they are still at it, and waits for them in the end."""
    scripts = [
        textwrap.dedent(APPEND).format(
            path=[str(Path(__file__).parent)],
            url=url,
            opened={str(wallet): owner for wallet, owner in opened.items()},
            count=count,
            seed=seed,
        )
        for seed in range(processes)
    ]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE))
            for script in scripts
        ]
        try:
            yield lambda: any(writer.poll() is None for writer in writers)
            errors = [writer.communicate(timeout=120)[1] for writer in writers]
        finally:
            for writer in writers:
                writer.kill()
        assert [writer.returncode for writer in writers] == [0] * processes, b"".join(errors).decode()


class TestLive:
    def test_processes_that_append_to_the_same_partitions_leave_what_a_fold_by_position_gives(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        migrate(app)
        opened = open_wallets(app, ["ann", "bob"], each=2)
        with writing(store_database_url, opened, count=25):
            pass
        assert actual_rows(connection) == expected_rows(connection)

    def test_several_aggregates_in_one_transaction_are_projected_as_they_were_appended(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        migrate(app)
        first, second = sorted(open_wallets(app, ["ann"], each=2))
        with app.engine.begin() as transaction:
            for wallet, cents in ((second, 1), (first, 2), (second, 3)):
                app.store.append(wallet, [Deposited(owner="ann", cents=cents)], connection=transaction)
        statement = connection.execute(
            "SELECT cents, total FROM view_schema.statement_records ORDER BY number"
        )
        assert statement.fetchall() == [(1, 1), (2, 3), (3, 6)]
        assert actual_rows(connection) == expected_rows(connection)


class TestUnderWriters:
    def test_online_and_offline_under_writers_lose_no_order(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        opened = open_wallets(app, ["ann", "bob", "eve"], each=3)
        deposit_at_random(app, opened, 20, seed=10)
        migrate(app)
        with wallets(store_database_url, Wallets2) as newer:
            with writing(store_database_url, opened, count=30) as is_writing:
                newer.view_schema.online()
                while is_writing():
                    newer.view_schema.online()
            deposit_at_random(app, opened, 5, seed=11)
            newer.view_schema.offline()
            expected = expected_rows(connection)
            assert actual_rows(connection) == expected
            assert actual_rows(connection, "_1") == expected, "what was live until now"
            deposit_at_random(newer, opened, 5, seed=12)
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_first_migration_under_writers_that_were_not_in_line_before(
        self, store_database_url: str, connection: psycopg.Connection[Any], app: Sequent
    ) -> None:
        opened = open_wallets(app, ["ann", "bob"], each=3)
        with writing(store_database_url, opened, count=30) as is_writing:
            wait_until(lambda: app.store.load_range(after_position=6, limit=1))
            app.view_schema.online()
            while is_writing():
                app.view_schema.online()
        app.view_schema.online()
        assert actual_rows(connection, "_1") == expected_rows(connection)


class TestWithoutMaintenance:
    def test_golive_and_rollback_under_writers_lose_no_order(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        opened = open_wallets(app, ["ann", "bob"], each=3)
        migrate(app)
        with wallets(store_database_url, Wallets2) as newer:
            newer.view_schema.online()
            with writing(store_database_url, opened, count=40):
                newer.view_schema.golive(max_delta_events=1_000, max_lag_seconds=10)
                known = set(expected_rows(connection)["journal_records"])
                assert set(actual_rows(connection, "_1")["journal_records"]) <= known
                app.view_schema.rollback(max_delta_events=1_000, max_lag_seconds=10)
                assert is_serial(connection)
        assert actual_rows(connection) == expected_rows(connection)

    def test_rollback_to_a_version_that_needs_appends_in_line_brings_them_into_line_first(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        opened = open_wallets(app, ["ann", "bob"], each=2)
        migrate(app)
        with wallets(store_database_url, WalletsWithoutJournal2) as without:
            migrate(without)
            assert not is_serial(connection)
            deposit_at_random(without, opened, 10, seed=1)
            app.view_schema.rollback()
            assert is_serial(connection)
            assert actual_rows(connection) == expected_rows(connection)
            without.view_schema.rollback()
        assert not is_serial(connection)


class TestSerialAppends:
    def test_are_in_force_from_online_until_no_version_needs_them(
        self, store_database_url: str, connection: psycopg.Connection[Any], app: Sequent
    ) -> None:
        open_wallets(app, ["ann"])
        with wallets(store_database_url, WalletsWithoutJournal) as without:
            without.view_schema.online()
            assert not is_serial(connection)
            without.view_schema.abort()
        app.view_schema.online()
        assert is_serial(connection)
        app.view_schema.abort()
        assert not is_serial(connection)
        migrate(app)
        assert is_serial(connection)
        with wallets(store_database_url, WalletsWithoutJournal2) as without:
            without.view_schema.online()
            without.view_schema.abort()
            assert is_serial(connection), "the live version needs them"
            migrate(without)
        assert not is_serial(connection)

    def test_the_first_snapshot_waits_for_every_append_that_could_be_out_of_line(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        """One was inserting when the setting came; another one, in line, has a lower position than its last and commits after it."""
        late = UUID(int=5)
        both = [WalletOpened(owner="ann"), Deposited(owner="ann", cents=1)]
        with (
            closing(psycopg.connect(store_database_url)) as holder,
            closing(psycopg.connect(store_database_url)) as in_line,
        ):
            app.store.append(late, [WalletOpened(owner="nobody")], 0, connection=holder)
            # Its first row has a position and waits for the same number of the same aggregate; its second row has none yet.
            out_of_line = threading.Thread(target=lambda: app.store.append(late, both, 0))
            out_of_line.start()
            wait_until(lambda: waits_for_a_lock(connection, 1))
            online = threading.Thread(target=app.view_schema.online)
            online.start()
            wait_until(lambda: is_serial(connection))
            app.store.append(uuid4(), [WalletOpened(owner="bob")], 0, connection=in_line)
            holder.rollback()
            out_of_line.join()
            assert app.store.load(late) == both
            online.join(0.5)
            is_waiting = online.is_alive()
            in_line.commit()
            online.join()
        assert is_waiting, "a snapshot then would have had the last position and not the one before"
        assert app.store.load_range() == [both[0], WalletOpened(owner="bob"), both[1]]
        app.view_schema.online()
        assert actual_rows(connection, "_1") == expected_rows(connection)

    def test_a_writer_that_does_not_end_is_named(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        with (
            wallets(store_database_url, drain_timeout_seconds=0.2) as impatient,
            closing(psycopg.connect(store_database_url, application_name="slow writer")) as slow,
        ):
            app.store.append(uuid4(), [WalletOpened(owner="ann")], connection=slow)
            with pytest.raises(DrainTimeout, match="slow writer"):
                impatient.view_schema.online()
            slow.commit()
            impatient.view_schema.online()
        assert actual_rows(connection, "_1") == expected_rows(connection)


def waits_for_a_lock(connection: psycopg.Connection[Any], count: int) -> bool:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    return row == (count,)


class TestKills:
    def test_a_coordinator_killed_while_a_group_of_any_ordering_is_replayed(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        app.store.import_history(history(20, 3, 2_000), partition_keys=owners_of(20, 3))
        script = (
            f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}\n"
            "from wallets import wallets\n"
            f"with wallets({store_database_url!r}, group_target_events={GROUP_EVENTS}) as app:\n"
            "    app.view_schema.online()\n"
        )
        for done in (1, 20):
            kill_when(done, connection, script)
        # Its sessions end when the server notices; a coordinator that is gone holds no lock any more.
        wait_until(lambda: workers(connection) == 0)
        app.view_schema.online()
        assert actual_rows(connection, "_1") == expected_rows(connection)


def kill_when(done: int, connection: psycopg.Connection[Any], script: str) -> None:
    """Run a script and kill it once so many groups are done."""
    coordinator = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    wait_until(lambda: groups_done(connection) >= done or coordinator.poll() is not None)
    coordinator.kill()
    coordinator.wait()


def groups_done(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM sequent_schema.replay_groups WHERE done_at IS NOT NULL"
    ).fetchone()
    assert row is not None
    return int(row[0])


def workers(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'sequent %'"
    ).fetchone()
    assert row is not None
    return int(row[0])


class TestSharedRows:
    def test_orderings_are_checked_once_before_a_process_helps_its_workers(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 1)
        monkeypatch.setattr("sequent_py.replay.replayer.HELPED_TIMES", 1_000_000)
        app.store.import_history(history(10, 2, 700), partition_keys=owners_of(10, 2))
        unfinished: list[bool] = []

        def noted(*arguments: Any, **options: Any) -> OrderingCheck:
            row = connection.execute(
                "SELECT count(*) FROM sequent_schema.view_tables WHERE indexed_at IS NULL AND role = 'shadow'"
            ).fetchone()
            assert row is not None
            unfinished.append(row[0] > 0)
            return check_orderings(*arguments, **options)

        monkeypatch.setattr("sequent_py.view_schema.building.online.check_orderings", noted)
        app.view_schema.online(workers=2)
        assert unfinished == [True]
        assert actual_rows(connection, "_1") == expected_rows(connection)

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_orderings_are_checked_once_while_the_server_builds_indexes(
        self, app: Sequent, connection: psycopg.Connection[Any], workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 1)
        monkeypatch.setattr("sequent_py.replay.replayer.HELPED_TIMES", 0)
        app.store.import_history(history(10, 2, 700), partition_keys=owners_of(10, 2))
        has_begun, were_beside, unfinished = threading.Event(), list[bool](), list[int]()
        connect_builder = Context.connect_builder

        def connected_later(context: Context) -> Any:
            were_beside.append(has_begun.wait(timeout=60))
            return connect_builder(context)

        def noted(*arguments: Any, **options: Any) -> OrderingCheck:
            has_begun.set()
            row = connection.execute(
                "SELECT count(*) FROM sequent_schema.replay_groups WHERE done_at IS NULL"
            ).fetchone()
            assert row is not None
            unfinished.append(row[0])
            return check_orderings(*arguments, **options)

        monkeypatch.setattr(Context, "connect_builder", connected_later)
        monkeypatch.setattr("sequent_py.view_schema.building.online.check_orderings", noted)
        app.view_schema.online(workers=workers)
        assert unfinished == [0]
        assert were_beside
        assert all(were_beside)
        assert actual_rows(connection, "_1") == expected_rows(connection)

    @pytest.mark.parametrize("helped_times", [0, 1_000_000])
    def test_a_shared_row_that_is_found_while_others_are_at_work_is_reported_in_the_end(
        self,
        store_database_url: str,
        connection: psycopg.Connection[Any],
        helped_times: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 1)
        monkeypatch.setattr("sequent_py.replay.replayer.HELPED_TIMES", helped_times)
        with wallets(store_database_url, WalletsCareless) as careless:
            deposit_at_random(careless, open_wallets(careless, ["ann"], each=2), 10, seed=1)
            with pytest.raises(OrderingViolated):
                careless.view_schema.online(workers=2)
            assert careless.view_schema.status().state == "online_running"
            # What was being built is finished, and nobody is left at it.
            built = connection.execute(
                "SELECT DISTINCT indexed_at IS NOT NULL FROM sequent_schema.view_tables WHERE role = 'shadow'"
            ).fetchall()
            assert built == [(True,)]
            left = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'sequent indexing %'"
            ).fetchone()
            assert left == (0,)

    @pytest.mark.parametrize("command", ["dry_run", "online"])
    def test_a_row_written_from_several_aggregates_is_reported_with_all_names(
        self, store_database_url: str, command: str
    ) -> None:
        with wallets(store_database_url, WalletsCareless) as careless:
            opened = open_wallets(careless, ["ann"], each=2)
            deposit_at_random(careless, opened, 10, seed=1)
            with pytest.raises(OrderingViolated) as caught:
                getattr(careless.view_schema, command)()
            message = str(caught.value)
            for part in ("CarelessWalletProjector", "StatementRecord", "owner=ann", *map(str, opened)):
                assert part in message
            assert 'Declare ordering = "partition"' in message
            if command == "online":
                assert careless.view_schema.status().state == "online_running"
                with pytest.raises(InvalidTransition):
                    careless.view_schema.offline()

    def test_another_ordering_means_to_begin_anew(
        self, store_database_url: str, connection: psycopg.Connection[Any], app: Sequent
    ) -> None:
        with wallets(store_database_url, WalletsCareless) as careless:
            open_wallets(careless, ["ann"], each=2)
            with pytest.raises(OrderingViolated):
                careless.view_schema.online()
        with wallets(store_database_url, WalletsWithoutJournal) as mended:
            with pytest.raises(PlanChanged):
                mended.view_schema.online()
            mended.view_schema.abort()
            migrate(mended)

    def test_a_row_written_from_several_partitions_is_reported_with_their_keys(
        self, store_database_url: str
    ) -> None:
        with wallets(store_database_url, WalletsNarrow) as narrow:
            open_wallets(narrow, ["ann", "bob"], each=1)
            with pytest.raises(OrderingViolated) as caught:
                narrow.view_schema.online()
            for part in ("NarrowJournalProjector", "partition 'ann'", "partition 'bob'", '"global"'):
                assert part in str(caught.value)

    def test_a_declared_ordering_is_not_reported(self, app: Sequent) -> None:
        opened = open_wallets(app, ["ann", "bob"], each=2)
        deposit_at_random(app, opened, 10, seed=1)
        app.view_schema.dry_run()
        migrate(app)


class TestVerification:
    def test_a_wrong_row_of_a_partition_is_found(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        deposit_at_random(app, open_wallets(app, ["ann", "bob"], each=2), 10, seed=1)
        app.view_schema.online()
        connection.execute("UPDATE view_schema.statement_records_1 SET total = total + 1 WHERE number = 2")
        with pytest.raises(VerificationFailed, match="statement_records"):
            app.view_schema.offline()

    def test_a_wrong_row_of_a_global_projector_is_found(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        deposit_at_random(app, open_wallets(app, ["ann", "bob"], each=2), 10, seed=1)
        app.view_schema.online()
        connection.execute("UPDATE view_schema.journal_records_1 SET total = total + 1 WHERE number = 2")
        with pytest.raises(VerificationFailed, match="journal_records"):
            app.view_schema.offline()

    def test_what_is_too_long_for_a_sample_is_named(
        self, app: Sequent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "sequent_py.view_schema.going_live.promotion.Promotion.verify.__kwdefaults__",
            {"most_events": 100},
        )
        app.store.import_history(history(40, 2, 400), partition_keys=owners_of(40, 2))
        app.view_schema.online()
        assert any("journal_records was not compared" in line for line in app.view_schema.offline().warnings)
