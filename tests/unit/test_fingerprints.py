"""Fingerprints: which changes of code are seen, and which make no difference."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sequent_py.view_schema.fingerprints import TableCode, changed_parts, table_code
from sequent_py.view_schema.migrations import definition

SOURCE = '''
"""A module."""

from decimal import Decimal
from enum import Enum
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Event, Migrations, Projector, Record, on, upcaster

RATE = Decimal("1.5")


class Kind(Enum):
    OLD = "old"


def scaled(amount: int) -> Decimal:
    """Scale."""
    return Decimal(amount) * RATE


class Opened(Event):
    owner: str
    kind: Kind = Kind.OLD

    @upcaster
    @staticmethod
    def named(payload):
        return payload


class Other(Event):
    pass


class Base(Projector):
    def shared(self, event):
        return scaled(1)


class AccountRecord(Record):
    __tablename__ = "account_records"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]


class AccountProjector(Base):
    manages_tables = (AccountRecord,)

    @on(Opened)
    def opened(self, event: Opened) -> None:
        # A comment.
        self.shared(event)
        self.create_record(AccountRecord, aggregate_id=event.aggregate_id, owner=event.owner)


class BankMigrations(Migrations):
    version = 1
    versions = {1: [AccountProjector]}
'''


@pytest.fixture
def code_of(tmp_path: Path) -> Iterator[Callable[[str], TableCode]]:
    """Fingerprint the table of a module with this source."""
    names: list[str] = []

    def fingerprint(source: str, files: dict[str, str] | None = None) -> TableCode:
        name = f"fingerprinted_{len(names)}"
        names.append(name)
        # The same name in every variant: a module's own name is part of nothing but labels.
        directory = tmp_path / name
        directory.mkdir()
        path = directory / "fingerprinted.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("fingerprinted", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["fingerprinted"] = module
        spec.loader.exec_module(module)
        return table_code(
            definition(module.BankMigrations), "account_records", files or {"account_records.sql": "CREATE …"}
        )

    yield fingerprint
    sys.modules.pop("fingerprinted", None)


CodeOf = Callable[..., TableCode]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        # A comment.\n", ""),
        ('    """Scale."""\n', '    """Scale an amount."""\n'),
        (
            "self.create_record(AccountRecord, aggregate_id=event.aggregate_id, owner=event.owner)",
            "self.create_record(\n            AccountRecord,\n            aggregate_id=event.aggregate_id,\n            owner=event.owner,\n        )",
        ),
        ("class Other(Event):\n    pass", "class Other(Event):\n    reason: str"),
        ('"""A module."""', '"""Another."""\n\nUNUSED = 1'),
    ],
)
def test_what_changes_no_row_changes_no_fingerprint(code_of: CodeOf, old: str, new: str) -> None:
    assert old in SOURCE
    before, after = code_of(SOURCE), code_of(SOURCE.replace(old, new))
    assert changed_parts(before, after) == []
    assert before.covers(after)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("self.shared(event)\n", "self.shared(None)\n", "AccountProjector.opened"),
        ("@on(Opened)", "@on(Opened, Other)", "AccountProjector.opened"),
        ("return scaled(1)", "return scaled(2)", "Base.shared"),
        ("* RATE", "+ RATE", "fingerprinted.scaled"),
        ('Decimal("1.5")', 'Decimal("1.6")', "fingerprinted.RATE"),
        ('OLD = "old"', 'OLD = "older"', "Kind"),
        ("    owner: Mapped[str]\n", "    owner: Mapped[str | None]\n", "AccountRecord"),
        ("        return payload", "        return {**payload}", "Opened"),
        ("class Opened(Event):", 'class Opened(Event, aliases=("Begun",)):', "Opened"),
    ],
)
def test_what_may_change_rows_is_named(code_of: CodeOf, old: str, new: str, part: str) -> None:
    assert old in SOURCE
    before, after = code_of(SOURCE), code_of(SOURCE.replace(old, new))
    assert part in changed_parts(before, after)
    assert not before.covers(after)


def test_a_method_that_comes_or_goes_is_named(code_of: CodeOf) -> None:
    more = SOURCE.replace("    @on(Opened)\n", "    def extra(self) -> None: ...\n\n    @on(Opened)\n")
    assert changed_parts(code_of(SOURCE), code_of(more)) == ["AccountProjector.extra (new)"]
    assert changed_parts(code_of(more), code_of(SOURCE)) == ["AccountProjector.extra (gone)"]


def test_files_count_but_for_their_comments_and_layout(code_of: CodeOf) -> None:
    plain = code_of(SOURCE, {"t.sql": "CREATE TABLE t (\n  id int\n);"})
    assert plain.covers(code_of(SOURCE, {"t.sql": "-- a table\n\nCREATE TABLE t (\nid int\n);\n"}))
    assert changed_parts(plain, code_of(SOURCE, {"t.sql": "CREATE TABLE t (\n  id bigint\n);"})) == ["t.sql"]


def test_without_source_the_bytecode_counts(code_of: CodeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    def no_source(_: Any) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", no_source)
    before = code_of(SOURCE)
    assert before.parts["AccountProjector"].startswith("bytecode:")
    assert before.covers(code_of(SOURCE.replace("        # A comment.\n", "")))
    assert not before.covers(code_of(SOURCE.replace("self.shared(event)\n", "self.shared(None)\n")))


def test_accepted_code_passes_and_the_built_one_still_does(code_of: CodeOf) -> None:
    before, after = code_of(SOURCE), code_of(SOURCE.replace("scaled(1)", "scaled(2)"))
    accepted = TableCode(before.parts, before.python, (after.digest,))
    assert accepted.covers(before)
    assert accepted.covers(after)
    assert TableCode.from_json(accepted.to_json()) == accepted


DECLARED = """
from uuid import UUID

from sequent_py import Event, Migrations, Record, TableProjection
from sequent_py.declared import field, insert
from sqlalchemy.orm import Mapped, mapped_column


class Opened(Event):
    owner: str
    name: str


class AccountRecord(Record):
    __tablename__ = "account_records"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]


OPENED = insert(owner=field("owner"))


class AccountTable(TableProjection):
    table = AccountRecord
    on_event = {Opened: OPENED}


class BankMigrations(Migrations):
    version = 1
    versions = {1: [AccountTable]}
"""


def test_the_rules_of_a_declared_projection_count_by_value(code_of: CodeOf) -> None:
    before, after = (
        code_of(DECLARED),
        code_of(DECLARED.replace('owner=field("owner")', 'owner=field("name")')),
    )
    assert changed_parts(before, after) == ["AccountTable.on_event"]
    assert before.covers(
        code_of(DECLARED.replace('insert(owner=field("owner"))', 'insert(\n    owner=field("owner")\n)'))
    )
