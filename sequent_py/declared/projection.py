"""Table projections: projectors that are declared instead of written.

Pure. The class makes a handler of every rule, so that it *is* a projector to everything that handles projectors; the handlers are the
definition's meaning, and what SQL does instead of them in a replay (:mod:`sequent_py.declared.compiler`) has to give the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from operator import attrgetter
from typing import Any, ClassVar

from sequent_py.declared.declaration import Declaration, declaration
from sequent_py.declared.rules import Change, ChangeKind, Field, Rule, RuleKind
from sequent_py.errors import DefinitionError, DuplicateRecord
from sequent_py.events import Event
from sequent_py.projectors import Projector, is_handler, on
from sequent_py.records import Record

Read = Callable[[Event], Any]
Handler = Callable[[Any, Event], None]

_EXACT = Context(prec=150_000)
"""Holds every sum of two numerics. Python's own context would round to 28 digits, which the server does not."""


class TableProjection(Projector):
    """One table, declared: what each event does to the row of its key.

    ::

        class AccountTable(TableProjection):
            table = AccountRecord
            on_event = {
                AccountOpened: insert(owner=field("owner"), balance=0, opened_at=field("created_at")),
                MoneyDeposited: update(balance=increment(field("amount")), deposits=count()),
                (MoneyWithdrawn, TransferSent): update(balance=increment(-field("amount"))),
                AccountClosed: delete(),
            }

    An aggregate has one row, or one for each value of ``key``: ``key = {"product": field("product")}``. Rules see nothing but their event and
    that row. It may stand wherever a Projector may; a replay runs it as SQL where it can.

    Raises
    ------
    DefinitionError
        At class definition: an unknown column or field, a constant that the column does not take, a rule that could not work.
    """

    table: ClassVar[type[Record]]
    key: ClassVar[Mapping[str, Field]] = {}
    on_event: ClassVar[Mapping[Any, Rule]]
    declaration: ClassVar[Declaration]
    """What the class says, checked."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "declaration" in vars(cls) or "manages_tables" in vars(cls):
            raise DefinitionError(
                f"{cls.__name__}: declaration and manages_tables follow from table and on_event."
            )
        if hasattr(cls, "declaration"):
            raise DefinitionError(
                f"{cls.__name__} inherits from the table projection {cls.__mro__[1].__name__}.",
                remedy="Derive it from TableProjection, and take over rules by on_event = {**Other.on_event, …}.",
            )
        if not hasattr(cls, "table") and not hasattr(cls, "on_event"):
            return
        marked = [name for name, member in vars(cls).items() if is_handler(member)]
        if marked:
            raise DefinitionError(
                f"{cls.__name__}.{marked[0]} is marked with @on; a TableProjection has rules only.",
                remedy="Move it to a Projector with a table of its own.",
            )
        cls.declaration = declaration(
            cls.__name__, getattr(cls, "table", None), cls.key, getattr(cls, "on_event", None)
        )
        cls.manages_tables = (cls.table,)
        for number, (event_class, rule) in enumerate(cls.declaration.rules.items()):
            handler = _handler(cls.declaration, rule)
            handler.__name__ = f"on_{event_class.__name__}_{number}"
            setattr(cls, handler.__name__, on(event_class)(handler))


def _handler(found: Declaration, rule: Rule) -> Handler:
    match rule.kind:
        case RuleKind.INSERT:
            return _inserting(found, rule)
        case RuleKind.UPDATE | RuleKind.UPSERT:
            return _updating(found, rule)
        case RuleKind.DELETE:
            return _deleting(found, found.key)
        case RuleKind.DELETE_ALL:
            return _deleting(found, {})


def _inserting(found: Declaration, rule: Rule) -> Handler:
    record, where_of = found.record, _where(found.key)
    values = [
        (name, change.kind is ChangeKind.RUNNING, _read(change.source))
        for name, change in rule.changes.items()
    ]
    # The primary key says no by itself; keys that no event repeats need not be asked for.
    must_look = not found.is_key_primary and not found.is_per_event
    has_running = found.has_running

    def insert(self: Projector, event: Event) -> None:
        row = where_of(event)
        if must_look and self.find_record(record, **row) is not None:
            raise DuplicateRecord(record.__name__, row)
        before = _row_before(self, found, event) if has_running else None
        for name, is_running, read in values:
            value = read(event)
            row[name] = _sum(getattr(before, name, None), value) if is_running else value
        self.create_record(record, **row)

    return insert


def _row_before(projector: Projector, found: Declaration, event: Event) -> Record | None:
    """Return the aggregate's newest row: the one of the event before, by its whole key, or the last there is."""
    (column,) = found.key
    number = event.sequence_number - 1
    if number == 0:
        return None
    where = {"aggregate_id": event.aggregate_id}
    row = projector.find_record(found.record, **where, **{column: number})
    return row if row is not None else projector.last_record(found.record, **where)


def _updating(found: Declaration, rule: Rule) -> Handler:
    record, where_of, touch = found.record, _where(found.key), rule.touch
    steps = [(name, _MERGES[change.kind], _read(change.source)) for name, change in rule.changes.items()]
    open_row = Projector.update_record if rule.kind is RuleKind.UPDATE else Projector.create_or_update_record

    def update(self: Projector, event: Event) -> None:
        with open_row(self, record, event, touch=touch, **where_of(event)) as row:
            for name, merge, read in steps:
                setattr(row, name, merge(getattr(row, name), read(event)))

    return update


def _deleting(found: Declaration, key: Mapping[str, Field]) -> Handler:
    record, where_of = found.record, _where(key)

    def delete(self: Projector, event: Event) -> None:
        self.delete_all_records(record, **where_of(event))

    return delete


def _where(key: Mapping[str, Field]) -> Callable[[Event], dict[str, Any]]:
    readers = [
        ("aggregate_id", _read(Field("aggregate_id"))),
        *((name, _read(source)) for name, source in key.items()),
    ]
    return lambda event: {name: read(event) for name, read in readers}


def _read(source: Any) -> Read:
    if not isinstance(source, Field):
        return lambda event: source
    get: Read = attrgetter(source.name)
    return (lambda event: _negative(get(event))) if source.is_negated else get


def _negative(value: Any) -> Any:
    # A unary minus would round a Decimal to the context's precision.
    if isinstance(value, Decimal):
        return value.copy_negate()
    return None if value is None else -value


def _sum(before: Any, amount: Any) -> Any:
    if amount is None:
        return before
    if before is None:
        return amount
    if isinstance(before, Decimal) or isinstance(amount, Decimal):
        return _EXACT.add(Decimal(before), Decimal(amount))
    return before + amount


_MERGES: Mapping[ChangeKind, Callable[[Any, Any], Any]] = {
    ChangeKind.ASSIGN: lambda before, value: value,
    ChangeKind.INCREMENT: _sum,
    ChangeKind.FIRST: lambda before, value: value if before is None else before,
    ChangeKind.LAST: lambda before, value: before if value is None else value,
}

__all__ = ["Change", "TableProjection"]
