"""The planner: what a view migration will do, decided as a value before anything is done.

:func:`plan` takes the checked declaration and what the bookkeeping says is live, and returns a frozen :class:`Plan` of names; no
database, files, clock or globals.

The rules:

- A projector listed under a version in ``(current, target]`` replays every table it manages, once; all shadow tables carry the
  *target* version as their suffix, whatever version listed them, because the swap promotes them together.
- A table file always describes the newest shape, so a table that is replayed needs no alter, wherever the alter is listed.
- All projectors of a table run in its replay, so all of them must be listed: rows that an unlisted one wrote would be missing.
- A table is rebuilt when its ordering changes: rows that were projected before could have met events in another order.
- What would leave a registered projector without its table, or with a table older than declared, is refused here.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sequent_py.errors import DefinitionError, InvalidTransition
from sequent_py.events import event_type_of
from sequent_py.names import NAME_LIMIT_BYTES
from sequent_py.projectors import ProjectorDefinition
from sequent_py.view_schema.migrations import AlterTable, MigrationsDefinition, tables_of
from sequent_py.view_schema.plans import AlterStep, LiveTable, Plan, ReplayStep, ResolvedPlan, resolve

__all__ = ["AlterStep", "LiveTable", "Plan", "ReplayStep", "ResolvedPlan", "plan", "resolve"]


def plan(
    definition: MigrationsDefinition,
    *,
    current_version: int,
    live: Mapping[str, LiveTable],
    available_alter_files: Container[tuple[str, int]],
) -> Plan:
    """Decide how to bring the view schema from ``current_version`` to the declaration's version.

    ``live`` is keyed by plain table name; ``available_alter_files`` holds (table name, version) of each file found.
    At the target already: a plan whose ``is_noop`` is true, provided the declaration still fits the tables.

    Raises
    ------
    InvalidTransition
        The declaration is older than the database.
    DefinitionError
        The migration could not work, or would leave a projector without an up-to-date table; says what to change.
    """
    if definition.version < current_version:
        raise InvalidTransition(
            f"{definition.name} declares version {definition.version}, and the view schema is at version {current_version} already: "
            "a view migration never goes back.",
            remedy=f"Deploy the code of version {current_version}; or let version {definition.version} serve again, if its tables are kept:"
            " sequent migrate rollback --plan",
        )
    listings = _listings(definition, current_version)
    replays = tuple(_replays(definition, listings, current_version, live))
    alters, skipped = _alters(definition, current_version, {step.table_name for step in replays})
    _refuse_missing_files(alters, available_alter_files)
    _refuse_half_listed(definition, listings, replays)
    _refuse_unbuilt(definition, current_version, replays, live)
    _refuse_outdated(definition, current_version, replays, live)
    _refuse_stale(definition, current_version, replays, live)
    _refuse_reordered(definition, current_version, replays, live)
    _refuse_undeclared(definition, current_version, replays, alters)
    _refuse_names(definition, replays, alters, live)
    return Plan(
        from_version=current_version,
        target_version=definition.version,
        replays=replays,
        alters=alters,
        # In the order in which they project live events, so that two projectors of one table meet alike in both.
        projectors=tuple(projector.name for projector in definition.projectors if projector.name in listings),
        skipped_alters=skipped,
        orphaned=tuple(sorted(name for name in live if not definition.projectors_of(name))),
        warnings=tuple(_warnings(definition, current_version, alters, live)),
    )


@dataclass(frozen=True, slots=True)
class _Listing:
    """A projector to replay, and the pending versions that list it."""

    projector: ProjectorDefinition
    versions: list[int]


def _entries(
    definition: MigrationsDefinition, after: int, until: int
) -> Iterator[tuple[int, ProjectorDefinition | AlterTable]]:
    """Yield the entries of the versions in ``(after, until]``, ascending."""
    for version, entries in definition.versions.items():
        if after < version <= until:
            for entry in entries:
                yield version, entry


def _listings(definition: MigrationsDefinition, current_version: int) -> dict[str, _Listing]:
    """Return the projectors to replay by name, in order of first mention."""
    listings: dict[str, _Listing] = {}
    for version, entry in _entries(definition, current_version, definition.version):
        if isinstance(entry, AlterTable):
            continue
        versions = listings.setdefault(entry.name, _Listing(entry, [])).versions
        if version not in versions:
            versions.append(version)
    return listings


def _replays(
    definition: MigrationsDefinition,
    listings: Mapping[str, _Listing],
    current_version: int,
    live: Mapping[str, LiveTable],
) -> Iterator[ReplayStep]:
    names = [name for listing in listings.values() for name in tables_of(listing.projector)]
    for table_name in dict.fromkeys(names):
        projectors = [item for item in definition.projectors_of(table_name) if item.name in listings]
        event_classes = dict.fromkeys(cls for projector in projectors for cls in projector.event_classes)
        yield ReplayStep(
            table_name=table_name,
            shadow_name=f"{table_name}_{definition.version}",
            retired_name=f"{table_name}_{current_version}" if table_name in live else None,
            projectors=tuple(projector.name for projector in projectors),
            event_types=tuple(event_type_of(cls) for cls in event_classes),
            reason=_reason([listings[projector.name] for projector in projectors]),
            ordering=projectors[0].ordering,
        )


def _reason(listings: Sequence[_Listing]) -> str:
    """Say who asked for a replay: ``listed under version 2 by AccountProjector and TransferProjector``."""
    by_version: dict[int, list[str]] = {}
    for listing in listings:
        for version in listing.versions:
            by_version.setdefault(version, []).append(listing.projector.name)
    parts = (
        f"under version {version} by {' and '.join(by_version[version])}" for version in sorted(by_version)
    )
    return f"listed {', '.join(parts)}"


def _alters(
    definition: MigrationsDefinition, current_version: int, replayed: Container[str]
) -> tuple[tuple[AlterStep, ...], tuple[AlterStep, ...]]:
    """Return the alters to run and those that the replays make unnecessary."""
    steps: dict[tuple[str, int], AlterStep] = {}
    for version, entry in _entries(definition, current_version, definition.version):
        if isinstance(entry, AlterTable):
            name = entry.table_name
            reason = f"listed under version {version}"
            if name in replayed:
                reason += "; not run, because the table is replayed and its table file has the newest shape"
            steps.setdefault((name, version), AlterStep(name, version, f"{name}_{version}.sql", reason))
    return (
        tuple(step for step in steps.values() if step.table_name not in replayed),
        tuple(step for step in steps.values() if step.table_name in replayed),
    )


def _refuse_missing_files(alters: Sequence[AlterStep], available: Container[tuple[str, int]]) -> None:
    missing = [step for step in alters if (step.table_name, step.version) not in available]
    if missing:
        raise DefinitionError(
            "; ".join(
                f"Version {step.version} alters {step.table_name}, and {step.file_name} is missing"
                for step in missing
            )
            + ".",
            remedy="Write the file into the sql directory, or list the projector instead to replay the table.",
        )


def _refuse_half_listed(
    definition: MigrationsDefinition, listings: Mapping[str, _Listing], replays: Sequence[ReplayStep]
) -> None:
    """A replay starts from an empty table, so rows of a projector that takes no part would be missing from it."""
    for step in replays:
        unlisted = [
            item.name for item in definition.projectors_of(step.table_name) if item.name not in listings
        ]
        if unlisted:
            raise DefinitionError(
                f"{step.table_name} is to be replayed ({step.reason}), but {' and '.join(unlisted)} "
                f"{'writes' if len(unlisted) == 1 else 'write'} to it too and would take no part.",
                remedy=f"List {' and '.join((*step.projectors, *unlisted))} under version {definition.version}.",
            )


def _refuse_reordered(
    definition: MigrationsDefinition,
    current_version: int,
    replays: Sequence[ReplayStep],
    live: Mapping[str, LiveTable],
) -> None:
    """A live table holds what its old ordering made of the events; only a replay makes it what the new one would have."""
    replayed = {step.table_name for step in replays}
    for name, table in live.items():
        for projector in definition.projectors_of(name):
            if name not in replayed and projector.ordering != table.ordering:
                raise DefinitionError(
                    f"{projector.name} declares ordering {projector.ordering!r}, but the live {name} was built with {table.ordering!r}.",
                    remedy=_list_anew(definition, current_version, projector.name),
                )


def _refuse_unbuilt(
    definition: MigrationsDefinition,
    current_version: int,
    replays: Sequence[ReplayStep],
    live: Mapping[str, LiveTable],
) -> None:
    built = {step.table_name for step in replays} | set(live)
    for projector in definition.projectors:
        missing = [name for name in tables_of(projector) if name not in built]
        if missing:
            raise DefinitionError(
                f"{projector.name} needs {' and '.join(missing)}, which neither exists nor is built on the way "
                f"from version {current_version} to {definition.version}.",
                remedy=_list_anew(definition, current_version, projector.name),
            )


def _refuse_outdated(
    definition: MigrationsDefinition,
    current_version: int,
    replays: Sequence[ReplayStep],
    live: Mapping[str, LiveTable],
) -> None:
    """Entries of versions that are done must have been carried out: one added afterwards never would be."""
    replayed = {step.table_name for step in replays}
    for version, entry in _entries(definition, 0, current_version):
        is_alter = isinstance(entry, AlterTable)
        for name in (entry.table_name,) if isinstance(entry, AlterTable) else tables_of(entry):
            table = live.get(name)
            if table is None or name in replayed:
                continue
            has = table.shape_version if is_alter else table.built_version
            if version > has:
                what = f"alter_table of {name}" if isinstance(entry, AlterTable) else entry.name
                raise DefinitionError(
                    f"{what} is listed under version {version}, but the live {name} was "
                    f"{'last built or altered' if is_alter else 'built'} at version {has}, "
                    f"and version {current_version} is live already: the entry would never be carried out.",
                    remedy=_list_anew(definition, current_version, what),
                )


def _refuse_stale(
    definition: MigrationsDefinition,
    current_version: int,
    replays: Sequence[ReplayStep],
    live: Mapping[str, LiveTable],
) -> None:
    """A projector that was away and has come back must rebuild its tables: they lack the events of the meantime."""
    replayed = {step.table_name for step in replays}
    for name, table in live.items():
        projectors = definition.projectors_of(name)
        if table.unmanaged_since is not None and projectors and name not in replayed:
            names = " and ".join(projector.name for projector in projectors)
            raise DefinitionError(
                f"{names} manages {name}, which no projector has kept up to date since version {table.unmanaged_since}.",
                remedy=_list_anew(definition, current_version, names),
            )


def _refuse_undeclared(
    definition: MigrationsDefinition,
    current_version: int,
    replays: Sequence[ReplayStep],
    alters: Sequence[AlterStep],
) -> None:
    """A migration that does nothing must be meant: the target's own entry says so with an empty list."""
    target = definition.version
    if target > current_version and target not in definition.versions and not replays and not alters:
        raise DefinitionError(
            f"{definition.name}.version is {target}, but versions has no entry for {target}: nothing would be built.",
            remedy=f"List what changed under {target}; {target}: [] declares that nothing did.",
        )


