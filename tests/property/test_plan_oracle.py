"""Plans of random declarations against an oracle that knows only sets, and what carrying them out leads to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.errors import DefinitionError
from sequent_py.events import Event
from sequent_py.projectors import Projector, on
from sequent_py.records import Record
from sequent_py.view_schema.migrations import AlterTable, Migrations, alter_table, definition
from sequent_py.view_schema.planner import LiveTable, Plan, plan


class OracleRecord(Record):
    """Keeps these tables apart from those of other test modules."""

    __abstract__ = True
    metadata = MetaData()


class A(OracleRecord):
    __tablename__ = "a"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class B(OracleRecord):
    __tablename__ = "b"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class C(OracleRecord):
    __tablename__ = "c"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class Happened(Event):
    """The one event; which types are read is not what is tested here."""


class Base(Projector):
    @on(Happened)
    def happened(self, event: Happened) -> None: ...


class OnA(Base):
    manages_tables = (A,)


class OnB(Base):
    manages_tables = (B,)


class OnAToo(Base):
    manages_tables = (A,)


class OnBAndC(Base):
    manages_tables = (B, C)


class OnC(Base):
    manages_tables = (C,)


TABLES: dict[type[Projector], set[str]] = {
    OnA: {"a"},
    OnB: {"b"},
    OnAToo: {"a"},
    OnBAndC: {"b", "c"},
    OnC: {"c"},
}
ALTERS = {alter_table(record): record.__tablename__ for record in (A, B, C)}
Versions = Mapping[int, list[Any]]

entries = st.lists(st.sampled_from([*TABLES, *ALTERS]), max_size=4)
declarations = st.dictionaries(st.integers(1, 12), entries, min_size=1, max_size=5)
files = st.one_of(
    st.just({(name, version) for name in "abc" for version in range(13)}),
    st.sets(st.tuples(st.sampled_from("abc"), st.integers(1, 12))),
)


@st.composite
def spellings(draw: st.DrawFn, versions: Versions) -> dict[int | str, Any]:
    """The same declaration with its keys shuffled and each an integer or digits, its lists perhaps tuples."""
    spelled: dict[int | str, Any] = {}
    for key in draw(st.permutations(sorted(versions))):
        spellings_of_key: list[int | str] = [key, str(key), f"0{key}"]
        spelled[draw(st.sampled_from(spellings_of_key))] = draw(st.sampled_from([list, tuple]))(versions[key])
    return spelled


@st.composite
def live_tables(draw: st.DrawFn) -> dict[str, LiveTable]:
    chosen = draw(
        st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 12), st.none() | st.integers(1, 12)))
    )
    return {name: LiveTable(name, *versions) for name, versions in chosen.items()}


def made(
    versions: Mapping[Any, Any],
    version: int,
    current: int,
    live: Mapping[str, LiveTable],
    files: set[tuple[str, int]],
) -> Plan:
    migrations = type("RandomMigrations", (Migrations,), {"version": version, "versions": versions})
    return plan(definition(migrations), current_version=current, live=live, available_alter_files=files)


@dataclass(frozen=True)
class Expected:
    """What the oracle says, in sets: no order, no names, no reasons."""

    replayed: set[str]
    alters: list[tuple[int, str]]
    projectors: set[str]


def oracle(
    versions: Versions, target: int, current: int, live: Mapping[str, LiveTable], files: set[tuple[str, int]]
) -> Expected | None:
    """Decide naively; None is a refusal."""
    pairs = [(version, entry) for version, listed in versions.items() for entry in listed]
    registered = {entry for _, entry in pairs if entry in TABLES}
    listed = {entry for version, entry in pairs if version > current and entry in TABLES}
    replayed = set().union(*(TABLES[projector] for projector in listed))
    alters = {
        (version, ALTERS[entry])
        for version, entry in pairs
        if version > current and entry in ALTERS and ALTERS[entry] not in replayed
    }
    kept = {name: table for name, table in live.items() if name not in replayed}
    refused = (
        any((name, version) not in files for version, name in alters)
        or any(TABLES[projector] & replayed for projector in registered - listed)
        or any(TABLES[projector] - replayed - set(live) for projector in registered)
        or any(
            name in kept and version > kept[name].built_version
            for version, entry in pairs
            if version <= current and entry in TABLES
            for name in TABLES[entry]
        )
        or any(
            ALTERS[entry] in kept
            and version > max(kept[ALTERS[entry]].built_version, kept[ALTERS[entry]].altered_version or 0)
            for version, entry in pairs
            if version <= current and entry in ALTERS
        )
        or (target > current and not replayed and not alters and target not in versions)
    )
    return (
        None if refused else Expected(replayed, sorted(alters), {projector.__name__ for projector in listed})
    )


@given(
    data=st.data(),
    versions=declarations,
    current=st.integers(0, 12),
    beyond=st.integers(0, 2),
    live=live_tables(),
    files=files,
)
def test_a_plan_is_what_sets_say(
    data: st.DataObject,
    versions: Versions,
    current: int,
    beyond: int,
    live: dict[str, LiveTable],
    files: set[tuple[str, int]],
) -> None:
    target = max(versions) + beyond
    assume(current <= target)
    expected = oracle(versions, target, current, live, files)
    try:
        found = made(data.draw(spellings(versions)), target, current, live, files)
    except DefinitionError:
        assert expected is None
        return
    assert expected is not None
    assert {step.table_name for step in found.replays} == expected.replayed
    assert len(found.replays) == len(expected.replayed)
    assert sorted((step.version, step.table_name) for step in found.alters) == expected.alters
    assert [step.version for step in found.alters] == sorted(step.version for step in found.alters)
    assert set(found.projectors) == expected.projectors
    assert {step.shadow_name for step in found.replays} == {f"{name}_{target}" for name in expected.replayed}
    assert set(found.retired_names) == {f"{name}_{current}" for name in expected.replayed & set(live)}
    assert found.is_noop == (target == current)
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(data=st.data(), versions=declarations, live=live_tables(), files=files)
def test_spelling_does_not_matter(
    data: st.DataObject, versions: Versions, live: dict[str, LiveTable], files: set[tuple[str, int]]
) -> None:
    def result(spelled: Mapping[Any, Any]) -> object:
        try:
            return made(spelled, max(versions), 0, live, files).to_json()
        except DefinitionError as error:
            return str(error)

    assert result(data.draw(spellings(versions))) == result(versions)


def carried_out(found: Plan, live: Mapping[str, LiveTable]) -> dict[str, LiveTable]:
    """The live tables after the plan's migration."""
    after = dict(live)
    for alter in found.alters:
        if alter.table_name in after:
            after[alter.table_name] = LiveTable(
                alter.table_name, after[alter.table_name].built_version, alter.version
            )
    for step in found.replays:
        after[step.table_name] = LiveTable(step.table_name, found.target_version)
    return after


@given(versions=declarations, stops=st.sets(st.integers(1, 12)))
def test_however_an_application_gets_there_its_last_plan_leaves_nothing_to_do(
    versions: Versions, stops: set[int]
) -> None:
    """Deployed at every declared version or only at some, as long as no plan on the way was refused."""
    everything = {(name, version) for name in "abc" for version in range(13)}
    live: dict[str, LiveTable] = {}
    current = 0
    for target in sorted({*(stop for stop in stops if stop in versions), max(versions)}):
        so_far = {version: listed for version, listed in versions.items() if version <= target}
        try:
            found = made(so_far, target, current, live, everything)
        except DefinitionError:
            return
        live, current = carried_out(found, live), target
        registered = {
            entry for listed in so_far.values() for entry in listed if not isinstance(entry, AlterTable)
        }
        assert set().union(*(TABLES[projector] for projector in registered)) <= set(live)
        again = made(so_far, target, current, live, set())
        assert again.is_noop
        assert again.is_empty
