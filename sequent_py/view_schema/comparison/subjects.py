"""The subject of a verification: which tables, by which projectors, are compared with the log. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sequent_py.errors import MigrationError
from sequent_py.projectors import ProjectorDefinition
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.migrations import tables_of
from sequent_py.view_schema.plans import resolve
from sequent_py.view_schema.states import MigrationState


@dataclass(frozen=True)
class Subject:
    """Which tables are verified."""

    kind: str
    """``live`` or ``shadow``."""
    version: int
    migration_id: int | None
    projectors: tuple[ProjectorDefinition, ...]
    physical: dict[str, str]
    """By plain name."""
    suffix: str
    """What the plain names are followed by."""

    def narrowed(self, tables: Sequence[str]) -> Subject:
        """Return what is needed to fold these tables: their projectors, and those that share tables with them."""
        wanted, chosen = set(tables), dict[str, ProjectorDefinition]()
        while True:
            found = [
                item
                for item in self.projectors
                if item.name not in chosen and wanted.intersection(tables_of(item))
            ]
            if not found:
                break
            for item in found:
                chosen[item.name] = item
                wanted.update(tables_of(item))
        kept = tuple(item for item in self.projectors if item.name in chosen)
        return replace(self, projectors=kept)


def find_subject(context: Context, connection: Connection) -> Subject:
    """Return the shadow tables of the unfinished migration, else the live tables.

    Raises
    ------
    MigrationError
        There are none, they are not built yet, or this code's projectors did not write them.
    """
    migration = context.versions.unfinished(connection)
    if migration is not None:
        if migration.state is MigrationState.ONLINE_RUNNING:
            raise MigrationError(
                f"The tables of version {migration.target_version} are not built yet: online is not done.",
                remedy="Run: sequent migrate online",
            )
        plan = migration.plan
        return Subject(
            "shadow",
            plan.target_version,
            migration.id,
            resolve(plan, context.definition).projectors,
            {step.table_name: step.shadow_name for step in plan.replays},
            f"_{plan.target_version}",
        )
    live_version = context.gate.read(connection).live_version
    if live_version == 0:
        raise MigrationError("There are no managed tables yet.", remedy="Run: sequent migrate online")
    if live_version != context.definition.version:
        raise MigrationError(
            f"The live tables are of version {live_version}, this code is of version {context.definition.version}:"
            " its projectors did not write them.",
            remedy=f"Verify with the code of version {live_version}.",
        )
    names = dict.fromkeys(table for item in context.definition.projectors for table in tables_of(item))
    return Subject(
        "live",
        live_version,
        None,
        context.definition.projectors,
        {name: name for name in names},
        "",
    )
