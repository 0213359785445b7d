"""The record of view migrations and of the relations they made: owner of ``view_migrations`` and ``view_tables``.

``view_migrations`` has one row per migration, the newest with the highest id; at most one is unfinished (a partial unique index), and
CHECK constraints couple its state to its timestamps. ``view_tables`` has one row per relation of the view schema that a migration
made, under its exact physical name. The live version itself is in the gate's row, not here.

Every method of :class:`Versions` takes the caller's psycopg connection, runs inside the caller's transaction, and commits
nothing, so that a row changes together with what it tells of: after a crash the two agree. Writers change a state by one
compare-and-set on the row and wait for at most the session's ``lock_timeout``. Readers are single plain SELECTs: no DDL, no
row locks, nothing that a backup could block. Readers raise ``StoreNotInstalled``, and leave the transaction usable, where the tables do
not exist; :meth:`Versions.is_installed` asks first. Writers may count on a reader having been asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, LiteralString, NoReturn

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from sequent_py.errors import ConcurrentMigration, InvalidTransition, StoreNotInstalled
from sequent_py.ordering import Ordering
from sequent_py.view_schema.blueprints import TableBlueprint
from sequent_py.view_schema.plans import LiveTable, Plan
from sequent_py.view_schema.states import ONLINE_DONE_REQUIRED, MigrationState, is_reachable, settled

Connection = psycopg.Connection[Any]
_Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ViewMigration:
    """A row of ``view_migrations``."""

    id: int
    from_version: int
    target_version: int
    state: MigrationState
    """As stored; :func:`~sequent_py.view_schema.states.settled` says what it means when nobody holds the migration lock."""
    plan_document: Mapping[str, Any]
    """The plan's JSON; read by :attr:`plan` when asked, so that a plan of another release can't keep ``abort`` from its work."""
    files_fingerprint: str
    epoch: int
    """Raised by each process that takes the migration over; workers that were started under an older one are refused."""
    error: str | None
    """Why the last command did not finish; None once one has."""
    started_at: datetime
    online_done_at: datetime | None
    finished_at: datetime | None
    rolled_back_at: datetime | None
    stall_milliseconds: float | None
    """How long writers were held up by the cut-over."""
    promoted_snapshot: str | None
    """Of the latest cut-over, in either direction: the tables that retired hold exactly what it sees. None before the first one."""
    return_pass: int | None
    """The first pass that brings those tables up to date; None while no rollback has begun since that cut-over."""
    quarantine_limit: int | None
    """How many aggregates its replay may set aside; None: it stops at the first event that cannot be projected."""

    @property
    def plan(self) -> Plan:
        """The plan that the migration was begun with.

        Raises
        ------
        PlanChanged
            It was written by a release whose plans look different.
        """
        return Plan.from_json(self.plan_document)


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
    """The JSON of its :class:`~sequent_py.view_schema.blueprints.TableBlueprint`: what a swap renames along with it."""
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
_MIGRATION_FIELDS = tuple(item.name for item in fields(ViewMigration))
_MIGRATION_COLUMNS = sql.SQL(", ").join(
    sql.Identifier(name.removesuffix("_document")) for name in _MIGRATION_FIELDS
)
_TABLE_FIELDS = tuple(item.name for item in fields(ViewTable))
_TABLE_COLUMNS = sql.SQL(", ").join(sql.Identifier(name) for name in _TABLE_FIELDS)


def _migration(row: tuple[Any, ...]) -> ViewMigration:
    values = dict(zip(_MIGRATION_FIELDS, row, strict=True))
    return ViewMigration(**values | {"state": MigrationState(values["state"])})


def _table(row: tuple[Any, ...]) -> ViewTable:
    values = dict(zip(_TABLE_FIELDS, row, strict=True))
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
class Versions:
    """The two tables in one event store schema. Holds the schema's name and nothing else."""

    schema: str

    def is_installed(self, connection: Connection) -> bool:
        """Whether the event store's schema has the tables of this module."""
        return self._missing(connection) is None

    def begin(self, connection: Connection, plan: Plan, files_fingerprint: str) -> ViewMigration:
        """Record a new migration in state ``online_running``.

        Raises
        ------
        ConcurrentMigration
            Another one is unfinished; also when it was begun at the same moment. The transaction stays usable.
        """
        # ON CONFLICT waits for a concurrent insert to commit and then inserts nothing, where a unique violation would abort the caller's
        # transaction.
        row = self._one(
            connection,
            "INSERT INTO {migrations} (from_version, target_version, state, plan, files_fingerprint) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING RETURNING {migration_columns}",
            (
                plan.from_version,
                plan.target_version,
                MigrationState.ONLINE_RUNNING.value,
                Jsonb(plan.to_json()),
                files_fingerprint,
            ),
        )
        if row is None:
            other = self.unfinished(connection)
            raise ConcurrentMigration(
                f"migration {other.id} to version {other.target_version}" if other else ""
            )
        return _migration(row)

    def current(self, connection: Connection) -> ViewMigration | None:
        """Return the newest migration, which is the unfinished one if there is one; None before the first."""
        return next(iter(self.history(connection, limit=1)), None)

    def unfinished(self, connection: Connection) -> ViewMigration | None:
        """Return the unfinished migration; None when there is none."""
        newest = self.current(connection)
        return None if newest is None or newest.state.is_finished else newest

    def latest_state(self, connection: Connection) -> MigrationState | None:
        """Return the stored state of the newest migration; None before the first."""
        newest = self.current(connection)
        return None if newest is None else newest.state

    def history(self, connection: Connection, *, limit: int | None = None) -> list[ViewMigration]:
        """Return the migrations, newest first."""
        query = "SELECT {migration_columns} FROM {migrations} ORDER BY id DESC LIMIT %s"
        return [_migration(row) for row in self._read(connection, query, (limit,))]

    def transition(
        self,
        connection: Connection,
        migration_id: int,
        from_states: Collection[MigrationState],
        to_state: MigrationState,
        *,
        epoch: int | None = None,
        error: str | None = None,
    ) -> ViewMigration:
        """Take the migration from one of ``from_states`` to ``to_state``, and set the timestamps that the state implies.

        One compare-and-set: of two concurrent callers one succeeds. ``error`` replaces the recorded one, None clears it.

        Raises
        ------
        InvalidTransition
            The migration is in another state, or does not exist, or no edge of the transition table leads there.
        ConcurrentMigration
            ``epoch`` is given and no longer the migration's: another process has taken it over.
        """
        for state in from_states:
            if not is_reachable(state, to_state):
                raise InvalidTransition(f"No transition leads a view migration from {state} to {to_state}.")
        row = self._one(
            connection,
            """
            UPDATE {migrations} SET
                state = %(to_state)s,
                error = %(error)s,
                online_done_at = CASE WHEN %(is_online_done)s THEN coalesce(online_done_at, clock_timestamp()) ELSE online_done_at END,
                finished_at = CASE WHEN %(is_finished)s THEN coalesce(finished_at, clock_timestamp()) END,
                rolled_back_at = CASE WHEN %(is_rolled_back)s THEN clock_timestamp() END
            WHERE id = %(id)s AND state = ANY (%(from_states)s) AND epoch = coalesce(%(epoch)s::int, epoch)
            RETURNING {migration_columns}
            """,
            {
                "id": migration_id,
                "from_states": [state.value for state in from_states],
                "to_state": to_state.value,
                "epoch": epoch,
                "error": error,
                "is_online_done": to_state in ONLINE_DONE_REQUIRED,
                "is_finished": to_state.is_finished,
                "is_rolled_back": to_state is MigrationState.ROLLED_BACK,
            },
        )
        if row is None:
            self._explain_refusal(connection, migration_id, from_states, to_state, epoch)
        return _migration(row)

    def settle(self, connection: Connection, migration: ViewMigration) -> ViewMigration:
        """Put a cut-over whose process is gone back to ``online_done``; any other state stays. For the holder of the migration lock."""
        counted = settled(migration.state, is_held=False)
        if counted is None or counted is migration.state:
            return migration
        return self.transition(
            connection,
            migration.id,
            [migration.state],
            counted,
            error=migration.error or "The process that ran it ended.",
        )

    def bump_epoch(self, connection: Connection, migration_id: int, *, is_rollback: bool = False) -> int:
        """Raise the epoch of an unfinished migration and return it: groups claimed under an older one are refused from then on.

        ``is_rollback``: of one that is live or rolled back, whose retired tables are to be brought up to date.

        Raises
        ------
        InvalidTransition
            The migration is finished, aborted that is for a rollback, or does not exist.
        """
        row = self._one(
            connection,
            "UPDATE {migrations} SET epoch = epoch + 1 WHERE id = %s "
            "AND CASE WHEN %s THEN state IN ('live', 'rolled_back') ELSE finished_at IS NULL END RETURNING epoch",
            (migration_id, is_rollback),
        )
        if row is None:
            raise InvalidTransition(f"View migration {migration_id} is finished; nothing can take it over.")
        return int(row[0])

    def record_error(self, connection: Connection, migration_id: int, error: str) -> None:
        """Remember why the command that ran did not finish; the state stays."""
        self._execute(connection, "UPDATE {migrations} SET error = %s WHERE id = %s", (error, migration_id))

    def begin_return(self, connection: Connection, migration_id: int, return_pass: int) -> None:
        """Record the first pass over the retired tables since the last cut-over, in the transaction that creates it."""
        query = "UPDATE {migrations} SET return_pass = %s WHERE id = %s"
        self._execute(connection, query, (return_pass, migration_id))

    def record_cut_over(self, connection: Connection, migration_id: int) -> None:
        """Record what the tables that retire hold; in the transaction that swaps, while nobody can write events.

        Every writer has ended and none begins before that transaction does, so what its snapshot sees is what the live tables have
        been given, of all event types, whichever the migration's passes read. A transaction that is open without having written
        is in progress in it, so that what it appends later belongs to the next window.
        """
        query = "UPDATE {migrations} SET promoted_snapshot = pg_current_snapshot(), return_pass = NULL WHERE id = %s"
        self._execute(connection, query, (migration_id,))

    def forget_cut_overs(self, connection: Connection) -> None:
        """Forget what retired tables hold: for a store whose transaction ids change. Nothing can be rolled back any more."""
        query = "UPDATE {migrations} SET promoted_snapshot = NULL, return_pass = NULL WHERE state = ANY (%s)"
        self._execute(connection, query, ([MigrationState.LIVE.value, MigrationState.ROLLED_BACK.value],))
        self._execute(
            connection, "UPDATE {tables} SET served_since = NULL WHERE served_since IS NOT NULL", ()
        )

    def record_quarantine_limit(
        self, connection: Connection, migration_id: int, limit: int | None
    ) -> ViewMigration:
        """Let the migration's replay set up to ``limit`` aggregates aside; None: none."""
        query = "UPDATE {migrations} SET quarantine_limit = %s WHERE id = %s RETURNING {migration_columns}"
        row = self._one(connection, query, (limit, migration_id))
        if row is None:
            raise InvalidTransition(f"There is no view migration {migration_id}.")
        return _migration(row)

    def record_stall(self, connection: Connection, migration_id: int, stall_milliseconds: float) -> None:
        """Remember how long the cut-over held writers up."""
        query = "UPDATE {migrations} SET stall_milliseconds = %s WHERE id = %s"
        self._execute(connection, query, (stall_milliseconds, migration_id))

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
        query = "SELECT {table_columns} FROM {tables} WHERE role = %s ORDER BY physical_name"
        return [_table(row) for row in self._read(connection, query, (role.value,))]

    def shadows(self, connection: Connection, migration_id: int) -> list[ViewTable]:
        """Return the shadow tables of a migration."""
        query = "SELECT {table_columns} FROM {tables} WHERE role = 'shadow' AND migration_id = %s ORDER BY physical_name"
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

    def leftovers(self, connection: Connection) -> list[ViewTable]:
        """Return shadow tables whose migration is finished: what an interrupted clean-up left behind."""
        query = (
            "SELECT {table_columns} FROM {tables} WHERE role = 'shadow' "
            "AND migration_id IN (SELECT id FROM {migrations} WHERE finished_at IS NOT NULL) ORDER BY physical_name"
        )
        return [_table(row) for row in self._read(connection, query, ())]

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
        # What the migration's row says of the code that worked on it last goes with the tables from here on.
        self._execute(
            connection,
            "UPDATE {tables} t SET code = m.code -> t.table_name FROM {migrations} m "
            "WHERE m.id = %s AND t.role = 'live' AND m.code -> t.table_name IS NOT NULL",
            (migration_id,),
        )
        for alter in plan.alters:
            self._execute(
                connection,
                "UPDATE {tables} SET altered_version = greatest(altered_version, %s) WHERE table_name = %s AND role = 'live'",
                (alter.version, alter.table_name),
            )
        self.record_cut_over(connection, migration_id)

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
        self.record_cut_over(connection, migration_id)

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

    def _explain_refusal(
        self,
        connection: Connection,
        migration_id: int,
        from_states: Collection[MigrationState],
        to_state: MigrationState,
        epoch: int | None,
    ) -> NoReturn:
        """Say why a compare-and-set matched nothing."""
        row = self._one(
            connection, "SELECT {migration_columns} FROM {migrations} WHERE id = %s", (migration_id,)
        )
        if row is None:
            raise InvalidTransition(f"There is no view migration {migration_id}.")
        found = _migration(row)
        if found.state in from_states:
            raise ConcurrentMigration(
                f"a later run of view migration {migration_id} (epoch {found.epoch}, not {epoch})"
            )
        expected = " or ".join(from_states)
        raise InvalidTransition(
            f"View migration {migration_id} is {found.state}; only {expected} can become {to_state}.",
            remedy="Run: sequent migrate status",
        )

    def _read(
        self, connection: Connection, query: LiteralString, parameters: _Parameters
    ) -> list[tuple[Any, ...]]:
        """Run a SELECT; looks for the tables first, because a failed statement would abort the caller's transaction."""
        missing = self._missing(connection)
        if missing is not None:
            raise StoreNotInstalled(self.schema, missing)
        with connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(self._composed(query), parameters).fetchall()

    def _one(
        self, connection: Connection, query: LiteralString, parameters: _Parameters
    ) -> tuple[Any, ...] | None:
        with connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(self._composed(query), parameters).fetchone()

    def _execute(self, connection: Connection, query: LiteralString, parameters: _Parameters) -> int:
        with connection.cursor() as cursor:
            return cursor.execute(self._composed(query), parameters).rowcount

    def _composed(self, query: LiteralString) -> sql.Composed:
        # psycopg looks for placeholders in the composed text, identifiers included. All statements here have parameters.
        schema = self.schema.replace("%", "%%")
        return sql.SQL(query).format(
            migrations=sql.Identifier(schema, "view_migrations"),
            tables=sql.Identifier(schema, "view_tables"),
            migration_columns=_MIGRATION_COLUMNS,
            table_columns=_TABLE_COLUMNS,
        )

    def _missing(self, connection: Connection) -> str | None:
        """Say what is missing; None when both tables are there. Reads catalogs only, so it can neither fail nor wait."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(
                "SELECT n.oid IS NOT NULL, count(c.oid) FROM (VALUES (%s::text)) AS wanted (name) "
                "LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = wanted.name "
                "LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname IN ('view_migrations', 'view_tables') "
                "GROUP BY n.oid",
                (self.schema,),
            ).fetchone()
        has_schema, tables_found = row or (False, 0)
        if not has_schema:
            return "does not exist"
        return (
            None if tables_found == 2 else "has no tables of view migrations: it is older than this release"
        )
