"""Which tables come, go and change hands when a version is to serve again; and which code can't have it so."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Event, Migrations, Projector, Record, on
from sequent_py.errors import InvalidTransition
from sequent_py.view_schema.bookkeeping.generations import generations
from sequent_py.view_schema.bookkeeping.relations import TableRole, ViewTable
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.migrations import definition
from sequent_py.view_schema.plans import AlterStep, Plan, ReplayStep
from sequent_py.view_schema.rollback_plan import RollbackPlan, decide
from sequent_py.view_schema.states import MigrationState

S, R = MigrationState, TableRole
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Happened(Event):
    pass


class A(Record):
    __tablename__ = "a"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)


class B(Record):
    __tablename__ = "b"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)


def projector(name: str, *records: type[Record]) -> type[Projector]:
    def happened(self: Projector, event: Happened) -> None:
        raise NotImplementedError

    handler = on(Happened)(happened)
    return type(name, (Projector,), {"manages_tables": records, "happened": handler})


ON_A, ON_B, ON_BOTH = projector("OnA", A), projector("OnB", B), projector("OnBoth", A, B)


def code(version: int, *projectors: type[Projector]) -> type[Migrations]:
    return type(f"V{version}", (Migrations,), {"version": version, "versions": {1: list(projectors)}})


def migration(
    number: int, from_version: int, target: int, plan: Plan | None = None, state: MigrationState = S.LIVE
) -> ViewMigration:
    document = (plan or Plan(from_version, target)).to_json()
    return ViewMigration(
        id=number,
        from_version=from_version,
        target_version=target,
        state=state,
        plan_document=document,
        files_fingerprint="",
        epoch=1,
        error=None,
        started_at=NOW,
        online_done_at=NOW,
        finished_at=NOW if state.is_finished else None,
        rolled_back_at=NOW if state is S.ROLLED_BACK else None,
        stall_milliseconds=None,
        promoted_snapshot="10:10:",
        return_pass=None,
        quarantine_limit=None,
    )


def table(
    name: str,
    built: int,
    *,
    physical: str | None = None,
    retired_by: int | None = None,
    unmanaged_since: int | None = None,
) -> ViewTable:
    return ViewTable(
        physical_name=physical or name,
        table_name=name,
        role=R.LIVE if retired_by is None else R.RETIRED,
        version=built,
        built_version=built,
        altered_version=None,
        unmanaged_since=unmanaged_since,
        migration_id=1,
        retired_by=retired_by,
        names={},
        rows=None,
        created_at=NOW,
        indexed_at=NOW,
        promoted_at=NOW,
        retired_at=NOW if retired_by is not None else None,
    )


def step(name: str, target: int, retired: int | None) -> ReplayStep:
    return ReplayStep(name, f"{name}_{target}", None if retired is None else f"{name}_{retired}", (), (), "")


def decided(
    migrations: type[Migrations], live_version: int, history: list[ViewMigration], tables: list[ViewTable]
) -> RollbackPlan:
    plan = decide(definition(migrations), live_version=live_version, history=history, tables=tables)
    assert plan is not None
    return plan


FIRST = migration(1, 0, 1, Plan(0, 1, replays=(step("a", 1, None), step("b", 1, None))))
ONE_TO_TWO = Plan(1, 2, replays=(step("a", 2, 1),), orphaned=("b",))


def test_a_retired_table_and_an_orphaned_one_are_brought_up_to_date() -> None:
    plan = decided(
        code(1, ON_A, ON_B),
        2,
        [migration(2, 1, 2, ONE_TO_TWO), FIRST],
        [table("a", 2), table("a", 1, physical="a_1", retired_by=2), table("b", 1, unmanaged_since=2)],
    )
    assert (plan.from_version, plan.target_version, plan.is_forth) == (2, 1, False)
    assert [(item.table_name, item.shadow_name) for item in plan.replay.replays] == [("a", "a_1"), ("b", "b")]
    assert [item.table_name for item in plan.swap.replays] == ["a"]
    assert plan.exchange.leaving == {"a": "a_2"}
    assert plan.exchange.managed == ("b",)
    assert plan.introduced == {}


def test_a_projector_of_a_returning_and_an_orphaned_table_takes_part_once() -> None:
    plan = decided(
        code(1, ON_BOTH),
        2,
        [migration(2, 1, 2, ONE_TO_TWO), FIRST],
        [table("a", 2), table("a", 1, physical="a_1", retired_by=2), table("b", 1, unmanaged_since=2)],
    )
    assert plan.replay.projectors == ("OnBoth",)


def test_a_projector_that_would_write_a_table_that_was_kept_up_to_date_is_refused() -> None:
    """The newer version has split the projector, and rebuilt one half."""
    history = [migration(2, 1, 2, Plan(1, 2, replays=(step("a", 2, 1),))), FIRST]
    tables = [table("a", 2), table("a", 1, physical="a_1", retired_by=2), table("b", 1)]
    with pytest.raises(InvalidTransition, match=r"OnBoth of version 1 manages a, .* and b, which version 2"):
        decided(code(1, ON_BOTH), 2, history, tables)


def test_forth_again_the_orphaned_table_is_orphaned_again() -> None:
    plan = decided(
        code(2, ON_A),
        1,
        [migration(2, 1, 2, ONE_TO_TWO, S.ROLLED_BACK), FIRST],
        [table("a", 1), table("a", 2, physical="a_2", retired_by=2), table("b", 1)],
    )
    assert plan.is_forth
    assert plan.to_state is S.LIVE
    assert plan.exchange.unmanaged == ("b",)
    assert [item.shadow_name for item in plan.replay.replays] == ["a_2"]


def test_a_table_that_was_stale_when_it_retired_comes_back_stale() -> None:
    """``b`` was orphaned at 2 and rebuilt at 3; code 2 has no projector for it and gets the stale one back."""
    plan = decided(
        code(2, ON_A),
        3,
        [migration(3, 2, 3, Plan(2, 3, replays=(step("b", 3, 2),))), migration(2, 1, 2, ONE_TO_TWO), FIRST],
        [table("a", 2), table("b", 3), table("b", 1, physical="b_2", retired_by=3, unmanaged_since=2)],
    )
    assert plan.exchange.returning == {"b": "b_2"}
    assert plan.replay.replays == ()
    assert plan.exchange.managed == ()


def test_the_newest_live_migration_counts_whatever_was_aborted_or_rolled_back_since() -> None:
    history = [
        migration(4, 2, 3, state=S.ABORTED),
        migration(3, 2, 3, state=S.ROLLED_BACK),
        migration(2, 1, 2, ONE_TO_TWO),
        FIRST,
    ]
    tables = [table("a", 2), table("a", 1, physical="a_1", retired_by=2), table("b", 1, unmanaged_since=2)]
    assert decided(code(1, ON_A, ON_B), 2, history, tables).migration.id == 2


def test_of_several_that_were_rolled_back_the_newest_goes_forth() -> None:
    number = Plan(1, 2)
    history = [
        migration(3, 1, 2, number, S.ROLLED_BACK),
        migration(2, 1, 2, ONE_TO_TWO, S.ROLLED_BACK),
        FIRST,
    ]
    plan = decided(
        code(2, ON_A),
        1,
        history,
        [table("a", 1), table("b", 1), table("a", 2, physical="a_2", retired_by=2)],
    )
    assert plan.migration.id == 3
    assert plan.exchange.returning == {}


def test_alters_in_place_are_named() -> None:
    altered = Plan(1, 2, alters=(AlterStep("a", 2, "a_2.sql", ""),))
    with pytest.raises(InvalidTransition, match=r"a by a_2\.sql"):
        decided(code(1, ON_A), 2, [migration(2, 1, 2, altered), FIRST], [table("a", 1)])


def test_an_orphaned_table_that_was_pruned_is_named() -> None:
    with pytest.raises(InvalidTransition, match="b of version 1 is no longer recorded"):
        decided(
            code(1, ON_A, ON_B),
            2,
            [migration(2, 1, 2, ONE_TO_TWO), FIRST],
            [table("a", 2), table("a", 1, physical="a_1", retired_by=2)],
        )


def test_no_way_leads_through_an_alteration_in_place_or_from_behind_one() -> None:
    altered = Plan(2, 3, replays=(step("a", 3, 2),), alters=(AlterStep("b", 3, "b_3.sql", ""),))
    three_to_four = Plan(3, 4, replays=(step("a", 4, 3),))
    history = [
        migration(4, 3, 4, three_to_four),
        migration(3, 2, 3, altered),
        migration(2, 1, 2, Plan(1, 2, replays=(step("a", 2, 1),))),
        FIRST,
    ]
    tables = [
        table("a", 4),
        table("a", 3, physical="a_3", retired_by=4),
        table("a", 2, physical="a_2", retired_by=3),
        table("a", 1, physical="a_1", retired_by=2),
    ]
    found = generations(history, tables)
    nothing = "nothing: version 3 altered b in place, which cannot be undone"
    assert {item.version: item.way for item in found} == {
        3: "from version 4 back to 3",
        2: nothing,
        1: nothing,
    }
    rolled_back = [migration(4, 3, 4, three_to_four, S.ROLLED_BACK), *history[1:]]
    tables[:2] = [table("a", 3), table("a", 4, physical="a_4", retired_by=4)]
    found = generations(rolled_back, tables)
    assert {item.version: item.way for item in found} == {
        4: "from version 3 forth to 4",
        2: nothing,
        1: nothing,
    }


def test_generations_are_ordered_by_what_can_still_be_done_with_them() -> None:
    rebuilt = Plan(2, 3, replays=(step("a", 3, 2), step("b", 3, None)))
    history = [migration(3, 2, 3, rebuilt), migration(2, 1, 2, ONE_TO_TWO), FIRST]
    tables = [
        table("a", 3),
        table("a", 2, physical="a_2", retired_by=3),
        table("b", 1, unmanaged_since=2),
    ]
    found = generations(history, tables)
    assert [(item.version, item.names, item.leads_from) for item in found] == [
        (2, ("a_2",), 3),
        (1, ("b",), None),
    ]