def _refuse_names(
    definition: MigrationsDefinition,
    replays: Sequence[ReplayStep],
    alters: Sequence[AlterStep],
    live: Mapping[str, LiveTable],
) -> None:
    """PostgreSQL would cut a name that is too long, and two tables can't share one."""
    plain = {*definition.records, *live}
    made = [(step.shadow_name, "shadow table") for step in replays]
    made += [(step.retired_name, "retired table") for step in replays if step.retired_name is not None]
    for name, kind in made:
        size = len(name.encode())
        if size > NAME_LIMIT_BYTES:
            raise DefinitionError(
                f"The name of the {kind} {name!r} would be {size} bytes long; PostgreSQL cuts names at {NAME_LIMIT_BYTES}.",
                remedy="Choose a shorter __tablename__.",
            )
        if name in plain:
            raise DefinitionError(
                f"The {kind} {name!r} would carry the name of another managed table.",
                remedy="Choose a __tablename__ that does not end with an underscore and a number.",
            )
    for step in alters:
        if step.file_name.removesuffix(".sql") in plain:
            raise DefinitionError(
                f"{step.file_name} would be both the alter file of {step.table_name} and the table file of another table.",
                remedy="Choose a __tablename__ that does not end with an underscore and a number.",
            )


def _warnings(
    definition: MigrationsDefinition,
    current_version: int,
    alters: Sequence[AlterStep],
    live: Mapping[str, LiveTable],
) -> Iterator[str]:
    for step in alters:
        if step.table_name not in live:
            yield (
                f"Version {step.version} alters {step.table_name}, which no view migration has built and no listed projector "
                f"manages: {step.file_name} must work on what the database has."
            )
    target = definition.version
    if target > current_version and target not in definition.versions:
        yield f"{definition.name}.version is {target}, and versions has no entry for {target}; versions up to {max(definition.versions)} are carried out."


def _list_anew(definition: MigrationsDefinition, current_version: int, what: str) -> str:
    """Say which version can still carry an entry out."""
    if definition.version > current_version:
        return f"List {what} under version {definition.version}."
    number = current_version + 1
    return f"List {what} under version {number}, and set {definition.name}.version = {number}."
