"""What swaps have left behind: retired tables, and live ones that no projector manages any more, by the migration whose swap it was.

A generation is what one migration needs to be rolled back, or to go forth again. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sequent_py.errors import PlanChanged
from sequent_py.view_schema.bookkeeping.relations import TableRole, ViewTable
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.states import MigrationState


@dataclass(frozen=True, slots=True)
class Generation:
    """Tables of one version that serve no more."""

    version: int
    """The version that they last served."""
    migration_id: int | None
    """The migration whose swap left them; None where no record of it is left."""
    tables: tuple[str, ...]
    """Retired tables, by the names under which they are kept."""
    orphaned: tuple[str, ...]
    """Tables under their plain names that no projector has managed since."""
    retired_at: datetime | None
    leads_from: int | None
    """The version that serves when this generation can come back; None when it never can."""
    obstacle: str = ""
    """Why it never can, where that is not because some of it is gone."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of its tables, as they are called now."""
        return (*self.tables, *self.orphaned)

    @property
    def way(self) -> str:
        """What it makes possible: ``from version 3 back to 2``."""
        if self.leads_from is None:
            return f"nothing: {self.obstacle or 'the rest of it is gone'}"
        back_or_forth = "back" if self.version < self.leads_from else "forth"
        return f"from version {self.leads_from} {back_or_forth} to {self.version}"


def generations(history: Sequence[ViewMigration], tables: Iterable[ViewTable]) -> list[Generation]:
    """Return what is kept, the one that the latest swap left first, and remains that make nothing possible last.

    ``history`` is newest first.
    """
    by_id = {migration.id: migration for migration in history}
    retired: dict[int, list[ViewTable]] = {}
    orphaned: dict[int | None, list[ViewTable]] = {}
    for table in tables:
        if table.role is TableRole.RETIRED and table.retired_by is not None:
            retired.setdefault(table.retired_by, []).append(table)
        elif table.role is TableRole.LIVE and table.unmanaged_since is not None:
            orphaned.setdefault(_orphaned_by(history, table.unmanaged_since), []).append(table)
    found = [
        _generation(by_id.get(key) if key is not None else None, key, retired.get(key or 0, []), orphaned.get(key, []))
        for key in dict.fromkeys((*retired, *orphaned))
    ]  # fmt: skip
    return sorted(_without_dead_ends(history, found), key=_rank, reverse=True)


def _without_dead_ends(history: Sequence[ViewMigration], found: Sequence[Generation]) -> list[Generation]:
    """Take ways away that no rollback can go: through an alteration in place, which cannot be undone, or from a version behind one."""
    altered = {migration.id: tables for migration in history if (tables := _altered_in_place(migration))}
    passable = [migration for migration in history if migration.id not in altered]
    behind = _within_reach(history, history) - _within_reach(history, passable)
    blocking = next((migration for migration in history if migration.id in altered), None)
    return [
        replace(
            item,
            leads_from=None,
            obstacle=f"version {blocking.target_version} altered {altered[blocking.id]} in place, which cannot be undone",
        )
        if blocking is not None and (item.migration_id in altered or item.leads_from in behind)
        else item
        for item in found
    ]


def _altered_in_place(migration: ViewMigration) -> str:
    """Name the tables that a promoted migration altered; empty where it altered none."""
    try:
        is_promoted = migration.state is MigrationState.LIVE
        return ", ".join(step.table_name for step in migration.plan.alters) if is_promoted else ""
    except PlanChanged:
        # Another release recorded it, and may know that it altered nothing.
        return ""


def _within_reach(history: Sequence[ViewMigration], passable: Sequence[ViewMigration]) -> set[int]:
    """Return the versions that can come to serve by rollbacks, one after the other, through the passable migrations."""
    live = (item.target_version for item in history if item.state is MigrationState.LIVE)
    reached = set(list(live)[:1])
    ways = [
        (item.from_version, item.target_version)
        if item.state is MigrationState.ROLLED_BACK
        else (item.target_version, item.from_version)
        for item in passable
        if item.state in (MigrationState.LIVE, MigrationState.ROLLED_BACK)
    ]
    for _ in ways:
        reached |= {end for start, end in ways if start in reached}
    return reached


def _orphaned_by(history: Sequence[ViewMigration], version: int) -> int | None:
    """Return the migration since which a table is unmanaged: a rollback would have given it back."""
    for migration in history:
        if migration.state is MigrationState.LIVE and migration.target_version == version:
            return migration.id
    return None


def _generation(
    migration: ViewMigration | None,
    migration_id: int | None,
    retired: Sequence[ViewTable],
    orphaned: Sequence[ViewTable],
) -> Generation:
    times = [table.retired_at for table in retired if table.retired_at is not None]
    swapped_at = None if migration is None else migration.rolled_back_at or migration.finished_at
    if migration is None:
        version = max(
            [*(table.version for table in retired), *((table.unmanaged_since or 1) - 1 for table in orphaned)]
        )
        leads_from = None
    elif migration.state is MigrationState.ROLLED_BACK:
        version, leads_from = migration.target_version, migration.from_version
    else:
        version, leads_from = migration.from_version, migration.target_version
    if migration is not None and not _is_whole(migration, {table.table_name for table in retired}):
        leads_from = None
    return Generation(
        version=version,
        migration_id=migration_id,
        tables=tuple(sorted(table.physical_name for table in retired)),
        orphaned=tuple(sorted(table.table_name for table in orphaned)),
        retired_at=max(times, default=swapped_at),
        leads_from=leads_from,
    )


def _is_whole(migration: ViewMigration, retired: Collection[str]) -> bool:
    """Whether every table that the way through this migration needs is still recorded."""
    try:
        steps = migration.plan.replays
    except PlanChanged:
        # Another release recorded it, and may still know the way.
        return True
    is_forth = migration.state is MigrationState.ROLLED_BACK
    return all(step.table_name in retired for step in steps if is_forth or step.retired_name is not None)


def _rank(generation: Generation) -> tuple[bool, float, int]:
    at = generation.retired_at
    return (
        generation.leads_from is not None,
        at.timestamp() if at is not None else 0.0,
        generation.migration_id or 0,
    )
