"""Lives: what a column of a row comes to over the events between the row's creation and its end.

A *life* of a key begins with an insert (or an upsert) and ends before a deletion. Within it the insert comes first, so that aggregate
functions can say what the handlers' steps come to, in four ways; a column whose changes mix them is :class:`Inexpressible`.

========  ==============================================================================================
initial   assigned by inserts alone: the one value there is
assigned  the value of the last event that assigns it
summed    the initial value and all amounts; NULLs add nothing
first     the first that is not NULL, the initial value included; ``last`` likewise
========  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from sequent_py.declared.payloads import Inexpressible
from sequent_py.declared.rules import ChangeKind, RuleKind

MOST_COMPARED_TYPES = 5
"""An event's type is compared with up to so many one by one; more are an array."""
_HAS_MAX = ("integer", "numeric", "float", "timestamptz", "timestamp", "date")


class Course(StrEnum):
    """How a column's changes come together."""

    INITIAL = "initial"
    ASSIGNED = "assigned"
    SUMMED = "summed"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True)
class Effect:
    """What the events of some types do to a column: ``value`` is of the column's type."""

    type_ids: tuple[int, ...]
    rule_kind: RuleKind
    kind: ChangeKind
    value: sql.Composable
    may_sink: bool = False
    """Whether adding the value may make a sum smaller."""


@dataclass(frozen=True)
class ColumnLife:
    """A column and all that happens to it. ``default`` is what upserts begin with; None for NULL, or where there are none."""

    name: str
    family: str
    type: sql.Composable
    effects: tuple[Effect, ...]
    among: tuple[int, ...]
    """The types of all events of the table."""
    insert_ids: tuple[int, ...] = ()
    """The event types that begin lives by an insert; others begin them by an upsert."""
    may_begin_by_upsert: bool = False
    default: sql.Composable | None = None
    bound: int | None = None
    """No sum may reach it on the way; None where none can."""

    @property
    def course(self) -> Course:
        """How the effects come together.

        Raises
        ------
        Inexpressible
            Their result depends on more than one of these ways can say.
        """
        later = {effect.kind for effect in self.effects if effect.rule_kind is not RuleKind.INSERT}
        match later:
            case _ if not later:
                return Course.INITIAL
            case _ if later == {ChangeKind.ASSIGN}:
                return Course.ASSIGNED
            case _ if later == {ChangeKind.INCREMENT}:
                return Course.SUMMED
            case _ if later == {ChangeKind.FIRST}:
                return Course.FIRST
            case _ if later == {ChangeKind.LAST}:
                return Course.LAST
        raise Inexpressible(f"{self.name} is changed in several ways: {', '.join(sorted(later))}")

    @property
    def needs_order(self) -> bool:
        """Whether the result depends on which event came first."""
        return self.course in (Course.ASSIGNED, Course.FIRST, Course.LAST)

    def contribution(self) -> sql.Composable:
        """Return what an event contributes; NULL for those that do nothing to the column."""
        return case_by_type({effect.type_ids: effect.value for effect in self.effects}, self.among)

    def result(self) -> sql.Composable:
        """Return the column's value at the end of a life, as an aggregate over its events."""
        value = self._aggregate()
        if self.default is None:
            return value
        return sql.SQL("CASE WHEN count(*) FILTER (WHERE {}) = 0 THEN {} ELSE {} END").format(
            is_of(self.insert_ids, self.among), self._from_default(value), value
        )

    def _from_default(self, value: sql.Composable) -> sql.Composable:
        assert self.default is not None
        match self.course:
            case Course.SUMMED:
                return sql.SQL("({} + coalesce({}, 0))::{}").format(self.default, value, self.type)
            case Course.FIRST:
                return self.default
            case Course.LAST:
                return sql.SQL("coalesce({}, {})").format(value, self.default)
        return sql.SQL("CASE WHEN count(*) FILTER (WHERE {}) = 0 THEN {} ELSE {} END").format(
            is_of(self._type_ids, self.among), self.default, value
        )

    def _aggregate(self) -> sql.Composable:
        value = self.contribution()
        match self.course:
            case Course.INITIAL if self._is_constant:
                return self.effects[0].value
            case Course.INITIAL if self.family in _HAS_MAX:
                return sql.SQL("max({})").format(value)
            case Course.INITIAL:
                return sql.SQL("(array_agg({}) FILTER (WHERE {}))[1]").format(
                    value, is_of(self._type_ids, self.among)
                )
            case Course.ASSIGNED:
                return self._nth(
                    value, is_of(self._type_ids, self.among), sql.SQL("count(*) FILTER (WHERE {0})")
                )
            case Course.SUMMED:
                return sql.SQL("sum({})::{}").format(value, self.type)
            case Course.FIRST:
                return self._nth(value, sql.SQL("{} IS NOT NULL").format(value), sql.SQL("1"))
            case Course.LAST:
                return self._nth(
                    value, sql.SQL("{} IS NOT NULL").format(value), sql.SQL("count(*) FILTER (WHERE {0})")
                )

    @staticmethod
    def _nth(value: sql.Composable, condition: sql.Composable, number: sql.SQL) -> sql.Composable:
        # Events come in this order: from PostgreSQL 16 on, no aggregate function that asks for it sorts.
        return sql.SQL("(array_agg({0} ORDER BY position) FILTER (WHERE {1}))[{2}]").format(
            value, condition, number.format(condition)
        )

    @property
    def _type_ids(self) -> tuple[int, ...]:
        return tuple(type_id for effect in self.effects for type_id in effect.type_ids)

    @property
    def _is_constant(self) -> bool:
        """Whether every life has the same value."""
        values = {effect.value.as_string(None) for effect in self.effects}
        are_constant = all(isinstance(effect, ConstantEffect) for effect in self.effects)
        return are_constant and len(values) == 1 and not self.may_begin_by_upsert

    def is_beyond(self) -> sql.Composable | None:
        """Return whether a sum could have left the column's range on the way, whatever it came to; None where it cannot."""
        if self.course is not Course.SUMMED or self.bound is None:
            return None
        return sql.SQL("coalesce(sum(abs({})), 0) + abs({}) >= {}").format(
            self.contribution(), self.default or sql.SQL("0"), sql.Literal(self.bound)
        )


