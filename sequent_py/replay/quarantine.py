"""Quarantine: aggregates that a replay has set aside because an event of theirs cannot be projected. Owns ``quarantined_aggregates``.

A worker that meets such an event takes back what its group wrote, notes the aggregate here while it still holds the group's claim, and
commits: from then on every pass leaves the aggregate out, and the group can be claimed again. The tables then hold the aggregate's rows as
they were at ``snapshot_since``, a prefix of its history, or none. A later pass that carries it as a special aggregate
(:mod:`sequent_py.replay.refold`) goes on from there, and releases it in the transaction of the group that folded it.

Tables are promoted with an aggregate set aside only when that was accepted by name. From then on its events are recorded and not projected into
these tables, so that its rows stay the prefix that they are, until ``sequent aggregates refold`` makes them whole.

Every function runs in the caller's transaction and commits nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.cursors import OwnCursor
from sequent_py.database import for_parameters
from sequent_py.errors import AggregatesQuarantined, InvalidPayload, ProjectionFailed

DEFAULT_LIMIT = 100
"""How many aggregates are set aside before a replay stops. More is no accident of single aggregates, and each costs a group's replay."""

OFFER = "Or set its aggregate aside: sequent migrate online --quarantine"
"""What a remedy says besides, where an event cannot be projected and a migration could do without its aggregate."""

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class QuarantinedAggregate:
    """A row of ``quarantined_aggregates``."""

    migration_id: int
    aggregate_id: UUID
    snapshot_since: str | None
    """The tables hold the fold of its events visible in this snapshot; None: no row of it."""
    pass_number: int
    projector: str | None
    """None where the payload did not validate."""
    event_type: str
    """Empty where rows are refused whose event is not known."""
    sequence_number: int | None
    error: str
    quarantined_at: datetime
    accepted_at: datetime | None
    """When the tables were promoted all the same."""


def waiting(items: Iterable[QuarantinedAggregate]) -> tuple[QuarantinedAggregate, ...]:
    """Return those that nobody has accepted: a promotion is refused because of them."""
    return tuple(item for item in items if item.accepted_at is None)


def accepting_options(items: Sequence[QuarantinedAggregate]) -> str:
    """Return the options by which a promotion accepts these, or what they look like where they are many."""
    if len(items) > 3:
        return "--accept-quarantined ID…"
    return " ".join(f"--accept-quarantined {item.aggregate_id}" for item in items)


_COLUMNS = (
    "migration_id, aggregate_id, snapshot_since::text, pass, projector, event_type, sequence_number, error,"
    " quarantined_at, accepted_at"
)


