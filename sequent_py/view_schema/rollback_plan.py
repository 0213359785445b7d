"""What a rollback will do, decided as a value before anything is done. Pure: no database, files, clock or globals.

Going back and going forth are one thing. A swap leaves two generations of tables behind it: those that serve and those that it retired.
The code of the version that does not serve can change places with the one that does: back, from a ``live`` migration to the version that
it started from; forth, from a ``rolled_back`` one to its target. The rules:

- Tables that retired in the swap come back. Those that have nobody to give way to (a table that the newer version introduced) retire.
- A table that the newer version no longer manages stayed under its plain name, and nobody wrote to it: it is brought up to date in place.
- Tables that the migration did not touch were kept up to date all along.
- A table that was stale when it retired comes back as stale as it was: no projector of this version manages it.
- An alter file that ran in place can't be undone, so such a migration can't be rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from sequent_py.errors import DefinitionError, InvalidTransition, PlanChanged
from sequent_py.events import event_type_of
from sequent_py.projectors import ProjectorDefinition
from sequent_py.view_schema import planner
from sequent_py.view_schema.bookkeeping.relations import Exchange, TableRole, ViewTable
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.migrations import MigrationsDefinition, tables_of
from sequent_py.view_schema.plans import LiveTable, Plan, ReplayStep
from sequent_py.view_schema.states import MigrationState


@dataclass(frozen=True, slots=True)
class RollbackOutlook:
    """What ``status`` and ``check`` say of a rollback with the code that asks."""

    is_possible: bool
    message: str
    """What would happen, or why it cannot."""
    pending_events: int | None = None
    """What would have to be replayed as of now."""


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """One rollback, back or forth."""

    migration: ViewMigration
    """Whose swap is undone, or done again."""
    swap: Plan
    """The tables that come back; a step's shadow name is the name under which the table was kept."""
    replay: Plan
    """The tables to bring up to date, under the names that they have until the swap."""
    exchange: Exchange
    introduced: Mapping[str, str]
    """Tables that leave with nobody to take their place, and the names under which they will be kept."""

    @property
    def from_version(self) -> int:
        """The version that serves."""
        return self.exchange.from_version

    @property
    def target_version(self) -> int:
        """The version of the code, which will serve again."""
        return self.exchange.target_version

    @property
    def leaving(self) -> Plan:
        """The tables that leave as a plan has them, for the checks that every swap needs."""
        return Plan(
            self.from_version,
            self.target_version,
            replays=tuple(
                ReplayStep(name, "", retired_name, (), (), "")
                for name, retired_name in self.exchange.leaving.items()
            ),
        )

    @property
    def is_forth(self) -> bool:
        """Whether a migration that was rolled back is to go live again."""
        return self.target_version > self.from_version

    @property
    def to_state(self) -> MigrationState:
        """What the migration becomes."""
        return MigrationState.LIVE if self.is_forth else MigrationState.ROLLED_BACK

    @property
    def physical_names(self) -> tuple[str, ...]:
        """Every table that the swap renames or the replay writes, as it is called now."""
        names = (*self.exchange.leaving, *self.exchange.returning.values(), *self.exchange.managed)
        return tuple(dict.fromkeys(names))


def decide(
    definition: MigrationsDefinition,
    *,
    live_version: int,
    history: Sequence[ViewMigration],
    tables: Sequence[ViewTable],
) -> RollbackPlan | None:
    """Decide how this code's version comes to serve again; None where it does already.

    ``history`` is newest first, ``tables`` are all that are recorded.

    Raises
    ------
    InvalidTransition
        There is no such way, or it is closed: which code can go where, or what is missing.
    PlanChanged
        The migration was recorded by another release.
    """
    if definition.version == live_version:
        return None
    if history and not history[0].state.is_finished:
        raise InvalidTransition(
            f"A view migration to version {history[0].target_version} is unfinished ({history[0].state}).",
            remedy="Run first, with any code: sequent migrate abort",
        )
    migration = (
        _to_undo(definition.version, live_version, history)
        if definition.version < live_version
        else _to_redo(definition.version, live_version, history)
    )
    plan = _stored_plan(migration)
    _refuse_alters(migration, plan)
    live = {table.table_name: table for table in tables if table.role is TableRole.LIVE}
    retired = {table.table_name: table for table in tables if table.retired_by == migration.id}
    exchange = _exchange(definition, migration, plan, live_version, live, retired)
    _refuse_misfit(definition, exchange, live, retired)
    return RollbackPlan(
        migration=migration,
        swap=_swap_plan(exchange, retired),
        replay=_replay_plan(definition, exchange, retired),
        exchange=exchange,
        introduced={name: kept for name, kept in exchange.leaving.items() if name not in exchange.returning},
    )


