"""What a view migration will do, for every way in which versions can be declared."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.errors import DefinitionError, InvalidTransition, PlanChanged
from sequent_py.events import Event
from sequent_py.projectors import Projector, on
from sequent_py.records import Record
from sequent_py.view_schema.migrations import Migrations, alter_table, definition
from sequent_py.view_schema.planner import LiveTable, Plan, plan, resolve


class PlannedRecord(Record):
    """Keeps these tables apart from those of other test modules."""

    __abstract__ = True
    metadata = MetaData()


class AccountRecord(PlannedRecord):
    __tablename__ = "account_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class MessageRecord(PlannedRecord):
    __tablename__ = "message_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class AccountCreated(Event):
    name: str


class AccountNamed(Event):
    name: str


class MessageCreated(Event, type_name="message-created"):
    text: str


class Account(Projector):
    manages_tables = (AccountRecord,)

    @on(AccountCreated)
    def created(self, event: AccountCreated) -> None: ...

    @on(AccountNamed)
    def named(self, event: AccountNamed) -> None: ...


class Message(Projector):
    manages_tables = (MessageRecord,)

    @on(MessageCreated)
    def created(self, event: MessageCreated) -> None: ...


class AccountAudit(Projector):
    """A second projector on the accounts' table."""

    manages_tables = (AccountRecord,)

    @on(AccountNamed, MessageCreated)
    def noted(self, event: AccountNamed | MessageCreated) -> None: ...


class Both(Projector):
    manages_tables = (AccountRecord, MessageRecord)

    @on(AccountCreated, MessageCreated)
    def created(self, event: AccountCreated | MessageCreated) -> None: ...


ACCOUNTS, MESSAGES = "account_records", "message_records"
Versions = Mapping[Any, Any]


def migrations(versions: Versions, version: int | None = None) -> type[Migrations]:
    target = version or max(int(key) for key in versions)
    return type("BankMigrations", (Migrations,), {"version": target, "versions": versions})


def live(**built: int | tuple[int, int]) -> dict[str, LiveTable]:
    """Live tables by name: the version that built them, or (built, altered)."""
    return {
        name: LiveTable(name, *versions) if isinstance(versions, tuple) else LiveTable(name, versions)
        for name, versions in built.items()
    }


class AllFiles:
    def __contains__(self, key: object) -> bool:
        return True


def planned(
    versions: Versions,
    current: int = 0,
    *,
    version: int | None = None,
    tables: Mapping[str, LiveTable] | None = None,
    files: Collection[tuple[str, int]] | AllFiles | None = None,
) -> Plan:
    return plan(
        definition(migrations(versions, version)),
        current_version=current,
        live=tables or {},
        available_alter_files=AllFiles() if files is None else files,
    )


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        planned(*arguments, **options)
    return str(caught.value)


def steps(found: Plan) -> list[str]:
    """Alters, then replays, as a line each."""
    alters = [f"alter({step.table_name})@{step.version}" for step in found.alters]
    return alters + [f"replay({step.table_name})->{step.shadow_name}" for step in found.replays]


# -- which tables are replayed ---------------------------------------------------------------------------------------------------


def test_a_listed_projector_is_replayed() -> None:
    found = planned({"1": [Account]})
    assert steps(found) == ["replay(account_records)->account_records_1"]
    assert (found.from_version, found.target_version) == (0, 1)
    assert found.projectors == ("Account",)
    assert not found.is_noop
    assert not found.is_empty


def test_tables_come_in_the_order_of_declaration() -> None:
    assert [step.table_name for step in planned({1: [Account, Message]}).replays] == [ACCOUNTS, MESSAGES]
    assert [step.table_name for step in planned({1: [Message, Account]}).replays] == [MESSAGES, ACCOUNTS]


def test_a_projector_of_two_tables_replays_each() -> None:
    found = planned({1: [Both]})
    assert steps(found) == [
        "replay(account_records)->account_records_1",
        "replay(message_records)->message_records_1",
    ]
    assert found.projectors == ("Both",)


def test_a_table_listed_under_several_versions_is_replayed_once() -> None:
    found = planned({1: [Account, Message], 2: [Account, Message]})
    assert steps(found) == [
        "replay(account_records)->account_records_2",
        "replay(message_records)->message_records_2",
    ]


def test_all_shadow_tables_carry_the_target_version() -> None:
    found = planned({1: [Account, Message], 2: [Message]})
    assert steps(found) == [
        "replay(account_records)->account_records_2",
        "replay(message_records)->message_records_2",
    ]


