"""Erasure: taking aggregates out of everything that this library keeps, for good.

Places, in this order; each step is idempotent, and a command that died is run again:

1. at a standstill, one short transaction per aggregate: its events, its partition key and its rows in the live tables, so that nobody
   ever sees or appends to half of it. Afterwards the id is new: ``expected_version=0`` works;
2. its rows in retired tables, and in the shadow tables of an unfinished migration. That needs the migration lock, which tells that no worker
   is reading events from before the erasure; the ledger's row counts are corrected. While a migration is at work its shadow tables are left
   alone: the erasure is an edit, which their next pass re-folds, and none is promoted without that pass. Others are waited for;
3. recorded errors, which may quote payloads, and quarantine.

What stays: the id itself in ``event_edits``, by which tables that are not up to date will drop its rows. Tables without an ``aggregate_id`` cannot be
told apart by aggregate: they are named, and have to be rebuilt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.errors import ConcurrentMigration, MigrationError
from sequent_py.event_store.standstill import at_standstill
from sequent_py.replay import fence
from sequent_py.replay.ledger import Ledger
from sequent_py.replay.quarantine import Quarantine
from sequent_py.view_schema.bookkeeping.relations import Relations, TableRole, ViewTable
from sequent_py.view_schema.bookkeeping.versions import Versions

Connection = psycopg.Connection[Any]

POLL_SECONDS = 0.05

STORE_PLACES = (
    ("events", "events"),
    ("partition keys", "aggregate_partitions"),
    ("snapshots of aggregates", "aggregate_snapshots"),
    ("saved copies", "saved_aggregates"),
)
"""Tables of the event store's schema with an ``aggregate_id``, by what they hold. Whatever is added to the store belongs here; what a store does not
have (this release keeps no snapshots and no saved copies) is reported as such."""

_KEPT = sql.SQL("role <> 'live'")
REMEDY_FOR_UNTOLD = "Rebuild them without the erased events: declare their projectors under a new version, then sequent migrate online"
REST = "Deleted rows stay in the files until VACUUM has been there, and in WAL archives, replicas that lag and backups until those expire."


@dataclass(frozen=True)
class Place:
    """What was found in one place."""

    name: str
    rows: int | None
    """Rows deleted, of a dry run found; None where there is no such place, or it was left alone."""
    note: str = ""


@dataclass(frozen=True)
class ErasureReport:
    """What was erased, place by place."""

    aggregate_ids: tuple[UUID, ...]
    is_dry_run: bool
    places: tuple[Place, ...]
    untold_tables: tuple[str, ...]
    """Tables whose rows nobody can tell apart by aggregate, or depend on several, by the ordering that they were built with; they may hold
    what was erased."""
    left_to_next_pass: tuple[str, ...] = ()
    """Shadow tables that a migration is at work on: its next pass deletes the rows, and no promotion happens without it."""
    rest: str = field(default=REST)

    @property
    def is_everywhere(self) -> bool:
        """Whether no table is left that may still hold what was erased."""
        return not (self.untold_tables or self.left_to_next_pass)


class Erasure:
    """Erases aggregates from one event store and its view schema."""

    def __init__(
        self,
        connection: Connection,
        *,
        event_store_schema: str,
        view_schema: str,
        budget_seconds: float,
    ) -> None:
        self._connection = connection
        self._schema = event_store_schema
        self._view_schema = view_schema
        self._budget_seconds = budget_seconds
        self._versions = Versions(event_store_schema)
        self._relations = Relations(event_store_schema)
        self._rows: dict[str, int | None] = {}
        self._untold: dict[str, None] = {}
        self._left: list[str] = []

    def run(self, aggregate_ids: Sequence[UUID], *, is_dry_run: bool = False) -> ErasureReport:
        """Erase the aggregates, or count what would be; unknown ones are no error, so that an interrupted run can be repeated.

        Raises
        ------
        MaintenanceModeActive
            The gate is closed; nothing was changed, or no more than earlier aggregates.
        DrainTimeout
            Writers were in flight all the time; as above.
        MigrationError
            Somebody held the migration lock all the time; events and live rows are erased.
        """
        ids = list(dict.fromkeys(aggregate_ids))
        if is_dry_run:
            with self._connection.transaction():
                self._connection.execute("SET TRANSACTION READ ONLY")
                self._count(ids)
        else:
            for aggregate_id in ids:
                at_standstill(
                    self._connection,
                    self._schema,
                    partial(self._erase_events, aggregate_id, dict(self._rows)),
                    budget_seconds=self._budget_seconds,
                )
            self._erase_kept(ids)
            self._erase_records(ids)
        return ErasureReport(
            aggregate_ids=tuple(ids),
            is_dry_run=is_dry_run,
            places=tuple(Place(name, rows) for name, rows in self._rows.items()),
            untold_tables=tuple(self._untold),
            left_to_next_pass=tuple(self._left),
        )

    def _erase_events(
        self, aggregate_id: UUID, rows_before: Mapping[str, int | None], _live_version: int
    ) -> None:
        """Delete events, partition key and live rows, in the transaction of a standstill."""
        # Forget what a try counted that was rolled back.
        self._rows = dict(rows_before)
        # A rollback may be counting the rows of a table that it will bring up to date where it stands.
        self._hold_tables(sql.SQL("unmanaged_since IS NOT NULL"))
        keys = {
            name: for_parameters(sql.Identifier(self._schema, name))
            for name in ("partitions", "aggregate_partitions")
        }
        partition_key = self._connection.execute(
            sql.SQL("SELECT partition_key FROM {aggregate_partitions} WHERE aggregate_id = %s").format(
                **keys
            ),
            (aggregate_id,),
        ).fetchone()
        for name, table in STORE_PLACES:
            self._take(name, sql.Identifier(self._schema, table), [aggregate_id])
        # With the events, so that what is appended under the same id from now on is projected like anything that is new.
        self._end_quarantine([aggregate_id])
        # The key's own row goes with its last aggregate: keys may say as much of a person as events.
        self._connection.execute(
            sql.SQL(
                "DELETE FROM {partitions} p WHERE p.partition_key = %s AND NOT EXISTS"
                " (SELECT FROM {aggregate_partitions} a WHERE a.partition_key = p.partition_key)"
            ).format(**keys),
            partition_key or (None,),
        )
        for live in self._relations.tables(self._connection, TableRole.LIVE):
            rows = self._take_rows(live, [aggregate_id])
            for migration_id in self._relations.returning_in_place(self._connection, live):
                self._correct(live, rows, migration_id)

    def _erase_kept(self, ids: Sequence[UUID]) -> None:
        """Delete rows of retired and shadow tables, and correct the ledger's row counts, in one transaction."""
        deadline = time.monotonic() + self._budget_seconds
        while not self._is_coordinator():
            if self._left_to_migration(ids):
                return
            # A rollback, another erasure, a clean-up: none makes a pass over all of these tables, so it has to be waited for.
            if time.monotonic() > deadline:
                holder = fence.coordinator(self._connection, self._schema) or "somebody else"
                raise MigrationError(
                    f"Events and live rows are erased; retired tables may hold rows still, because {holder} is at work.",
                    remedy="When that has ended, run the same command again.",
                )
            time.sleep(POLL_SECONDS)
        try:
            # A worker that outlived its coordinator may have read the events before they were deleted.
            fence.evict_workers(self._connection, self._schema)
            with self._connection.transaction():
                self._hold_tables()
                self._erase_tables(ids, TableRole.RETIRED, TableRole.SHADOW)
        finally:
            fence.resign(self._connection, self._schema)

    def _is_coordinator(self) -> bool:
        try:
            fence.become_coordinator(self._connection, self._schema)
        except ConcurrentMigration:
            return False
        return True

    def _left_to_migration(self, ids: Sequence[UUID]) -> bool:
        """Whether an unfinished migration is at work: it lets retired tables be, and its next pass deletes the rows of the shadow tables."""
        with self._connection.transaction():
            self._hold_tables()
            if self._versions.unfinished(self._connection) is None:
                return False
            self._erase_tables(ids, TableRole.RETIRED)
            self._left = [
                table.physical_name for table in self._relations.tables(self._connection, TableRole.SHADOW)
            ]
        return True

    def _hold_tables(self, condition: sql.SQL = _KEPT) -> None:
        """Keep the tables' records as they are: one that is renamed or dropped meanwhile would be missed, and one that is counted miscounted."""
        self._connection.execute(
            sql.SQL("SELECT FROM {} WHERE {} FOR SHARE").format(
                sql.Identifier(self._schema, "view_tables"), condition
            )
        )

    def _erase_tables(self, ids: Sequence[UUID], *roles: TableRole) -> None:
        for role in roles:
            for table in self._relations.tables(self._connection, role):
                # Passes over a retired table belong to the migration that retired it.
                self._correct(table, self._take_rows(table, ids), table.retired_by or table.migration_id)

    def _correct(self, table: ViewTable, rows: int, migration_id: int) -> None:
        if rows:
            Ledger(self._schema).correct_rows(
                self._connection, migration_id, {table.table_name: -rows}, worker="aggregates erase"
            )

    def _erase_records(self, ids: Sequence[UUID]) -> None:
        """Blank error texts that name an aggregate, or none at all so that nobody can say whose payload they quote; end its quarantine."""
        with self._connection.transaction():
            # A worker that read the events before may have set an aggregate aside since.
            self._end_quarantine(ids)
            names = [str(item) for item in ids]
            texts = 0
            for table, key in (("view_migrations", "id"), ("replay_groups", "(migration_id, pass, number)")):
                # A row that is locked is a group that a worker is at, whose error goes when it ends.
                statement = sql.SQL(
                    "UPDATE {table} SET error = '(erased)' WHERE {key} IN (SELECT {columns} FROM {table} WHERE error <> '(erased)'"
                    " AND (error ~* ANY (%s) OR error !~* '[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}')"
                    " FOR UPDATE SKIP LOCKED)"
                ).format(
                    table=for_parameters(sql.Identifier(self._schema, table)),
                    key=sql.SQL(key),
                    columns=sql.SQL(key.strip("()")),
                )
                texts += self._connection.execute(statement, (names,)).rowcount
            self._rows["recorded errors"] = texts

    def _end_quarantine(self, ids: Sequence[UUID]) -> None:
        ended = Quarantine(self._schema).erase(self._connection, ids)
        self._rows["quarantine"] = (self._rows.get("quarantine") or 0) + ended

    def _count(self, ids: Sequence[UUID]) -> None:
        for name, table in STORE_PLACES:
            self._take(name, sql.Identifier(self._schema, table), ids, is_counting=True)
        for role in TableRole:
            for view_table in self._relations.tables(self._connection, role):
                self._take_rows(view_table, ids, is_counting=True)
        self._take(
            "quarantine", sql.Identifier(self._schema, "quarantined_aggregates"), ids, is_counting=True
        )

    def _take_rows(self, table: ViewTable, ids: Sequence[UUID], *, is_counting: bool = False) -> int:
        relation = sql.Identifier(self._view_schema, table.physical_name)
        name = f"{table.role} table {table.physical_name}"
        rows = self._take(name, relation, ids, is_counting=is_counting)
        # As it was built: a table that is retired, or not live yet, may have another ordering than this code declares.
        if table.ordering != "aggregate":
            self._untold[table.physical_name] = None
        if rows is None:
            self._rows.pop(name)
            self._untold[table.physical_name] = None
        return rows or 0

    def _take(
        self, name: str, relation: sql.Identifier, ids: Sequence[UUID], *, is_counting: bool = False
    ) -> int | None:
        """Delete or count the rows of these aggregates, and add them to the report; None where rows do not say whose they are."""
        type_name = self._aggregate_id_type(relation)
        if type_name not in ("uuid", "text", "varchar", "bpchar"):
            self._rows.setdefault(name, None)
            return None
        values = [str(item) for item in ids]
        condition = sql.SQL(
            "aggregate_id = ANY (%s::uuid[])"
            if type_name == "uuid"
            else "lower(aggregate_id) = ANY (%s::text[])"
        )
        template = sql.SQL("SELECT count(*) FROM {} WHERE {}" if is_counting else "DELETE FROM {} WHERE {}")
        cursor = self._connection.execute(template.format(for_parameters(relation), condition), (values,))
        rows = int(cursor.fetchone()[0]) if is_counting else cursor.rowcount  # type: ignore[index]
        self._rows[name] = (self._rows.get(name) or 0) + rows
        return rows

    def _aggregate_id_type(self, relation: sql.Identifier) -> str | None:
        row = self._connection.execute(
            "SELECT t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
            " WHERE a.attrelid = to_regclass(%s) AND a.attname = 'aggregate_id' AND NOT a.attisdropped",
            (relation.as_string(self._connection),),
        ).fetchone()
        return None if row is None else str(row[0])
