"""The swap: shadow tables take the place of the live ones, which retire, in the caller's transaction.

Locks live, altered and shadow tables, and the views that read them, ACCESS EXCLUSIVE in an order that its readers keep, too
(:mod:`sequent_py.view_schema.ddl.locks`); the caller sets ``lock_timeout`` and repeats. Everything after the locks is catalog work of
milliseconds: nothing is rewritten or scanned, save what an alter file does. Whatever carries the table's name is renamed with it: the retired table's objects
get the names that they were built under, the new table's the plain ones, so that ``pg_dump`` shows the table as its files create it. What
was done to the live table by hand follows (:mod:`sequent_py.view_schema.tables.carry_over`), and views of others read the new tables
(:mod:`sequent_py.view_schema.tables.views`). Nothing is dropped, except that a retired table
gives up its foreign keys to tables that stay: its old rows would keep theirs from being deleted.

Retired tables can be promoted again by the same function: their blueprints are the shadows then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.errors import DefinitionError, DependentObjects, MigrationError
from sequent_py.names import NAME_LIMIT_BYTES
from sequent_py.view_schema.ddl import locks, table_files
from sequent_py.view_schema.ddl.alter_trial import AlterScript
from sequent_py.view_schema.plans import Plan
from sequent_py.view_schema.tables import carry_over, catalog, dependents, foreign_keys, views
from sequent_py.view_schema.tables.blueprints import (
    HOLDER_KINDS,
    ON_TABLE_KINDS,
    CatalogObject,
    Key,
    ObjectName,
    TableBlueprint,
)
from sequent_py.view_schema.tables.outside_tables import OutsideTable, outside_tables
from sequent_py.view_schema.tables.renames import Rename, rename_all, suffixed_name
from sequent_py.view_schema.tables.script import run_script
from sequent_py.view_schema.tables.views import View

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What a swap did; to be recorded in its transaction."""

    live: tuple[TableBlueprint, ...]
    """Of each table that was promoted or altered."""
    retired_blueprints: tuple[TableBlueprint, ...]
    warnings: tuple[str, ...]
    repointed_views: tuple[str, ...] = ()
    """Of others, with their schemas."""

    @property
    def retired(self) -> tuple[str, ...]:
        """The retired tables' names."""
        return tuple(blueprint.physical_name for blueprint in self.retired_blueprints)


def check_retired_names(
    connection: Connection, *, view_schema: str, plan: Plan, live: Mapping[str, TableBlueprint]
) -> None:
    """Refuse a plan whose retired tables could not get their names; to be called before any work is done.

    Raises
    ------
    DefinitionError
        A name is longer than PostgreSQL keeps, or taken.
    """
    taken = catalog.taken_names(connection, view_schema)
    for step in plan.replays:
        if step.table_name not in live or step.retired_name is None:
            continue
        size = len(step.retired_name.encode())
        if size > NAME_LIMIT_BYTES:
            raise DefinitionError(
                f"The retired table would be called {step.retired_name}, which is {size} bytes long; "
                f"PostgreSQL cuts names at {NAME_LIMIT_BYTES}.",
                remedy=f"Shorten the name of {step.table_name}.",
            )
        if step.retired_name in taken:
            raise DefinitionError(
                f"The retired table would be called {step.retired_name}, and the schema {view_schema} has something of that name.",
                remedy="Rename or drop it; a table that an earlier swap retired: sequent migrate prune",
            )


def serving_tables(plan: Plan, live: Mapping[str, TableBlueprint]) -> list[str]:
    """Return the tables that serve and that the swap will rename or alter, by name."""
    retiring = [live[step.table_name] for step in plan.replays if step.table_name in live]
    return sorted({*_tables(retiring), *(step.table_name for step in plan.alters)})


def serving_views(
    connection: Connection, *, view_schema: str, tables: Collection[str], live: Mapping[str, TableBlueprint]
) -> list[tuple[str, str]]:
    """Return schema and name of the views that read live tables which a swap will replace, in the order in which they must be locked.

    A swap locks them before the tables, as their readers do; who locks the tables of a swap beforehand must do so, too.
    """
    retiring = [live[table] for table in tables if table in live]
    found = dependents.dependents(connection, view_schema, [item.table for item in retiring], live=live)
    reading = _views(found) | views.own_views(connection, view_schema, retiring)
    return views.outermost_first(connection, reading) if reading else []