def test_a_projector_listed_twice_is_replayed_once() -> None:
    found = planned({1: [Account, Account]})
    assert steps(found) == ["replay(account_records)->account_records_1"]
    assert found.replays[0].reason == "listed under version 1 by Account"


def test_two_listed_projectors_of_one_table_share_its_replay() -> None:
    found = planned({1: [Account, AccountAudit]})
    (step,) = found.replays
    assert step.projectors == ("Account", "AccountAudit")
    assert found.projectors == ("Account", "AccountAudit")


def test_projectors_listed_under_different_pending_versions_share_the_replay() -> None:
    (step,) = planned({1: [Account], 2: [AccountAudit]}).replays
    assert step.projectors == ("Account", "AccountAudit")


def test_projectors_take_part_in_the_order_in_which_they_are_registered() -> None:
    found = planned(
        {1: [Account, AccountAudit], 2: [AccountAudit, Account]}, 1, tables=live(account_records=1)
    )
    assert found.projectors == ("Account", "AccountAudit")
    assert found.replays[0].projectors == ("Account", "AccountAudit")


@pytest.mark.parametrize("key", [1, "1"])
def test_integers_and_digits_mean_the_same(key: int | str) -> None:
    assert planned({key: [Account]}) == planned({1: [Account]})


def test_versions_may_be_declared_in_any_order() -> None:
    versions = {1: [Account], 3: [alter_table(AccountRecord)], 2: [alter_table(AccountRecord)]}
    assert steps(planned(versions, 1, tables=live(account_records=1))) == [
        "alter(account_records)@2",
        "alter(account_records)@3",
    ]


def test_only_the_entries_between_current_and_target_count() -> None:
    found = planned({1: [Account], 3: [Message]}, 1, tables=live(account_records=1))
    assert steps(found) == ["replay(message_records)->message_records_3"]


# -- alters ------------------------------------------------------------------------------------------------------------------------


def test_an_alter_without_its_file_is_refused_by_the_files_name() -> None:
    message = refusal(
        {1: [Account], 2: [alter_table(AccountRecord)]},
        1,
        tables=live(account_records=1),
        files={(ACCOUNTS, 1)},
    )
    assert "account_records_2.sql is missing" in message


def test_every_missing_alter_file_is_named() -> None:
    message = refusal({2: [alter_table(AccountRecord), alter_table(MessageRecord)]}, 1, files=())
    assert "account_records_2.sql" in message
    assert "message_records_2.sql" in message


def test_alters_run_in_ascending_order() -> None:
    versions = {1: [Account], 2: [alter_table(AccountRecord)], 3: [alter_table(AccountRecord)]}
    found = planned(versions, 1, tables=live(account_records=1))
    assert steps(found) == ["alter(account_records)@2", "alter(account_records)@3"]
    assert [step.file_name for step in found.alters] == ["account_records_2.sql", "account_records_3.sql"]
    assert [step.reason for step in found.alters] == ["listed under version 2", "listed under version 3"]


def test_an_alter_listed_twice_runs_once() -> None:
    versions = {1: [Account], 2: [alter_table(AccountRecord), alter_table(AccountRecord)]}
    assert steps(planned(versions, 1, tables=live(account_records=1))) == ["alter(account_records)@2"]


def test_a_replayed_table_needs_no_later_alter_and_not_its_file() -> None:
    found = planned({1: [Account], 2: [alter_table(AccountRecord)]}, files=())
    assert steps(found) == ["replay(account_records)->account_records_2"]
    (skipped,) = found.skipped_alters
    assert (skipped.table_name, skipped.version) == (ACCOUNTS, 2)
    assert "the table is replayed" in skipped.reason


def test_an_alter_before_a_later_replay_of_the_same_table_is_dropped() -> None:
    versions = {1: [Account], 2: [alter_table(AccountRecord), alter_table(MessageRecord)], 3: [Account]}
    found = planned(versions, tables=live(message_records=0))
    assert steps(found) == ["alter(message_records)@2", "replay(account_records)->account_records_3"]


def test_an_alter_of_a_table_that_nothing_built_is_planned_with_a_warning() -> None:
    versions = {1: [Account], 2: [alter_table(AccountRecord), alter_table(MessageRecord)], 3: [Account]}
    found = planned(versions)
    assert steps(found) == ["alter(message_records)@2", "replay(account_records)->account_records_3"]
    (warning,) = found.warnings
    assert "message_records" in warning
    assert "message_records_2.sql must work on what the database has" in warning


