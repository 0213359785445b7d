"""The record of the relations that view migrations made: owner of ``view_tables``.

One row per relation of the view schema that a migration made, under its exact physical name; its CHECK constraints couple a relation's
role to its name and timestamps. The migrations themselves, to which the rows refer, are in :mod:`~sequent_py.view_schema.bookkeeping.versions`.
Transactions, locks and errors are those of :mod:`~sequent_py.view_schema.bookkeeping.statements`. What a swap changes here, it changes in the
transaction that renames the relations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from psycopg import sql
from psycopg.types.json import Jsonb

from sequent_py.errors import InvalidTransition
from sequent_py.ordering import Ordering
from sequent_py.view_schema.bookkeeping.statements import Bookkeeping, Connection
from sequent_py.view_schema.plans import LiveTable, Plan
from sequent_py.view_schema.tables.blueprints import TableBlueprint


class TableRole(StrEnum):
    """What a relation of the view schema is there for."""

    SHADOW = "shadow"
    LIVE = "live"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class ViewTable:
    """A row of ``view_tables``."""

    physical_name: str
    """The relation's exact name."""
    table_name: str
    """The plain name of the managed table."""
    role: TableRole
    version: int
    """The version that its suffix names: of a shadow table the target, of a retired one the last it served, of a live one the version
    that built it."""
    built_version: int
    altered_version: int | None
    unmanaged_since: int | None
    """The version from which on no projector has kept it up to date."""
    migration_id: int
    """The migration that built it."""
    retired_by: int | None
    """The migration whose swap retired it."""
    names: Mapping[str, Any]
    """The JSON of its :class:`~sequent_py.view_schema.tables.blueprints.TableBlueprint`: what a swap renames along with it."""
    rows: int | None
    """The row count that was last recorded; None when none was."""
    created_at: datetime
    indexed_at: datetime | None
    promoted_at: datetime | None
    retired_at: datetime | None
    ordering: Ordering = "aggregate"
    """The ordering of the projectors that built it."""
    served_since: str | None = None
    """Of the latest cut-over that made it live: it held exactly what that snapshot sees, edits of events included. None if that is unknown."""


# Named one by one in every SELECT, so that a column added later does not shift the others.
_FIELDS = tuple(item.name for item in fields(ViewTable))


