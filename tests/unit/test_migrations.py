"""A declaration is read as it was meant, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.errors import DefinitionError
from sequent_py.events import Event
from sequent_py.projectors import Projector, on
from sequent_py.records import Record
from sequent_py.view_schema.migrations import AlterTable, Migrations, alter_table, definition, tables_of


class DeclaredRecord(Record):
    """Keeps these tables apart from those of other test modules."""

    __abstract__ = True
    metadata = MetaData()


class AccountRecord(DeclaredRecord):
    __tablename__ = "account_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class StatementRecord(DeclaredRecord):
    __tablename__ = "statement_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class Opened(Event):
    owner: str


class AccountProjector(Projector):
    manages_tables = (AccountRecord,)

    @on(Opened)
    def opened(self, event: Opened) -> None: ...


class StatementProjector(Projector):
    manages_tables = (StatementRecord,)

    @on(Opened)
    def opened(self, event: Opened) -> None: ...


def declared(version: Any, versions: Any) -> type[Migrations]:
    return type("BankMigrations", (Migrations,), {"version": version, "versions": versions})


def refusal(version: Any, versions: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        definition(declared(version, versions))
    return str(caught.value)


def test_versions_are_read_in_ascending_order_with_their_entries_as_listed() -> None:
    found = definition(
        declared(3, {2: [StatementProjector, alter_table(AccountRecord)], 1: (AccountProjector,), 3: []})
    )
    assert found.name == "BankMigrations"
    assert found.version == 3
    assert list(found.versions) == [1, 2, 3]
    statement, alter = found.versions[2]
    assert not isinstance(statement, AlterTable)
    assert statement.projector is StatementProjector
    assert alter == AlterTable(AccountRecord)
    assert found.versions[3] == ()


def test_registered_projectors_and_records_are_known_by_name() -> None:
    found = definition(
        declared(
            2, {1: [StatementProjector, AccountProjector], 2: [AccountProjector, alter_table(AccountRecord)]}
        )
    )
    assert [item.name for item in found.projectors] == ["StatementProjector", "AccountProjector"]
    account = found.projector("AccountProjector")
    assert account is not None
    assert tables_of(account) == ("account_records",)
    assert found.projector("Other") is None
    assert found.records == {"statement_records": StatementRecord, "account_records": AccountRecord}
    assert [item.name for item in found.projectors_of("account_records")] == ["AccountProjector"]


@pytest.mark.parametrize("key", [1, "1", "01"])
def test_a_version_may_be_an_integer_or_its_digits(key: int | str) -> None:
    assert definition(declared(key, {key: [AccountProjector]})).version == 1
    assert list(definition(declared(1, {key: [AccountProjector]})).versions) == [1]


@pytest.mark.parametrize("key", [0, -1, True, "", "x", "1.0", " 1", "²", "١", 1.0, None, (1,)])
def test_anything_else_is_not_a_version(key: object) -> None:
    assert "must be an integer from 1" in refusal(key, {1: [AccountProjector]})
    message = refusal(1, {key: [AccountProjector]})
    assert "A key of BankMigrations.versions must be an integer from 1" in message


def test_the_same_version_twice_is_refused() -> None:
    assert "declares version 1 twice" in refusal(1, {1: [AccountProjector], "1": [StatementProjector]})


def test_a_version_above_the_declared_one_is_refused_by_name() -> None:
    message = refusal(2, {1: [AccountProjector], 3: [AccountProjector]})
    assert "declares version 3, but BankMigrations.version is 2" in message
    assert "Set BankMigrations.version = 3" in message


@pytest.mark.parametrize(
    "value",
    [AccountProjector, "AccountProjector", {AccountProjector}, None, 1, {1: 2}, alter_table(AccountRecord)],
)
def test_a_value_that_is_not_a_list_is_refused_by_version(value: object) -> None:
    assert "Version 2 of BankMigrations.versions must be a list" in refusal(
        2, {1: [AccountProjector], 2: value}
    )


@pytest.mark.parametrize(
    "entry",
    [
        AccountRecord,
        Projector.__mro__[-1],
        "AccountProjector",
        [AccountProjector],
        None,
        3,
        AlterTable,
        object.__new__(AccountProjector),
    ],
)
def test_an_entry_that_is_neither_projector_nor_alter_is_refused_alike(entry: object) -> None:
    message = refusal(1, {1: [AccountProjector, entry]})
    assert message.startswith("Version 1 of BankMigrations.versions lists ")
    assert message.endswith("which is neither a Projector class nor alter_table(...).")


@pytest.mark.parametrize("record", [Record, AccountProjector, "account_records", None, int])
def test_alter_table_takes_a_record_class(record: Any) -> None:
    with pytest.raises(DefinitionError, match=r"alter_table\(\.\.\.\) takes a Record class"):
        alter_table(record)


@pytest.mark.parametrize("versions", [{}, None, [AccountProjector], [(1, [AccountProjector])]])
def test_versions_must_be_a_dict_with_an_entry(versions: object) -> None:
    assert "BankMigrations.versions" in refusal(1, versions)


def test_both_attributes_must_be_set() -> None:
    class WithoutVersions(Migrations):
        version = 1

    class WithoutVersion(Migrations):
        versions: ClassVar[Mapping[int, Any]] = {1: [AccountProjector]}

    with pytest.raises(DefinitionError, match=r"WithoutVersions\.versions must be a dict .* not nothing"):
        definition(WithoutVersions)
    with pytest.raises(DefinitionError, match=r"WithoutVersion\.version must be an integer"):
        definition(WithoutVersion)


@pytest.mark.parametrize("migrations", [object, "BankMigrations", None])
def test_the_class_must_be_a_migrations_class(migrations: Any) -> None:
    with pytest.raises(DefinitionError, match="must be a subclass of Migrations"):
        definition(migrations)


def test_two_projectors_of_one_name_are_refused() -> None:
    other = type(
        "AccountProjector",
        (Projector,),
        {"manages_tables": (StatementRecord,), "opened": StatementProjector.opened},
    )
    message = refusal(1, {1: [AccountProjector, other]})
    assert "two projectors named AccountProjector" in message


def test_two_records_for_one_table_are_refused() -> None:
    class Elsewhere(Record):
        __abstract__ = True
        metadata = MetaData()

    class OtherRecord(Elsewhere):
        __tablename__ = "account_records"
        id: Mapped[int] = mapped_column(primary_key=True)

    message = refusal(1, {1: [AccountProjector, alter_table(OtherRecord)]})
    assert "two records for the table account_records" in message
    assert "OtherRecord" in message


def test_a_projector_without_tables_is_refused() -> None:
    class Tableless(Projector):
        @on(Opened)
        def opened(self, event: Opened) -> None: ...

    assert "Tableless" in refusal(1, {1: [Tableless]})


@pytest.mark.parametrize("ordering", ["partition", "global"])
def test_projectors_of_one_table_with_different_orderings_are_refused(ordering: str) -> None:
    ordered = type("Ordered", (AccountProjector,), {"ordering": ordering})
    message = refusal(1, {1: [AccountProjector, ordered]})
    assert (
        f"the projectors of account_records declare different orderings: AccountProjector (aggregate) and Ordered ({ordering})"
        in message
    )
    assert "the widest" in message


def test_a_table_name_that_postgresql_would_cut_is_refused() -> None:
    class LongRecord(DeclaredRecord):
        __tablename__ = "ä" * 32
        id: Mapped[int] = mapped_column(primary_key=True)

    message = refusal(1, {1: [AccountProjector, alter_table(LongRecord)]})
    assert "63 bytes" in message