def test_alters_before_a_replay_leave_the_replay_only() -> None:
    versions = {1: [Account], 2: [alter_table(AccountRecord)], 3: [alter_table(AccountRecord)], 4: [Account]}
    assert steps(planned(versions, 2, tables=live(account_records=(1, 2)))) == [
        "replay(account_records)->account_records_4"
    ]


@pytest.mark.parametrize(
    "listed", [[alter_table(AccountRecord), Account], [Account, alter_table(AccountRecord)]]
)
def test_alter_and_replay_of_one_version_leave_the_replay_in_either_order(listed: list[Any]) -> None:
    assert steps(planned({1: listed})) == ["replay(account_records)->account_records_1"]


# -- declarations that cannot work --------------------------------------------------------------------------------------------------


def test_a_projector_whose_table_is_neither_live_nor_built_is_refused() -> None:
    message = refusal({1: [Account, Message], 2: [Account]}, 1, tables=live(account_records=1))
    assert "Message needs message_records" in message
    assert message.endswith("List Message under version 2.")


def test_a_projector_added_to_a_version_that_is_live_already_is_refused_at_the_target_too() -> None:
    message = refusal({1: [Account, Message]}, 1, tables=live(account_records=1))
    assert "Message needs message_records" in message
    assert message.endswith("List Message under version 2, and set BankMigrations.version = 2.")


def test_a_projector_listed_under_a_done_version_that_did_not_build_it_is_refused() -> None:
    message = refusal({1: [Account], 2: [Account]}, 2, tables=live(account_records=1))
    assert "Account is listed under version 2, but the live account_records was built at version 1" in message
    assert message.endswith("List Account under version 3, and set BankMigrations.version = 3.")


def test_an_alter_does_not_count_as_the_replay_that_was_declared() -> None:
    assert "was built at version 1" in refusal(
        {1: [Account], 2: [Account]}, 2, tables=live(account_records=(1, 2))
    )


def test_an_alter_listed_under_a_done_version_that_did_not_run_is_refused() -> None:
    versions = {1: [Account], 2: [alter_table(AccountRecord)]}
    message = refusal(versions, 2, tables=live(account_records=1))
    assert "alter_table of account_records is listed under version 2" in message
    assert planned(versions, 2, tables=live(account_records=(1, 2))).is_noop
    assert planned(versions, 2, tables=live(account_records=2)).is_noop


def test_what_a_done_version_missed_may_be_made_good_by_the_plan() -> None:
    found = planned({1: [Account], 2: [Account], 3: [Account]}, 2, tables=live(account_records=1))
    assert steps(found) == ["replay(account_records)->account_records_3"]


def test_a_replay_without_one_of_the_tables_projectors_is_refused() -> None:
    message = refusal({1: [Account, AccountAudit], 2: [Account]}, 1, tables=live(account_records=1))
    assert "AccountAudit writes to it too" in message
    assert message.endswith("List Account and AccountAudit under version 2.")


def test_a_replay_through_a_projector_of_several_tables_needs_the_others_projectors() -> None:
    message = refusal({1: [Both, Message], 2: [Both]}, 1, tables=live(account_records=1, message_records=1))
    assert (
        "message_records is to be replayed (listed under version 2 by Both), but Message writes to it too"
        in message
    )


def test_a_target_that_is_not_declared_is_refused_when_nothing_would_be_done() -> None:
    message = refusal({1: [Account]}, 1, version=2, tables=live(account_records=1))
    assert "versions has no entry for 2" in message
    assert "2: [] declares that nothing did" in message


def test_an_undeclared_target_above_declared_ones_is_planned_with_a_warning() -> None:
    found = planned({1: [Account]}, version=2)
    assert steps(found) == ["replay(account_records)->account_records_2"]
    assert any("no entry for 2" in warning for warning in found.warnings)


def test_an_empty_list_declares_that_only_the_number_changes() -> None:
    found = planned({1: [Account], 2: []}, 1, tables=live(account_records=1))
    assert found.is_empty
    assert not found.is_noop
    assert found.warnings == ()


def test_the_target_already_reached_is_a_plan_that_does_nothing() -> None:
    found = planned({1: [Account]}, 1, tables=live(account_records=1))
    assert found.is_noop
    assert found.is_empty


