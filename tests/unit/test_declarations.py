"""Table projections: what a declaration may say, and what of it is refused when the class is defined."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Numeric
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Event, Projector, Record, TableProjection, on
from sequent_py.declared import (
    count,
    delete,
    delete_all,
    field,
    first,
    increment,
    insert,
    last,
    running,
    update,
    upsert,
)
from sequent_py.errors import DefinitionError
from sequent_py.projectors import projector_definition


class Opened(Event):
    owner: str


class Paid(Event):
    amount: Decimal
    by: str | None = None


class Closed(Event):
    pass


class AccountRecord(Record):
    __tablename__ = "declared_accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    owner: Mapped[str]
    balance: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    payments: Mapped[int]
    payer: Mapped[str | None]


class LineRecord(Record):
    __tablename__ = "declared_lines"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[Decimal]


class PlaceRecord(Record):
    __tablename__ = "declared_places"
    town: Mapped[str] = mapped_column(primary_key=True)


RULES: dict[Any, Any] = {
    Opened: insert(owner=field("owner"), balance=0, payments=0),
    Paid: update(balance=increment(field("amount")), payments=count(), payer=first(field("by"))),
    Closed: delete(),
}
PER_EVENT = {"number": field("sequence_number")}


def define(name: str = "Accounts", *bases: type, **members: Any) -> type[TableProjection]:
    return type(name, bases or (TableProjection,), members)


def test_a_declaration_is_a_projector_of_its_table_and_events() -> None:
    found = projector_definition(define(table=AccountRecord, on_event=RULES))
    assert found.records == (AccountRecord,)
    assert found.event_classes == (Opened, Paid, Closed)
    assert found.ordering == "aggregate"


def test_a_rule_may_be_that_of_several_events() -> None:
    found = define(table=AccountRecord, on_event={Opened: RULES[Opened], (Paid, Closed): delete()})
    assert set(found.declaration.rules) == {Opened, Paid, Closed}


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"table": AccountRecord, "on_event": {Opened: insert(nobody=1)}}, "no column 'nobody'"),
        ({"table": AccountRecord, "on_event": {Opened: insert(owner=field("name"))}}, "Opened has no field 'name'"),
        ({"table": AccountRecord, "on_event": {Opened: insert(owner=field("metadata"))}}, "no field 'metadata'"),
        ({"table": AccountRecord, "on_event": {Opened: insert(owner=7)}}, "takes text|text"),
        ({"table": AccountRecord, "on_event": {Opened: insert(payments=None)}}, "NOT NULL"),
        ({"table": AccountRecord, "on_event": {Opened: insert(payments=count())}}, "cannot be changed by insert"),
        ({"table": AccountRecord, "on_event": {Opened: update(owner=count())}}, "nothing can be added"),
        ({"table": AccountRecord, "on_event": {Opened: update(aggregate_id=field("owner"))}}, "the row's key"),
        ({"table": AccountRecord, "on_event": {Opened: "insert"}}, "not a rule"),
        ({"table": AccountRecord, "on_event": {str: delete()}}, "str, which is not an event class"),
        ({"table": AccountRecord, "on_event": {Event: delete()}}, "not an event class"),
        ({"table": AccountRecord, "on_event": {Opened: delete(), (Opened, Paid): delete()}}, "two rules for Opened"),
        ({"table": AccountRecord, "on_event": {}}, "on_event must be a dict"),
        ({"table": AccountRecord}, "on_event must be a dict"),
        ({"on_event": RULES}, "table must be a Record"),
        ({"table": PlaceRecord, "on_event": {Opened: delete()}}, "has no aggregate_id"),
        ({"table": AccountRecord, "key": ("owner",), "on_event": RULES}, "key must be a dict"),
        ({"table": AccountRecord, "key": {"payer": field("owner")}, "on_event": {Opened: delete()}}, "may be NULL"),
        ({"table": AccountRecord, "key": {"owner": field("owner")}, "on_event": {Closed: delete()}}, "no field 'owner'"),
        ({"table": AccountRecord, "key": {"owner": field("owner")}, "on_event": {Opened: upsert(owner="x")}}, "the row's key"),
        ({"table": AccountRecord, "key": {"aggregate_id": field("owner")}, "on_event": {Opened: delete()}}, "every row has"),
        ({"table": AccountRecord, "on_event": {Paid: insert(balance=running(field("amount")))}}, "running total"),
        ({"table": LineRecord, "key": PER_EVENT, "on_event": {Paid: update(balance=running(1))}}, "is for insert"),
        (
            {"table": LineRecord, "key": PER_EVENT, "on_event": {Paid: insert(balance=running(1)), Opened: insert(balance=1)}},
            "does not go on with it",
        ),
        (
            {"table": LineRecord, "key": PER_EVENT, "on_event": {Paid: insert(balance=running(1)), Opened: delete()}},
            "would delete single rows",
        ),
        ({"table": AccountRecord, "on_event": RULES, "manages_tables": (AccountRecord,)}, "follow from"),
        ({"table": AccountRecord, "on_event": RULES, "also": on(Opened)(lambda self, event: None)}, "rules only"),
    ],
)  # fmt: skip
def test_what_could_not_work_is_refused_at_class_definition(members: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem):
        define(**members)


def test_rules_are_not_inherited() -> None:
    accounts = define(table=AccountRecord, on_event=RULES)
    with pytest.raises(DefinitionError, match="inherits from the table projection Accounts"):
        define("Others", accounts, on_event=RULES)


def test_delete_all_needs_no_key_of_the_event() -> None:
    rules = {Opened: upsert(payer=last("x")), Closed: delete_all()}
    assert issubclass(define(table=AccountRecord, key={"owner": field("owner")}, on_event=rules), Projector)


def test_the_printed_declaration_depends_on_every_part_and_on_no_order() -> None:
    def printed(on_event: dict[Any, Any], **members: Any) -> str:
        return str(define(table=AccountRecord, on_event=on_event, **members).declaration)

    base = printed(RULES)
    assert printed(dict(reversed(RULES.items()))) == base
    changed = [
        printed({**RULES, Paid: update(balance=increment(field("amount")), payments=count())}),
        printed({**RULES, Paid: update(balance=increment(-field("amount")), payments=count(), payer=first(field("by")))}),
        printed({**RULES, Opened: insert(owner=field("owner"), balance=1, payments=0)}),
        printed({**RULES, Closed: update()}),
        printed({**RULES, Closed: update(touch=False)}),
        printed({Opened: delete()}, key={"owner": field("owner")}),
        printed({Opened: delete()}),
    ]  # fmt: skip
    assert len({base, *changed}) == 1 + len(changed)