@dataclass(frozen=True)
class ConstantEffect(Effect):
    """An effect whose value is the same for every event."""


def is_of(type_ids: tuple[int, ...], among: Collection[int] | None = None) -> sql.Composable:
    """Return whether an event is of one of these types; ``among``: all that it can be of."""
    if not type_ids:
        return sql.SQL("false")
    if among is not None and set(among) <= set(type_ids):
        return sql.SQL("true")
    if len(type_ids) > MOST_COMPARED_TYPES:
        return sql.SQL("event_type_id IN ({})").format(sql.SQL(", ").join(map(sql.Literal, type_ids)))
    # Every event passes a dozen such tests: few comparisons cost half of what a look into an array does.
    tests = [sql.SQL("event_type_id = {}").format(sql.Literal(type_id)) for type_id in type_ids]
    return tests[0] if len(tests) == 1 else sql.SQL("({})").format(sql.SQL(" OR ").join(tests))


def case_by_type(values: Mapping[tuple[int, ...], sql.Composable], among: Collection[int]) -> sql.Composable:
    """Return an expression that differs by event type, for events of the types ``among``; NULL for those that are not named."""
    # One case for all types of which the same is said, and none for the last: every event is tried against one after the other.
    ids_by_text: dict[str, tuple[tuple[int, ...], sql.Composable]] = {}
    for type_ids, value in values.items():
        text = value.as_string(None)
        ids_by_text[text] = (ids_by_text.get(text, ((), value))[0] + type_ids, value)
    found = [(type_ids, value) for type_ids, value in ids_by_text.values() if type_ids]
    if not found:
        return sql.SQL("NULL")
    otherwise: sql.Composable = sql.SQL("NULL")
    if set(among) <= {type_id for type_ids, _ in found for type_id in type_ids}:
        _, otherwise = found.pop()
    if not found:
        return otherwise
    cases = [sql.SQL("WHEN {} THEN {}").format(is_of(type_ids), value) for type_ids, value in found]
    return sql.SQL("CASE {} ELSE {} END").format(sql.SQL(" ").join(cases), otherwise)