def outside(
    connection: Connection,
    *,
    view_schema: str,
    plan: Plan,
    shadows: Mapping[str, TableBlueprint],
    live: Mapping[str, TableBlueprint],
    leaving: Collection[str] = (),
) -> list[OutsideTable]:
    """Return the tables that stay and that foreign keys of the swap's tables refer to, in the order in which they must be locked.

    A swap locks them, too; who locks the tables of a swap beforehand must do so before the gate (:mod:`sequent_py.view_schema.tables.outside_tables`).
    """
    promoted = [shadows[step.table_name] for step in plan.replays]
    names = [*(blueprint.table for blueprint in promoted), *leaving]
    retiring = _tables(live[name] for name in names if name in live)
    return outside_tables(
        connection,
        view_schema,
        leaving=retiring,
        replaced={*retiring, *_tables(promoted), *(step.table_name for step in plan.alters)},
        managed=_tables(live[name] for name in live),
        suspended=[item for blueprint in promoted for item in blueprint.suspended],
    )


def rehearse(
    connection: Connection,
    *,
    view_schema: str,
    shadows: Mapping[str, TableBlueprint],
    live: Mapping[str, TableBlueprint],
) -> None:
    """Run everything that :func:`swap` reads, and change nothing: where others will wait for it, its statements are planned by then.

    Planning is three quarters of their time; what they read is read again by the swap, under its locks.
    """
    retiring = [live[table] for table in shadows if table in live]
    with connection.transaction():
        dependents.dependents(connection, view_schema, [item.table for item in retiring], live=live)
        carry_over.read_properties(connection, view_schema, _holders([*retiring, *shadows.values()]))
        catalog.taken_names(connection, view_schema)
        foreign_keys.outgoing(connection, view_schema, _tables(retiring))
        for blueprint in retiring:
            _serving_objects(connection, view_schema, blueprint)


def swap(
    connection: Connection,
    *,
    view_schema: str,
    plan: Plan,
    shadows: Mapping[str, TableBlueprint],
    live: Mapping[str, TableBlueprint],
    alters: Sequence[AlterScript] = (),
    leaving: Mapping[str, str] | None = None,
    view_locks: Sequence[tuple[str, str]] | None = None,
    outside_locks: Sequence[OutsideTable] | None = None,
) -> SwapResult:
    """Promote the plan's shadow tables and run its alter files, in the caller's transaction.

    ``shadows`` and ``live`` are blueprints by plain table name. ``leaving`` are tables that retire with nobody to take their place, and
    the names that they get. ``view_locks`` and ``outside_locks`` are what :func:`serving_views` and :func:`outside` returned a moment ago, for
    callers whose locks are waited for already; only the order of locks rests on them.

    Raises
    ------
    psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected
        Not now; roll back and try again.
    DependentObjects
        Something has come to depend on a live table since the plan was checked.
    TableFileError
        An alter file fails.
    MigrationError
        Objects are missing, or a property cannot be carried over.
    """
    promoted = [shadows[step.table_name] for step in plan.replays]
    leaving = leaving or {}
    retiring = [live[blueprint.table] for blueprint in promoted if blueprint.table in live]
    retiring += [live[table] for table in leaving]
    altered = list(dict.fromkeys(item.files.table for item in alters))
    if view_locks is None:
        replaced = [blueprint.table for blueprint in retiring]
        view_locks = serving_views(connection, view_schema=view_schema, tables=replaced, live=live)
    tables = {*altered, *_tables(retiring)}
    tables |= {item.name for blueprint in promoted for item in blueprint.names if item.kind == "table"}
    if outside_locks is None:
        outside_locks = outside(
            connection, view_schema=view_schema, plan=plan, shadows=shadows, live=live, leaving=leaving
        )
    locks.lock_for_swap(connection, view_schema, views=view_locks, tables=tables, outside=outside_locks)
    # Under the locks nothing more can come to depend on the tables.
    found = dependents.dependents(connection, view_schema, [item.table for item in retiring], live=live)
    dependents.refuse(found)
    readers = views.read_views(connection, _views(found), search_path=[])
    serving = carry_over.read_properties(connection, view_schema, _holders(retiring))
    names = {step.table_name: step.retired_name for step in plan.replays} | dict(leaving)
    retired = _retire(connection, view_schema, plan.from_version, names, retiring, promoted)
    _promote(connection, view_schema, promoted)
    promoted, warnings = _carry_over(connection, view_schema, promoted, retired, serving)
    for blueprint in retired:
        if blueprint.table in leaving:
            for name in _leave_publications(connection, view_schema, blueprint):
                warnings.append(f"{blueprint.table} has left the publication {name}, and will not rejoin it.")
    _repoint(connection, view_schema, readers, retired)
    changed = [_alter(connection, view_schema, live[table], alters) for table in altered]
    return SwapResult(
        (*promoted, *changed), tuple(retired), tuple(warnings), tuple(view.described for view in readers)
    )