def _table(row: tuple[Any, ...]) -> ViewTable:
    values = dict(zip(_FIELDS, row, strict=True))
    return ViewTable(**values | {"role": TableRole(values["role"])})


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a rollback changes in the rows of tables."""

    from_version: int
    target_version: int
    leaving: Mapping[str, str]
    """Tables that served, with the names under which they retire."""
    returning: Mapping[str, str]
    """Tables that serve again, with the names under which they were kept."""
    managed: tuple[str, ...]
    """Tables that stayed under their plain names with nobody to keep them up to date, and have somebody now."""
    unmanaged: tuple[str, ...]
    """The other way round."""


@dataclass(frozen=True, slots=True)
class Relations(Bookkeeping):
    """The table in one event store schema."""

    columns: ClassVar[sql.Composable] = sql.SQL(", ").join(sql.Identifier(name) for name in _FIELDS)

    def record_shadow(
        self,
        connection: Connection,
        migration_id: int,
        blueprint: TableBlueprint,
        version: int,
        ordering: Ordering = "aggregate",
    ) -> None:
        """Record a shadow table of the target ``version``, in the transaction that creates it."""
        self._execute(
            connection,
            "INSERT INTO {tables} (physical_name, table_name, role, version, built_version, migration_id, names, ordering) "
            "VALUES (%s, %s, 'shadow', %s, %s, %s, %s, %s)",
            (
                blueprint.physical_name,
                blueprint.table,
                version,
                version,
                migration_id,
                Jsonb(blueprint.to_json()),
                ordering,
            ),
        )

    def mark_indexed(self, connection: Connection, migration_id: int, blueprint: TableBlueprint) -> None:
        """Record that a shadow table has its keys and indexes, in the transaction that built the last; the blueprint knows them all.

        Raises
        ------
        InvalidTransition
            The migration has no such shadow table: it was aborted meanwhile.
        """
        marked = self._execute(
            connection,
            "UPDATE {tables} SET indexed_at = clock_timestamp(), names = %s "
            "WHERE physical_name = %s AND role = 'shadow' AND migration_id = %s",
            (Jsonb(blueprint.to_json()), blueprint.physical_name, migration_id),
        )
        if marked != 1:
            raise InvalidTransition(
                f"View migration {migration_id} has no shadow table {blueprint.physical_name}.",
                remedy="Run: sequent migrate status",
            )

    def unindexed(self, connection: Connection, migration_id: int) -> frozenset[str]:
        """Return the plain names of the migration's shadow tables that lack their keys and indexes."""
        return frozenset(
            table.table_name for table in self.shadows(connection, migration_id) if table.indexed_at is None
        )

    def record_names(self, connection: Connection, physical_name: str, names: Mapping[str, Any]) -> None:
        """Replace what a later swap must rename along with the relation."""
        query = "UPDATE {tables} SET names = %s WHERE physical_name = %s"
        self._execute(connection, query, (Jsonb(dict(names)), physical_name))

    def record_rows(self, connection: Connection, physical_name: str, rows: int) -> None:
        """Replace the relation's row count."""
        query = "UPDATE {tables} SET rows = %s WHERE physical_name = %s"
        self._execute(connection, query, (rows, physical_name))

    def lock_tables(self, connection: Connection, physical_names: Collection[str]) -> None:
        """Keep the records of relations, and so the rows that are erased from these, as they are until the caller's transaction ends."""
        query = "SELECT FROM {tables} WHERE physical_name = ANY (%s) ORDER BY physical_name FOR UPDATE"
        self._execute(connection, query, (sorted(physical_names),))

    def tables(self, connection: Connection, role: TableRole) -> list[ViewTable]:
        """Return the relations of one role, by physical name."""
        query = "SELECT {columns} FROM {tables} WHERE role = %s ORDER BY physical_name"
        return [_table(row) for row in self._read(connection, query, (role.value,))]

    def shadows(self, connection: Connection, migration_id: int) -> list[ViewTable]:
        """Return the shadow tables of a migration."""
        query = "SELECT {columns} FROM {tables} WHERE role = 'shadow' AND migration_id = %s ORDER BY physical_name"
        return [_table(row) for row in self._read(connection, query, (migration_id,))]

    def returning_in_place(self, connection: Connection, table: ViewTable) -> list[int]:
        """Return the migrations whose rollback has begun to bring a live table up to date that nobody manages: they count its rows.

        Of a table that is managed there are none.
        """
        query = (
            "SELECT m.id FROM {migrations} m WHERE m.return_pass IS NOT NULL"
            " AND ((m.state = 'live' AND m.target_version = %s) OR (m.state = 'rolled_back' AND m.from_version = %s))"
            " AND NOT EXISTS (SELECT FROM {tables} r WHERE r.table_name = %s AND r.retired_by = m.id)"
        )
        since = table.unmanaged_since
        if since is None:
            return []
        return [row[0] for row in self._read(connection, query, (since, since, table.table_name))]

    def retired(self, connection: Connection) -> list[ViewTable]:
        """Return the retired tables."""
        return self.tables(connection, TableRole.RETIRED)

    def live_tables(self, connection: Connection) -> dict[str, LiveTable]:
        """Return the tables that serve now, by name, as the planner takes them."""
        return {
            table.table_name: LiveTable(
                table.table_name,
                table.built_version,
                table.altered_version,
                table.unmanaged_since,
                table.ordering,
            )
            for table in self.tables(connection, TableRole.LIVE)
        }

    def promote(self, connection: Connection, migration_id: int, plan: Plan) -> None:
        """Let the shadow tables take the place of the live ones, which become retired; for the transaction of the swap itself.

        Live tables that the plan alters in place are marked as of the version of their newest alter.

        Raises
        ------
        InvalidTransition
            The recorded relations are not those of the plan; the caller must roll back.
        """
        for step in plan.replays:
            replaced = self._execute(
                connection,
                "UPDATE {tables} SET role = 'retired', physical_name = %s, version = %s, retired_by = %s, retired_at = clock_timestamp() "
                "WHERE table_name = %s AND role = 'live'",
                (step.retired_name or "", plan.from_version, migration_id, step.table_name),
            )
            promoted = self._execute(
                connection,
                "UPDATE {tables} SET role = 'live', physical_name = table_name, promoted_at = clock_timestamp(), served_since = pg_current_snapshot() "
                "WHERE physical_name = %s AND table_name = %s AND role = 'shadow' AND migration_id = %s",
                (step.shadow_name, step.table_name, migration_id),
            )
            if (replaced, promoted) != (0 if step.retired_name is None else 1, 1):
                raise InvalidTransition(
                    f"The recorded tables of {step.table_name} are not those of the plan of view migration {migration_id}.",
                    remedy="Run: sequent migrate abort",
                )
        self._execute(
            connection,
            "UPDATE {tables} SET unmanaged_since = %s WHERE role = 'live' AND table_name = ANY (%s) AND unmanaged_since IS NULL",
            (plan.target_version, list(plan.orphaned)),
        )
        for alter in plan.alters:
            self._execute(
                connection,
                "UPDATE {tables} SET altered_version = greatest(altered_version, %s) WHERE table_name = %s AND role = 'live'",
                (alter.version, alter.table_name),
            )

    def exchange(self, connection: Connection, migration_id: int, exchange: Exchange) -> None:
        """Let retired tables serve again, and retire those that served; for the transaction of the swap itself.

        Raises
        ------
        InvalidTransition
            The recorded relations are not those that were decided on; the caller must roll back.
        """
        for table_name, retired_name in exchange.leaving.items():
            left = self._execute(
                connection,
                "UPDATE {tables} SET role = 'retired', physical_name = %s, version = %s, retired_by = %s, retired_at = clock_timestamp() "
                "WHERE table_name = %s AND role = 'live'",
                (retired_name, exchange.from_version, migration_id, table_name),
            )
            self._require_one(left, table_name, migration_id)
        for table_name, physical_name in exchange.returning.items():
            # As of a live table its version is the one that built it.
            returned = self._execute(
                connection,
                "UPDATE {tables} SET role = 'live', physical_name = table_name, version = built_version, promoted_at = clock_timestamp(), "
                "served_since = pg_current_snapshot(), retired_at = NULL, retired_by = NULL "
                "WHERE physical_name = %s AND table_name = %s AND role = 'retired' AND retired_by = %s",
                (physical_name, table_name, migration_id),
            )
            self._require_one(returned, table_name, migration_id)
        for table_names, unmanaged_since in (
            (exchange.managed, None),
            (exchange.unmanaged, exchange.target_version),
        ):
            self._execute(
                connection,
                "UPDATE {tables} SET unmanaged_since = %(since)s,"
                " served_since = CASE WHEN %(since)s::int IS NULL THEN pg_current_snapshot() ELSE served_since END"
                " WHERE role = 'live' AND table_name = ANY (%(names)s)",
                {"since": unmanaged_since, "names": list(table_names)},
            )

    def forget_cut_overs(self, connection: Connection) -> None:
        """Forget since which snapshot live tables serve: for a store whose transaction ids change."""
        self._execute(
            connection, "UPDATE {tables} SET served_since = NULL WHERE served_since IS NOT NULL", ()
        )

    def _require_one(self, changed: int, table_name: str, migration_id: int) -> None:
        if changed != 1:
            raise InvalidTransition(
                f"The recorded tables of {table_name} are not those that view migration {migration_id} left.",
                remedy="Run: sequent migrate status",
            )

    def forget(self, connection: Connection, physical_names: Collection[str]) -> int:
        """Remove the records of relations, in the transaction that drops them; a live one is never forgotten. Returns how many were."""
        query = "DELETE FROM {tables} WHERE physical_name = ANY (%s) AND role <> 'live'"
        return self._execute(connection, query, (list(physical_names),))

    def forget_unmanaged(self, connection: Connection, table_names: Collection[str]) -> int:
        """Remove the records of live tables that no projector keeps up to date, in the transaction that drops them."""
        query = "DELETE FROM {tables} WHERE table_name = ANY (%s) AND role = 'live' AND unmanaged_since IS NOT NULL"
        return self._execute(connection, query, (list(table_names),))
