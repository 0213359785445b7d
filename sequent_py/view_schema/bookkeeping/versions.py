"""The record of view migrations: owner of ``view_migrations``.

One row per migration, the newest with the highest id; at most one is unfinished (a partial unique index), and CHECK constraints couple
its state to its timestamps. The live version itself is in the gate's row, not here; the relations that a migration made are in
:mod:`~sequent_py.view_schema.bookkeeping.relations`. Transactions, locks and errors are those of :mod:`~sequent_py.view_schema.bookkeeping.statements`; a state
changes by one compare-and-set on the row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, NoReturn

from psycopg import sql
from psycopg.types.json import Jsonb

from sequent_py.errors import ConcurrentMigration, InvalidTransition
from sequent_py.view_schema.bookkeeping.statements import Bookkeeping, Connection
from sequent_py.view_schema.plans import Plan
from sequent_py.view_schema.states import ONLINE_DONE_REQUIRED, MigrationState, is_reachable, settled


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


# Named one by one in every SELECT, so that a column added later does not shift the others.
_FIELDS = tuple(item.name for item in fields(ViewMigration))


def _migration(row: tuple[Any, ...]) -> ViewMigration:
    values = dict(zip(_FIELDS, row, strict=True))
    return ViewMigration(**values | {"state": MigrationState(values["state"])})


@dataclass(frozen=True, slots=True)
class Versions(Bookkeeping):
    """The table in one event store schema."""

    columns: ClassVar[sql.Composable] = sql.SQL(", ").join(
        sql.Identifier(name.removesuffix("_document")) for name in _FIELDS
    )

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
            "ON CONFLICT DO NOTHING RETURNING {columns}",
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
        query = "SELECT {columns} FROM {migrations} ORDER BY id DESC LIMIT %s"
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
            RETURNING {columns}
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

    def record_quarantine_limit(
        self, connection: Connection, migration_id: int, limit: int | None
    ) -> ViewMigration:
        """Let the migration's replay set up to ``limit`` aggregates aside; None: none."""
        query = "UPDATE {migrations} SET quarantine_limit = %s WHERE id = %s RETURNING {columns}"
        row = self._one(connection, query, (limit, migration_id))
        if row is None:
            raise InvalidTransition(f"There is no view migration {migration_id}.")
        return _migration(row)

    def record_stall(self, connection: Connection, migration_id: int, stall_milliseconds: float) -> None:
        """Remember how long the cut-over held writers up."""
        query = "UPDATE {migrations} SET stall_milliseconds = %s WHERE id = %s"
        self._execute(connection, query, (stall_milliseconds, migration_id))

    def _explain_refusal(
        self,
        connection: Connection,
        migration_id: int,
        from_states: Collection[MigrationState],
        to_state: MigrationState,
        epoch: int | None,
    ) -> NoReturn:
        """Say why a compare-and-set matched nothing."""
        row = self._one(connection, "SELECT {columns} FROM {migrations} WHERE id = %s", (migration_id,))
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