def test_code_older_than_the_database_is_refused() -> None:
    with pytest.raises(
        InvalidTransition, match="declares version 1, and the view schema is at version 2"
    ) as caught:
        planned({1: [Account]}, 2, tables=live(account_records=1))
    assert caught.value.remedy.startswith("Deploy the code of version 2; or ")
    assert "sequent migrate rollback --plan" in caught.value.remedy


# -- names --------------------------------------------------------------------------------------------------------------------------


def test_a_replaced_table_is_retired_under_the_version_that_is_live() -> None:
    found = planned({1: [Account], 7: [Account, Message]}, 6, tables=live(account_records=1))
    assert [(step.shadow_name, step.retired_name) for step in found.replays] == [
        ("account_records_7", "account_records_6"),
        ("message_records_7", None),
    ]
    assert found.retired_names == ("account_records_6",)


_numbers = itertools.count()


def named(table_name: str) -> type[Projector]:
    """A projector with one table of that name."""

    class Base(Record):
        __abstract__ = True
        metadata = MetaData()

    record = type(
        f"NamedRecord{next(_numbers)}",
        (Base,),
        {
            "__tablename__": table_name,
            "__annotations__": {"id": Mapped[int]},
            "id": mapped_column(primary_key=True),
        },
    )
    return type("Named", (Account,), {"manages_tables": (record,)})


@pytest.mark.parametrize(("size", "version"), [(62, 1), (61, 10), (60, 999)])
def test_a_shadow_name_that_postgresql_would_cut_is_refused_with_its_length(size: int, version: int) -> None:
    table_name = "t" * size
    assert f"{size + 1 + len(str(version))} bytes long" in refusal({version: [named(table_name)]})
    fitting = "t" * (62 - len(str(version)))
    assert len(planned({version: [named(fitting)]}).replays[0].shadow_name) == 63


def test_names_are_measured_in_bytes() -> None:
    assert "64 bytes long" in refusal({1: [named("ä" * 31)]})


def test_a_shadow_name_that_is_another_tables_name_is_refused() -> None:
    other = type("Other", (named("account_records_2"),), {})
    assert "'account_records_2' would carry the name of another managed table" in refusal(
        {2: [Account, other]}
    )
    found = planned({1: [Account, other]})
    assert [step.shadow_name for step in found.replays] == ["account_records_1", "account_records_2_1"]


def test_a_retired_name_that_is_another_tables_name_is_refused() -> None:
    other = type("Other", (named("account_records_1"),), {})
    tables = live(account_records=1, account_records_1=1)
    assert "'account_records_1' would carry the name" in refusal(
        {1: [Account, other], 2: [Account]}, 1, tables=tables
    )


def test_an_alter_file_that_is_another_tables_file_is_refused() -> None:
    other = type("Other", (named("account_records_2"),), {})
    versions = {1: [Account, other], 2: [alter_table(AccountRecord)]}
    tables = live(account_records=1, account_records_2=1)
    assert "account_records_2.sql would be both" in refusal(versions, 1, tables=tables)


# -- what a plan says ----------------------------------------------------------------------------------------------------------------


def test_a_replay_says_who_asked_for_it() -> None:
    found = planned({1: [Account, Message], 2: [AccountAudit], 3: [Account]})
    assert [step.reason for step in found.replays] == [
        "listed under version 1 by Account, under version 2 by AccountAudit, under version 3 by Account",
        "listed under version 1 by Message",
    ]


def test_a_replay_says_which_event_types_it_reads() -> None:
    found = planned({1: [Account, AccountAudit, Message]})
    assert [step.event_types for step in found.replays] == [
        ("AccountCreated", "AccountNamed", "message-created"),
        ("message-created",),
    ]
    assert found.event_types == ("AccountCreated", "AccountNamed", "message-created")


def test_live_tables_that_nobody_manages_are_reported_and_left_alone() -> None:
    found = planned({2: [Account]}, 1, tables=live(account_records=1, message_records=1))
    assert found.orphaned == (MESSAGES,)
    assert steps(found) == ["replay(account_records)->account_records_2"]


EVERYTHING = {
    1: [Account, AccountAudit],
    2: [Message, alter_table(AccountRecord)],
    3: [Account, AccountAudit],
    4: [alter_table(MessageRecord)],
}


def everything() -> Plan:
    return planned(EVERYTHING, 2, tables=live(account_records=(1, 2), message_records=2, other_records=1))


