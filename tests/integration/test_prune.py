"""Dropping what swaps have left behind: by recorded name, and never what the way back that is kept needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from rollback_shop import Deployments, deployed_at, deployments

from sequent_py.doctor import examine
from sequent_py.errors import (
    ConcurrentMigration,
    ConfigurationError,
    DependentObjects,
    InvalidTransition,
    MigrationError,
)

SERVING = {"order_records", "line_records", "cancellation_records"}
"""Of version 3 and 4."""
pytestmark = pytest.mark.store(made_by=deployed_at(3, 8))


@pytest.fixture
def deployed(store_database_url: str, tmp_path: Path) -> Iterator[Deployments]:
    with deployments(store_database_url, tmp_path) as deployed:
        assert deployed.tables() == {*SERVING, "order_records_1", "order_records_2", "line_records_2"}
        yield deployed


def test_the_newest_generation_is_kept_unless_said_otherwise(deployed: Deployments) -> None:
    report = deployed[3].view_schema.prune()
    assert report.dropped_tables == ("order_records_1",)
    assert report.ended_ways == ("from version 2 back to 1",)
    assert [item.way for item in report.kept] == ["from version 3 back to 2"]
    assert report.freed_bytes > 0
    deployed.check(3)
    assert deployed[3].view_schema.prune().dropped_tables == ()
    deployed[2].view_schema.rollback()
    deployed.check(2)
    with pytest.raises(InvalidTransition, match=r"order_records of version 1 .* pruned"):
        deployed[1].view_schema.rollback()
    status = deployed[1].view_schema.status()
    assert status.next_commands == ()
    assert "pruned" in str(status.rollback)


def test_the_setting_says_how_many(store_database_url: str, tmp_path: Path) -> None:
    with deployments(store_database_url, tmp_path, retired_versions_to_keep=2) as deployed:
        assert deployed[3].view_schema.prune().dropped_tables == ()
        assert deployed[3].view_schema.prune(keep=0).dropped_tables == (
            "line_records_2",
            "order_records_1",
            "order_records_2",
        )
        assert deployed.tables() == SERVING
        deployed.check(3)


def test_one_version_can_be_named(deployed: Deployments) -> None:
    assert deployed[3].view_schema.prune(version=2).dropped_tables == ("line_records_2", "order_records_2")
    assert deployed.tables() == {*SERVING, "order_records_1"}
    assert deployed[3].view_schema.prune(version=7).dropped_tables == ()
    with pytest.raises(ConfigurationError, match="exclude"):
        deployed[3].view_schema.prune(version=1, keep=1)


def test_after_a_rollback_the_way_forth_is_the_newest(deployed: Deployments) -> None:
    deployed[2].view_schema.rollback()
    report = deployed[2].view_schema.prune()
    assert [item.way for item in report.kept] == ["from version 2 forth to 3"]
    assert [item.way for item in deployed[2].view_schema.status().generations] == [
        "from version 2 forth to 3",
        "nothing: the rest of it is gone",
    ]
    deployed[3].view_schema.rollback()
    deployed.check(3)


def test_a_dry_run_says_the_same_and_drops_nothing(deployed: Deployments) -> None:
    before = deployed.tables()
    dry = deployed[3].view_schema.prune(keep=0, dry_run=True)
    assert deployed.tables() == before
    real = deployed[3].view_schema.prune(keep=0)
    assert dry.is_dry_run
    assert not real.is_dry_run
    assert (dry.dropped_tables, dry.ended_ways, dry.kept) == (
        real.dropped_tables,
        real.ended_ways,
        real.kept,
    )


class TestOrphaned:
    def test_they_go_with_their_generation_and_only_when_asked_for(self, deployed: Deployments) -> None:
        deployed.migrate(4)
        assert "cancellation_records" not in deployed[4].view_schema.prune().dropped_tables
        kept = deployed[4].view_schema.prune(orphaned=True)
        assert kept.dropped_tables == (), "the newest generation is kept, orphaned tables and all"
        report = deployed[4].view_schema.prune(keep=0, orphaned=True)
        assert report.dropped_tables == ("cancellation_records",)
        assert report.ended_ways == ("from version 4 back to 3",)
        assert deployed.tables() == {"order_records", "line_records"}
        deployed.check(4)
        with pytest.raises(InvalidTransition, match=r"cancellation_records of version 3 .* pruned"):
            deployed[3].view_schema.rollback()

    def test_doctor_says_what_drops_them_and_what_ends_with_that(self, deployed: Deployments) -> None:
        deployed.migrate(4)
        [finding] = [it for it in examine(deployed[4]).findings if it.subject == "orphaned tables"]
        assert finding.remedy == (
            "When nobody reads cancellation_records any more: sequent migrate prune --orphaned --version 3;"
            " that ends the way from version 4 back to 3, which managed it."
        )
        report = deployed[4].view_schema.prune(orphaned=True, version=3)
        assert report.dropped_tables == ("cancellation_records",)
        assert report.ended_ways == ("from version 4 back to 3",)
        assert "orphaned tables" not in {it.subject for it in examine(deployed[4]).findings}

    @pytest.mark.store(made_by=None)
    def test_a_generation_of_the_same_table_is_not_taken_for_it(
        self, store_database_url: str, tmp_path: Path
    ) -> None:
        """The orphaned table was built as ``line_records_1``; something else has that name by now."""
        with deployments(store_database_url, tmp_path) as deployed:
            deployed.migrate(1)
            deployed.migrate(2)
            deployed.connection.execute("CREATE TABLE view_schema.line_records_1 ()")
            report = deployed[2].view_schema.prune(keep=0, orphaned=True)
            assert report.dropped_tables == ("order_records_1", "line_records")
            assert deployed.tables() == {"order_records", "cancellation_records", "line_records_1"}

    def test_not_while_a_plan_counts_on_them(self, deployed: Deployments) -> None:
        deployed[4].view_schema.online()
        with pytest.raises(InvalidTransition, match="version 4 is unfinished"):
            deployed[4].view_schema.prune(orphaned=True)
        assert deployed[4].view_schema.prune().dropped_tables == ("order_records_1",)
        deployed[4].view_schema.offline()
        deployed.check(4)


class TestWhatGoesWrong:
    def test_what_somebody_dropped_by_hand_is_forgotten_and_said(self, deployed: Deployments) -> None:
        deployed.connection.execute("DROP TABLE view_schema.order_records_2")
        report = deployed[3].view_schema.prune(keep=0)
        assert report.forgotten_tables == ("order_records_2",)
        assert report.dropped_tables == ("line_records_2", "order_records_1")
        assert deployed[3].view_schema.status().retired_tables == ()

    def test_a_table_in_use_is_named_with_its_user_and_nothing_is_dropped(
        self, deployed: Deployments, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sequent_py.view_schema.retired.prune.LOCK_TIMEOUT_SECONDS", 0.1)
        before = deployed.tables()
        with psycopg.connect(store_database_url) as reader:
            reader.execute("SELECT FROM view_schema.order_records_2")
            with pytest.raises(MigrationError, match=str(reader.info.backend_pid)):
                deployed[3].view_schema.prune(keep=0)
        assert deployed.tables() == before
        deployed[2].view_schema.rollback()
        deployed.check(2)

    def test_what_depends_on_a_table_is_named_and_nothing_is_dropped(self, deployed: Deployments) -> None:
        before = deployed.tables()
        deployed.connection.execute("CREATE VIEW public.old AS SELECT * FROM view_schema.order_records_1")
        with pytest.raises(DependentObjects, match="old"):
            deployed[3].view_schema.prune(keep=0)
        assert deployed.tables() == before
        assert len(deployed[3].view_schema.status().retired_tables) == 3

    def test_killed_before_the_commit_it_has_done_nothing_and_can_be_repeated(
        self, deployed: Deployments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = deployed.tables()
        with monkeypatch.context() as patched:
            patched.setattr("sequent_py.view_schema.bookkeeping.relations.Relations.forget", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                deployed[3].view_schema.prune(keep=0)
        assert deployed.tables() == before
        assert len(deployed[3].view_schema.prune(keep=0).dropped_tables) == 3

    def test_not_beside_another_command(self, deployed: Deployments) -> None:
        deployed.connection.execute("SELECT pg_advisory_lock(sequent_schema.migration_key())")
        with pytest.raises(ConcurrentMigration):
            deployed[3].view_schema.prune()
        assert deployed[3].view_schema.prune(dry_run=True).dropped_tables == ("order_records_1",)

    def test_tables_of_migrations_that_are_no_longer_recorded_are_the_oldest(
        self, deployed: Deployments
    ) -> None:
        deployed.connection.execute(
            "UPDATE sequent_schema.view_tables SET unmanaged_since = 9 WHERE physical_name = 'cancellation_records'"
        )
        report = deployed[3].view_schema.prune(orphaned=True, keep=9)
        assert report.dropped_tables == ("cancellation_records",)
        assert report.ended_ways == ()