def _views(found: Iterable[dependents.Dependent]) -> set[int]:
    return {item.relation for item in found if item.is_view}


def _repoint(
    connection: Connection,
    schema: str,
    readers: Sequence[View],
    retired: Sequence[TableBlueprint],
) -> None:
    """Let the views that read retired tables read their successors, and make sure that nothing is left on a retired one."""
    if not readers:
        return
    for item in (item for blueprint in retired for item in blueprint.names if item.kind == "table"):
        views.refuse_moved_columns(
            connection, readers, plain=item.plain, old=(schema, item.name), new=(schema, item.plain)
        )
    views.repoint(connection, readers)
    left = dependents.left_on(connection, schema, retired)
    if left:
        listed = "; ".join(f"{item.kind} {item.description} on {item.table}" for item in left)
        raise DependentObjects(
            f"After the swap these would go on reading the old tables: {listed}.",
            remedy="Drop them before the migration and create them again after it.",
        )


def _tables(blueprints: Iterable[TableBlueprint]) -> list[str]:
    return [name for blueprint in blueprints for name in carry_over.tables_of(blueprint)]


def _holders(blueprints: Iterable[TableBlueprint]) -> set[carry_over.Holder]:
    return {holder for blueprint in blueprints for holder in carry_over.holders_of(blueprint)}


def _retire(
    connection: Connection,
    schema: str,
    from_version: int,
    names: Mapping[str, str | None],
    retiring: Sequence[TableBlueprint],
    promoted: Sequence[TableBlueprint],
) -> list[TableBlueprint]:
    """Rename the live tables and all that is theirs out of the way."""
    taken = {*catalog.taken_names(connection, schema)}
    taken |= {item.plain for blueprint in promoted for item in blueprint.names}
    outgoing = foreign_keys.outgoing(connection, schema, _tables(retiring))
    suspended = foreign_keys.suspend(connection, schema, outgoing)
    retired: list[TableBlueprint] = []
    renames: list[Rename] = []
    for blueprint in retiring:
        name = names[blueprint.table]
        if name is None:
            raise MigrationError(
                f"The plan does not say what {blueprint.table} will be called when it retires."
            )
        objects = _serving_objects(connection, schema, blueprint)
        gone = tuple(item for item in suspended if item.table in carry_over.tables_of(blueprint))
        own_names = _own_names(blueprint, objects, name, f"_{from_version}", taken)
        renames += [Rename(item.kind, item.table, item.plain, item.name, item.source) for item in own_names]
        retired.append(replace(blueprint, physical_name=name, names=tuple(own_names), suspended=gone))
    rename_all(connection, schema, renames)
    _name_copies(
        connection, schema, [[item.name for item in each.names if item.kind == "table"] for each in retired]
    )
    return retired


def _name_copies(connection: Connection, schema: str, tables: Iterable[Sequence[str]]) -> None:
    # Only a table with partitions, which are tables of its files, has any.
    foreign_keys.name_copies(
        connection, schema, [name for names in tables if len(names) > 1 for name in names]
    )


def _serving_objects(connection: Connection, schema: str, blueprint: TableBlueprint) -> list[CatalogObject]:
    """Return what the live table has now, whether its files created it or not."""
    standing = {
        (item.kind, item.plain) for item in blueprint.names if item.table == "" and item.kind != "table"
    }
    holders = [item.plain for item in blueprint.names if item.kind in HOLDER_KINDS]
    return [
        *catalog.attached_objects(connection, schema, holders),
        *catalog.standing_objects(connection, schema, standing),
    ]


def _own_names(
    blueprint: TableBlueprint, objects: Iterable[CatalogObject], table_name: str, suffix: str, taken: set[str]
) -> list[ObjectName]:
    """Choose what the objects of a live table will be called: as when they were built, if that name is free and not the plain one.

    It is not where PostgreSQL shortened an automatic name, suffix and all; and what an alter file or an administrator created has none.
    """
    recorded: dict[Key, ObjectName] = {(item.kind, item.table, item.plain): item for item in blueprint.names}
    chosen: list[ObjectName] = []
    for found in objects:
        known = recorded.get((found.kind, found.table, found.name))
        if found.kind == "table" and found.name == blueprint.table:
            name = table_name
        elif found.kind in ON_TABLE_KINDS - {"key"} or found.kind == "function":
            name = known.name if known else found.name
        elif known and known.name not in taken:
            name = known.name
        else:
            name = suffixed_name(found.name, suffix, taken)
        taken.add(name)
        known = known or ObjectName(found.kind, name, found.name, found.table)
        chosen.append(replace(known, name=name))
    return chosen