def _to_undo(code_version: int, live_version: int, history: Sequence[ViewMigration]) -> ViewMigration:
    """Return the migration that made the live version live: the newest, for others may have been aborted or rolled back since."""
    for migration in history:
        if migration.state is MigrationState.LIVE and migration.target_version == live_version:
            if migration.from_version == 0:
                raise InvalidTransition(
                    f"Version {live_version} is the first that was live; there is none to go back to.",
                    remedy="Migrate to a newer version instead.",
                )
            if migration.from_version != code_version:
                raise InvalidTransition(
                    f"Version {live_version} can be rolled back to version {migration.from_version}; this code is of version"
                    f" {code_version}.",
                    remedy=f"Run it with the code of version {migration.from_version}: sequent migrate rollback",
                )
            return migration
    raise InvalidTransition(
        f"No view migration is recorded as having made version {live_version} live; it cannot be rolled back.",
        remedy="See: sequent migrate status",
    )


def _to_redo(code_version: int, live_version: int, history: Sequence[ViewMigration]) -> ViewMigration:
    """Return the newest migration from the live version that was rolled back from the code's."""
    rolled_back = [
        migration
        for migration in history
        if migration.state is MigrationState.ROLLED_BACK and migration.from_version == live_version
    ]
    for migration in rolled_back:
        if migration.target_version == code_version:
            return migration
    if rolled_back:
        version = rolled_back[0].target_version
        raise InvalidTransition(
            f"Version {live_version} is live, and version {version} was rolled back; this code is of version {code_version}.",
            remedy=f"Migrate to version {code_version}: sequent migrate online; or go forth with the code of version {version}:"
            " sequent migrate rollback",
        )
    raise InvalidTransition(
        f"Version {live_version} is live, and no newer one has been; there is nothing to roll back to version {code_version}.",
        remedy="To migrate: sequent migrate online; to go back: sequent migrate rollback with the code of the older version",
    )


def _stored_plan(migration: ViewMigration) -> Plan:
    try:
        return migration.plan
    except PlanChanged as error:
        raise PlanChanged(
            f"View migration {migration.id} cannot be rolled back by this release: {error.message}",
            remedy="Use the release that recorded it.",
        ) from error


def _refuse_alters(migration: ViewMigration, plan: Plan) -> None:
    if plan.alters:
        files = ", ".join(f"{step.table_name} by {step.file_name}" for step in plan.alters)
        raise InvalidTransition(
            f"The migration from version {migration.from_version} to {migration.target_version} altered in place: {files}."
            " That cannot be undone.",
            remedy=f"Migrate to a newer version that lists the projectors of version {migration.from_version}.",
        )


def _exchange(
    definition: MigrationsDefinition,
    migration: ViewMigration,
    plan: Plan,
    live_version: int,
    live: Mapping[str, ViewTable],
    retired: Mapping[str, ViewTable],
) -> Exchange:
    """Say which tables come, go, and change hands."""
    is_forth = definition.version > live_version
    returning: dict[str, str] = {}
    leaving: dict[str, str] = {}
    for step in plan.replays:
        name = step.table_name
        if is_forth or step.retired_name is not None:
            if name not in retired:
                _refuse_missing(migration, definition.version, name)
            returning[name] = retired[name].physical_name
        if not is_forth or step.retired_name is not None:
            if name not in live:
                _refuse_missing(migration, live_version, name)
            leaving[name] = f"{name}_{live_version}"
    managed: tuple[str, ...] = ()
    unmanaged: tuple[str, ...] = ()
    if is_forth:
        unmanaged = tuple(
            name for name in plan.orphaned if name in live and live[name].unmanaged_since is None
        )
    else:
        # Whether this migration orphaned it, or an earlier one did, its row says.
        managed = tuple(
            sorted(name for name, table in live.items() if table.unmanaged_since == migration.target_version)
        )
        for name in plan.orphaned:
            if name not in live and definition.projectors_of(name):
                _refuse_missing(migration, definition.version, name)
    return Exchange(live_version, definition.version, leaving, returning, managed, unmanaged)


