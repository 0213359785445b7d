"""What a run will do, without a database."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequent_py.schema_migrations.errors import MissingMigrationFiles
from sequent_py.schema_migrations.files import Direction, MigrationFile
from sequent_py.schema_migrations.plans import Plan, integer_plan, timestamp_plan

HERE = Path("/migrations")


def files(*versions: int) -> tuple[MigrationFile, ...]:
    return tuple(
        MigrationFile(version, f"{version:03}_x.py", HERE / f"{version:03}_x.py") for version in versions
    )


def steps(plan: Plan) -> list[tuple[int, str, int | None]]:
    return [(step.file.version, str(step.direction), step.version_after) for step in plan.steps]


def test_up_writes_each_version_and_down_the_one_below():
    assert steps(integer_plan(files(1, 2, 3), 0)) == [(1, "up", 1), (2, "up", 2), (3, "up", 3)]
    assert steps(integer_plan(files(1, 2, 3), 3, target=1)) == [(3, "down", 2), (2, "down", 1)]


def test_with_files_missing_the_target_is_stored():
    assert steps(integer_plan(files(1, 3), 3, target=1, allow_missing=True)) == [(3, "down", 1)]
    assert steps(integer_plan(files(1, 3), 0, target=2, allow_missing=True)) == [(1, "up", 2)]
    plan = integer_plan(files(1, 3), 2, target=1, allow_missing=True)
    assert (plan.steps, plan.final_version, plan.is_empty) == ((), 1, False)
    plan = integer_plan(files(1), 3, allow_missing=True)
    assert (plan.steps, plan.target, plan.final_version, plan.is_empty) == ((), 1, 3, True)


@given(count=st.integers(1, 12), current=st.integers(0, 12), target=st.integers(-3, 15))
def test_an_integer_plan_leads_from_current_to_target(count, current, target):
    known = files(*range(1, count + 1))
    if current > count:
        with pytest.raises(MissingMigrationFiles):
            integer_plan(known, current, target=target)
        return
    plan = integer_plan(known, current, target=target)
    version = current
    for step in plan.steps:
        if step.direction is Direction.UP:
            assert step.file.version == version + 1
        else:
            assert step.file.version == version
        assert step.version_after is not None
        version = step.version_after
    assert version == plan.target == plan.final_version == min(max(target, 0), count)


@given(
    versions=st.sets(st.integers(0, 30)),
    applied=st.sets(st.integers(0, 30)),
    target=st.none() | st.integers(-3, 35),
)
def test_a_timestamp_plan_applies_exactly_what_the_target_asks_for(versions, applied, target):
    known = files(*sorted(versions))
    done = {file.name for file in known if file.version in applied}
    plan = timestamp_plan(known, {name.upper() for name in done}, target=target)
    for step in plan.steps:
        (done.add if step.direction is Direction.UP else done.remove)(step.file.name)
    wanted = {file.name for file in known if target is None or file.version <= target}
    assert done == wanted
    ups = [step.file.version for step in plan.steps if step.direction is Direction.UP]
    downs = [step.file.version for step in plan.steps if step.direction is Direction.DOWN]
    assert ups == sorted(ups)
    assert downs == sorted(downs, reverse=True)
    assert timestamp_plan(known, done, target=target).is_empty


def test_a_recorded_file_that_is_missing():
    with pytest.raises(MissingMigrationFiles, match=r"not in file system: 7_x\.py"):
        timestamp_plan(files(1), {"7_x.py"})
    assert steps(timestamp_plan(files(1), {"7_x.py"}, allow_missing=True)) == [(1, "up", None)]