def test_a_plan_survives_json() -> None:
    found = everything()
    assert steps(found) == ["alter(message_records)@4", "replay(account_records)->account_records_4"]
    document = json.loads(json.dumps(found.to_json()))
    assert document == found.to_json()
    again = Plan.from_json(document)
    assert again == found
    assert (again.replays[0].reason, again.warnings, again.skipped_alters) == (
        found.replays[0].reason,
        found.warnings,
        found.skipped_alters,
    )


def test_plans_are_equal_when_they_do_the_same_work_whatever_the_reason() -> None:
    assert planned({1: [Account], 2: [Account]}) == planned({1: [alter_table(AccountRecord)], 2: [Account]})
    assert planned({2: [Account]}) != planned({2: [Account, Message]})
    assert planned({2: [Account]}) != planned({2: [AccountAudit]})


@pytest.mark.parametrize(
    "document",
    [{}, {"replays": 1}, {**Plan(0, 1).to_json(), "new": 1}, {**Plan(0, 1).to_json(), "alters": [{"x": 1}]}],
)
def test_a_stored_plan_of_another_release_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(PlanChanged, match="cannot be read by this release") as caught:
        Plan.from_json(document)
    assert caught.value.remedy == "Run: sequent migrate abort"


def test_a_plans_names_lead_back_to_the_classes() -> None:
    found = resolve(everything(), definition(migrations(EVERYTHING)))
    assert [item.projector for item in found.projectors] == [Account, AccountAudit]
    assert found.records == {ACCOUNTS: AccountRecord, MESSAGES: MessageRecord}


def test_a_plan_whose_classes_are_gone_is_refused() -> None:
    with pytest.raises(
        PlanChanged, match="no longer declares: projector AccountAudit, table message_records"
    ) as caught:
        resolve(everything(), definition(migrations({4: [Account]})))
    assert "sequent migrate abort" in caught.value.remedy


class TestComingBack:
    def stale(self) -> dict[str, LiveTable]:
        return {**live(message_records=1), ACCOUNTS: LiveTable(ACCOUNTS, 1, unmanaged_since=2)}

    def test_a_projector_that_was_away_must_be_listed_anew(self) -> None:
        text = refusal({1: [Account, Message], 3: []}, 2, tables=self.stale())
        assert ACCOUNTS in text
        assert "since version 2" in text
        assert "under version 3" in text

    def test_listed_anew_its_table_is_rebuilt(self) -> None:
        plan = planned({1: [Account, Message], 3: [Account]}, 2, tables=self.stale())
        assert [step.table_name for step in plan.replays] == [ACCOUNTS]

    def test_a_table_that_stays_without_a_projector_disturbs_nothing(self) -> None:
        assert planned({1: [Message], 3: []}, 2, tables=self.stale()).orphaned == (ACCOUNTS,)


class TestOrderings:
    """A table is what the ordering that built it made of the events."""

    @staticmethod
    def ordered(ordering: str) -> type[Projector]:
        return type("Account", (Account,), {"ordering": ordering})

    def test_a_replay_says_its_ordering_and_another_one_is_another_plan(self) -> None:
        found = planned({1: [self.ordered("partition")]})
        assert [step.ordering for step in found.replays] == ["partition"]
        assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert found != planned({1: [Account]})

    def test_a_plan_from_before_there_were_orderings_is_per_aggregate(self) -> None:
        document = planned({1: [Account]}).to_json()
        del document["replays"][0]["ordering"]
        assert Plan.from_json(document) == planned({1: [Account]})

    @pytest.mark.parametrize("versions", [1, 2])
    def test_a_live_table_that_was_built_with_another_ordering_must_be_rebuilt(self, versions: int) -> None:
        declared: dict[int, list[Any]] = {1: [self.ordered("global")], **({2: []} if versions == 2 else {})}
        text = refusal(declared, 1, tables=live(account_records=1))
        assert (
            "Account declares ordering 'global', but the live account_records was built with 'aggregate'"
            in text
        )
        assert "List Account under version 2" in text

    def test_listed_anew_it_is_rebuilt(self) -> None:
        projector = self.ordered("global")
        found = planned({1: [projector], 2: [projector]}, 1, tables=live(account_records=1))
        assert [step.ordering for step in found.replays] == ["global"]
        built = {ACCOUNTS: LiveTable(ACCOUNTS, 1, ordering="global")}
        assert planned({1: [projector]}, 1, tables=built).is_noop