def _refuse_missing(migration: ViewMigration, version: int, table_name: str) -> NoReturn:
    raise InvalidTransition(
        f"The table {table_name} of version {version} is no longer recorded: it was pruned, or its record was deleted."
        f" View migration {migration.id} ({migration.from_version} to {migration.target_version}, {migration.state}) cannot be rolled back.",
        remedy=f"Build what version {version} needs anew: list its projectors under a newer version, then sequent migrate online",
    )


def _swap_plan(exchange: Exchange, retired: Mapping[str, ViewTable]) -> Plan:
    return Plan(
        exchange.from_version,
        exchange.target_version,
        replays=tuple(
            ReplayStep(
                table_name=name,
                shadow_name=physical_name,
                retired_name=exchange.leaving.get(name),
                projectors=(),
                event_types=(),
                reason=f"kept since version {retired[name].version}",
            )
            for name, physical_name in exchange.returning.items()
        ),
    )


def _replay_plan(
    definition: MigrationsDefinition, exchange: Exchange, retired: Mapping[str, ViewTable]
) -> Plan:
    """Say which tables are brought up to date by which projectors; all of this version's projectors of a table take part."""
    physical_names = {
        name: physical_name
        for name, physical_name in exchange.returning.items()
        if retired[name].unmanaged_since is None
    } | {name: name for name in exchange.managed}
    steps = tuple(_steps(definition, exchange, physical_names))
    taking_part = {name for step in steps for name in step.projectors}
    projectors = [item for item in definition.projectors if item.name in taking_part]
    for projector in projectors:
        _refuse_half_kept(projector, physical_names, exchange)
    return Plan(
        exchange.from_version,
        exchange.target_version,
        replays=steps,
        projectors=tuple(item.name for item in projectors),
    )


def _steps(
    definition: MigrationsDefinition, exchange: Exchange, physical_names: Mapping[str, str]
) -> Iterator[ReplayStep]:
    for name, physical_name in physical_names.items():
        projectors = definition.projectors_of(name)
        if not projectors:
            raise InvalidTransition(
                f"Version {exchange.target_version} kept {name} up to date, and this code has no projector for it.",
                remedy=f"Use the code that was deployed as version {exchange.target_version}.",
            )
        event_classes = dict.fromkeys(cls for projector in projectors for cls in projector.event_classes)
        yield ReplayStep(
            table_name=name,
            shadow_name=physical_name,
            retired_name=exchange.leaving.get(name),
            projectors=tuple(projector.name for projector in projectors),
            event_types=tuple(event_type_of(cls) for cls in event_classes),
            reason=f"not kept up to date since version {exchange.from_version} went live",
        )


def _refuse_half_kept(
    projector: ProjectorDefinition, physical_names: Mapping[str, str], exchange: Exchange
) -> None:
    """A projector that runs writes all of its tables: one that was kept up to date would get the events a second time."""
    kept = [name for name in tables_of(projector) if name not in physical_names]
    if kept:
        stale = [name for name in tables_of(projector) if name in physical_names]
        raise InvalidTransition(
            f"{projector.name} of version {exchange.target_version} manages {' and '.join(stale)}, to be brought up to date, and"
            f" {' and '.join(kept)}, which version {exchange.from_version} has kept up to date: it cannot do the one without the other.",
            remedy=f"Build its tables anew: list it under version {max(exchange.from_version, exchange.target_version) + 1},"
            " then sequent migrate online",
        )


def _refuse_misfit(
    definition: MigrationsDefinition,
    exchange: Exchange,
    live: Mapping[str, ViewTable],
    retired: Mapping[str, ViewTable],
) -> None:
    """Show that the code is at home among the tables that will serve, as the planner sees it."""
    after = {name: _live_table(table) for name, table in live.items() if name not in exchange.leaving}
    after |= {name: _live_table(retired[name]) for name in exchange.returning}
    for name in exchange.managed:
        after[name] = replace(after[name], unmanaged_since=None)
    for name in exchange.unmanaged:
        after[name] = replace(after[name], unmanaged_since=exchange.target_version)
    try:
        planner.plan(
            definition, current_version=exchange.target_version, live=after, available_alter_files=()
        )
    except DefinitionError as error:
        raise InvalidTransition(
            f"This code does not fit the tables of version {exchange.target_version}: {error.message}",
            remedy=f"Use the code that was deployed as version {exchange.target_version}.",
        ) from error


def _live_table(table: ViewTable) -> LiveTable:
    return LiveTable(
        table.table_name, table.built_version, table.altered_version, table.unmanaged_since, table.ordering
    )