def _promote(connection: Connection, schema: str, promoted: Sequence[TableBlueprint]) -> None:
    """Give the shadow tables and all that is theirs the plain names."""
    renames: list[Rename] = []
    for blueprint in promoted:
        physical = {item.plain: item.name for item in blueprint.names if item.kind in HOLDER_KINDS}
        renames += [
            Rename(item.kind, physical.get(item.table, ""), item.name, item.plain, item.plain_source)
            for item in blueprint.names
        ]
    try:
        rename_all(connection, schema, renames)
    except (errors.UndefinedTable, errors.UndefinedObject, errors.UndefinedFunction) as error:
        raise MigrationError(
            f"The tables to be promoted are not as they were built: {error.diag.message_primary}.",
            remedy="Put back what was renamed or dropped; what online built can be built anew: sequent migrate abort, then sequent migrate online",
        ) from error
    _name_copies(connection, schema, [carry_over.tables_of(blueprint) for blueprint in promoted])
    for blueprint in promoted:
        foreign_keys.resume(connection, schema, blueprint.suspended)


def _carry_over(
    connection: Connection,
    schema: str,
    promoted: Sequence[TableBlueprint],
    retired: Sequence[TableBlueprint],
    serving: carry_over.Properties,
) -> tuple[list[TableBlueprint], list[str]]:
    """Do to the new tables what was done by hand to the old ones."""
    present = carry_over.read_properties(connection, schema, _holders(promoted))
    predecessors = {blueprint.table: blueprint for blueprint in retired}
    results: list[TableBlueprint] = []
    warnings: list[str] = []
    for blueprint in promoted:
        holders = carry_over.holders_of(blueprint)
        own = carry_over.of_holders(present, holders)
        # A retired table that comes back has been through this before: what it has by hand must not pass for its files' work.
        new = carry_over.from_json(blueprint.as_built) if blueprint.as_built else own
        predecessor = predecessors.get(blueprint.table)
        if predecessor is not None:
            was_built = carry_over.from_json(predecessor.as_built)
            wanted = carry_over.merge(was_built, carry_over.of_holders(serving, holders), new)
            warnings += carry_over.carry_over(connection, schema, own, wanted)
            _leave_publications(connection, schema, predecessor)
        results.append(
            replace(blueprint, physical_name=blueprint.table, as_built=carry_over.to_json(new), suspended=())
        )
    return results, warnings


def _leave_publications(connection: Connection, schema: str, retired: TableBlueprint) -> list[str]:
    """Take a retired table out of publications, and name them: subscribers know it by the name that it gave up."""
    left: list[str] = []
    for item in retired.names:
        if item.kind == "table":
            rows = connection.execute(
                "SELECT p.pubname FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid "
                "JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = %s AND c.relname = %s",
                (schema, item.name),
            ).fetchall()
            for (name,) in rows:
                statement = sql.SQL("ALTER PUBLICATION {} DROP TABLE {}")
                connection.execute(statement.format(sql.Identifier(name), sql.Identifier(schema, item.name)))
                left.append(name)
    return left


def _alter(
    connection: Connection, schema: str, blueprint: TableBlueprint, alters: Sequence[AlterScript]
) -> TableBlueprint:
    """Run a live table's alter files, and count what they did as built rather than as done by hand."""
    before = carry_over.read_properties(connection, schema, carry_over.holders_of(blueprint))
    for item in sorted(alters, key=lambda item: item.version):
        if item.files.table == blueprint.table:
            source = table_files.alter_file_name(blueprint.table, item.version)
            run_script(connection, item.sql, source=source, search_path=(schema, "public"))
    altered = replace(blueprint, names=_with_partitions(connection, schema, blueprint, alters))
    after = carry_over.read_properties(connection, schema, carry_over.holders_of(altered))
    as_built = carry_over.merge(before, after, carry_over.from_json(blueprint.as_built))
    return replace(altered, as_built=carry_over.to_json(as_built))


def _with_partitions(
    connection: Connection, schema: str, blueprint: TableBlueprint, alters: Sequence[AlterScript]
) -> tuple[ObjectName, ...]:
    """Return a blueprint's names with the partitions that its alter files added and without those that they dropped."""
    tables = [item.plain for item in blueprint.names if item.kind == "table"]
    present = catalog.with_partitions(connection, schema, tables)
    suffix = f"_{max(item.version for item in alters)}"
    taken = catalog.taken_names(connection, schema)
    added = [
        ObjectName("table", suffixed_name(name, suffix, taken), name, "")
        for name in present
        if name not in tables
    ]
    return (*(item for item in blueprint.names if item.kind != "table" or item.plain in present), *added)