class Quarantine:
    """The table in one event store schema. Holds the schema's name and nothing else."""

    def __init__(self, schema: str) -> None:
        self._schema = schema

    def _sql(self, template: LiteralString) -> sql.Composed:
        return sql.SQL(template).format(
            quarantine=for_parameters(sql.Identifier(self._schema, "quarantined_aggregates")),
            migrations=for_parameters(sql.Identifier(self._schema, "view_migrations")),
            tables=for_parameters(sql.Identifier(self._schema, "view_tables")),
            columns=sql.SQL(_COLUMNS),
        )

    def listed(self, connection: Connection, migration_id: int) -> tuple[QuarantinedAggregate, ...]:
        """Return what a migration has set aside, by aggregate."""
        rows = connection.execute(
            self._sql("SELECT {columns} FROM {quarantine} WHERE migration_id = %s ORDER BY aggregate_id"),
            (migration_id,),
        )
        return tuple(QuarantinedAggregate(*row) for row in rows)

    def left_out_of(self, connection: Connection, physical_tables: Iterable[str]) -> frozenset[UUID]:
        """Return the aggregates that are set aside of one of these tables at least, by the migrations that built them."""
        return frozenset(self._missing_tables(connection, physical_tables))

    def left_out_of_all(self, connection: Connection, physical_tables: Iterable[str]) -> frozenset[UUID]:
        """Return the aggregates that are set aside of all of these tables; what a pass over them leaves out.

        Passes over retired tables leave them out as well: their rows have stayed a prefix since the promotion.
        """
        names = frozenset(physical_tables)
        missing = self._missing_tables(connection, names)
        return frozenset(aggregate_id for aggregate_id, tables in missing.items() if tables == names)

    def left_out_of_some(self, connection: Connection, physical_tables: Iterable[str]) -> frozenset[UUID]:
        """Return the aggregates that are set aside of some of these tables and whole in others, which different migrations built."""
        names = frozenset(physical_tables)
        missing = self._missing_tables(connection, names)
        return frozenset(aggregate_id for aggregate_id, tables in missing.items() if tables != names)

    def left_out_by_table(
        self, connection: Connection, physical_tables: Iterable[str]
    ) -> dict[str, frozenset[UUID]]:
        """Return, by table that lacks any, the aggregates that are set aside of it."""
        found: dict[str, set[UUID]] = {}
        for aggregate_id, tables in self._missing_tables(connection, physical_tables).items():
            for table in tables:
                found.setdefault(table, set()).add(aggregate_id)
        return {table: frozenset(aggregates) for table, aggregates in found.items()}

    def _missing_tables(
        self, connection: Connection, physical_tables: Iterable[str]
    ) -> dict[UUID, frozenset[str]]:
        """Return, by aggregate that is set aside of some of these tables, of which."""
        rows = connection.execute(
            self._sql(
                "SELECT q.aggregate_id, array_agg(t.physical_name) FROM {quarantine} q JOIN {tables} t USING (migration_id)"
                " WHERE t.physical_name = ANY (%s) AND t.table_name <> ALL (q.whole_tables) GROUP BY q.aggregate_id"
            ),
            (list(physical_tables),),
        )
        return {aggregate_id: frozenset(tables) for aggregate_id, tables in rows}

    def reported(self, connection: Connection, migration_id: int) -> tuple[QuarantinedAggregate, ...]:
        """Return what a migration has set aside, and what earlier ones left behind in tables that are live."""
        rows = connection.execute(
            self._sql(
                "SELECT {columns} FROM {quarantine} WHERE migration_id = %s OR (accepted_at IS NOT NULL AND migration_id IN"
                " (SELECT t.migration_id FROM {tables} t WHERE t.role = 'live' AND t.table_name <> ALL (whole_tables))) ORDER BY migration_id, aggregate_id"
            ),
            (migration_id,),
        )
        return tuple(QuarantinedAggregate(*row) for row in rows)

    def set_aside(
        self,
        connection: Connection,
        migration_id: int,
        pass_number: int,
        error: ProjectionFailed | InvalidPayload,
        *,
        since: str | None,
    ) -> None:
        """Note that a pass leaves the failed event's aggregate out; its rows stand at ``since``."""
        connection.execute(
            self._sql(
                "INSERT INTO {quarantine} AS q (migration_id, aggregate_id, snapshot_since, pass, projector, event_type, sequence_number, error)"
                " VALUES (%s, %s, %s::pg_snapshot, %s, %s, %s, %s, %s)"
                " ON CONFLICT (migration_id, aggregate_id) DO UPDATE SET snapshot_since = excluded.snapshot_since, pass = excluded.pass,"
                " projector = excluded.projector, event_type = excluded.event_type, sequence_number = excluded.sequence_number,"
                " error = excluded.error, quarantined_at = clock_timestamp()"
            ),
            (
                migration_id,
                error.aggregate_id,
                since,
                pass_number,
                error.projector if isinstance(error, ProjectionFailed) else None,
                error.event_type,
                error.sequence_number,
                error.message,
            ),
        )

    def release(
        self, connection: Connection, aggregate_ids: Collection[UUID], physical_tables: Collection[str]
    ) -> int:
        """Take back aggregates whose rows in these tables were made whole, in the transaction that did it; return how many.

        Of other tables that the same migration built they stay left out: of retired ones, for example, when live ones were re-folded.
        """
        if not aggregate_ids:
            return 0
        released = connection.execute(
            self._sql(
                "UPDATE {quarantine} q SET whole_tables = q.whole_tables || made.whole"
                " FROM (SELECT migration_id, array_agg(table_name) AS whole FROM {tables} WHERE physical_name = ANY (%s) GROUP BY migration_id) made"
                " WHERE q.migration_id = made.migration_id AND q.aggregate_id = ANY (%s) AND NOT made.whole <@ q.whole_tables"
            ),
            (list(physical_tables), list(aggregate_ids)),
        ).rowcount
        connection.execute(
            self._sql(
                "DELETE FROM {quarantine} q WHERE q.aggregate_id = ANY (%s) AND NOT EXISTS"
                " (SELECT FROM {tables} t WHERE t.migration_id = q.migration_id AND t.table_name <> ALL (q.whole_tables))"
            ),
            (list(aggregate_ids),),
        )
        return released

    def require_accepted(
        self, connection: Connection, migration_id: int, accepted: Collection[UUID]
    ) -> tuple[QuarantinedAggregate, ...]:
        """Refuse a promotion that would leave an aggregate behind that nobody accepted by name; return what is set aside.

        Raises
        ------
        AggregatesQuarantined
            Naming them.
        """
        listed = self.listed(connection, migration_id)
        others = [item for item in listed if item.aggregate_id not in accepted]
        if others:
            raise AggregatesQuarantined([item.aggregate_id for item in others], others[0].error)
        return listed

    def accept(
        self, connection: Connection, migration_id: int, accepted: Collection[UUID]
    ) -> tuple[QuarantinedAggregate, ...]:
        """Record with which aggregates set aside the tables are promoted; belongs into the transaction of the swap.

        Raises
        ------
        AggregatesQuarantined
            As :meth:`require_accepted`.
        """
        listed = self.require_accepted(connection, migration_id, accepted)
        connection.execute(
            self._sql(
                "UPDATE {quarantine} SET accepted_at = coalesce(accepted_at, clock_timestamp()) WHERE migration_id = %s"
            ),
            (migration_id,),
        )
        return listed

    def unprojected(
        self, connection: Connection, aggregate_ids: Sequence[UUID] | None = None
    ) -> dict[UUID, frozenset[str]]:
        """Return, by aggregate, the live tables that were promoted without it; of all aggregates, or of those given."""
        rows = OwnCursor(connection).execute(
            self._sql(
                "SELECT q.aggregate_id, array_agg(t.table_name) FROM {quarantine} q JOIN {tables} t USING (migration_id)"
                " WHERE t.role = 'live' AND t.table_name <> ALL (q.whole_tables) AND q.accepted_at IS NOT NULL AND (%s::uuid[] IS NULL OR q.aggregate_id = ANY (%s))"
                " GROUP BY q.aggregate_id"
            ),
            (None, None) if aggregate_ids is None else (list(aggregate_ids), list(aggregate_ids)),
        )
        return {aggregate_id: frozenset(tables) for aggregate_id, tables in rows}

    def erase(self, connection: Connection, aggregate_ids: Collection[UUID]) -> int:
        """Delete every record of these aggregates; for after their events were deleted. Returns how many there were."""
        return connection.execute(
            self._sql("DELETE FROM {quarantine} WHERE aggregate_id = ANY (%s)"), (list(aggregate_ids),)
        ).rowcount

    def forget(self, connection: Connection, migration_id: int) -> None:
        """Delete what a migration that is given up has set aside."""
        connection.execute(self._sql("DELETE FROM {quarantine} WHERE migration_id = %s"), (migration_id,))
