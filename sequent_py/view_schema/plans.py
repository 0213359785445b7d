"""What a view migration will do, as values: the plan, its steps, and the live tables that it starts from.

A plan holds names, not classes, so that it can be printed, stored as JSON in the migration's row, and compared with the plan of a later
run of the same command; :func:`resolve` finds the classes again. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sequent_py.errors import PlanChanged
from sequent_py.ordering import Ordering
from sequent_py.projectors import ProjectorDefinition
from sequent_py.records import Record
from sequent_py.view_schema.migrations import MigrationsDefinition


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A managed table that serves now."""

    name: str
    built_version: int
    """The target version of the migration that built it."""
    altered_version: int | None = None
    """The newest version whose alter ran on it since; None when none has."""
    unmanaged_since: int | None = None
    """The version from which on no projector has kept it up to date; None while one does."""
    ordering: Ordering = "aggregate"
    """The ordering of the projectors that built it."""

    @property
    def shape_version(self) -> int:
        """The newest version whose shape the table has."""
        return max(self.built_version, self.altered_version or 0)


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """One table to rebuild."""

    table_name: str
    shadow_name: str
    retired_name: str | None
    """What the table that serves now will be called; None when there is none."""
    projectors: tuple[str, ...]
    event_types: tuple[str, ...]
    """The event types that these projectors handle; nothing else is read for the table."""
    reason: str = field(compare=False)
    ordering: Ordering = "aggregate"
    """The ordering of these projectors: they share one."""


@dataclass(frozen=True, slots=True)
class AlterStep:
    """One alter file to run in place, in the swap's transaction."""

    table_name: str
    version: int
    file_name: str
    reason: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a view migration will do. Equality means the same work: reasons and warnings do not count."""

    from_version: int
    target_version: int
    replays: tuple[ReplayStep, ...] = ()
    """In order of first mention, ascending by version."""
    alters: tuple[AlterStep, ...] = ()
    """Ascending by version."""
    projectors: tuple[str, ...] = ()
    """All that take part in the replay, in order of first mention."""
    skipped_alters: tuple[AlterStep, ...] = field(default=(), compare=False)
    """Alters that the plan needs not run, because it replays their tables."""
    orphaned: tuple[str, ...] = ()
    """Live tables that no registered projector manages; they stay as they are, and nothing writes to them."""
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_noop(self) -> bool:
        """Whether the database is at the target already."""
        return self.from_version == self.target_version

    @property
    def is_empty(self) -> bool:
        """Whether no table is touched; true of a no-op and of a declared change of the number alone."""
        return not self.replays and not self.alters

    @property
    def event_types(self) -> tuple[str, ...]:
        """The event types that the replay reads, each once."""
        return tuple(dict.fromkeys(name for step in self.replays for name in step.event_types))

    @property
    def retired_names(self) -> tuple[str, ...]:
        """What the replaced tables will be called."""
        return tuple(step.retired_name for step in self.replays if step.retired_name is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        document: dict[str, Any] = _jsonable(asdict(self))
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        PlanChanged
            It was written by a release whose plans look different.
        """
        try:
            values = dict(document)
            for key, step in (("replays", ReplayStep), ("alters", AlterStep), ("skipped_alters", AlterStep)):
                values[key] = tuple(step(**_tupled(item)) for item in values[key])
            return cls(**_tupled(values))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanChanged(
                f"The stored plan cannot be read by this release: {error}.",
                remedy="Run: sequent migrate abort",
            ) from error


@dataclass(frozen=True, slots=True)
class ResolvedPlan:
    """The classes that a plan names."""

    plan: Plan
    projectors: tuple[ProjectorDefinition, ...]
    records: Mapping[str, type[Record]]
    """By plain table name, for all replayed and altered tables."""


def resolve(plan: Plan, definition: MigrationsDefinition) -> ResolvedPlan:
    """Find the classes that a plan names.

    Raises
    ------
    PlanChanged
        The declaration no longer has one of them.
    """
    projectors = {name: definition.projector(name) for name in plan.projectors}
    steps: tuple[ReplayStep | AlterStep, ...] = (*plan.replays, *plan.alters)
    tables = dict.fromkeys(step.table_name for step in steps)
    missing = [f"projector {name}" for name, found in projectors.items() if found is None]
    missing += [f"table {name}" for name in tables if name not in definition.records]
    if missing:
        raise PlanChanged(
            f"The plan for version {plan.target_version} needs what {definition.name} no longer declares: {', '.join(missing)}.",
            remedy="Restore it, or run: sequent migrate abort",
        )
    found = tuple(projector for projector in projectors.values() if projector is not None)
    return ResolvedPlan(plan, found, {name: definition.records[name] for name in tables})


def _jsonable(value: Any) -> Any:
    """Turn tuples into lists, as JSON does, so that a plan compares alike before and after it was stored."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return [_jsonable(item) for item in value] if isinstance(value, list | tuple) else value


def _tupled(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
