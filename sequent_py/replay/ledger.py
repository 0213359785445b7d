"""The ledger: owns ``replay_passes``, ``replay_groups`` and ``special_aggregates``.

Every function runs in the caller's transaction and never commits. ``claim`` takes a row lock that lasts until the caller's transaction
ends; ``take_over`` waits for such locks under the caller's ``lock_timeout``. After a crash the tables need no repair: an unfinished group
is one whose ``done_at`` is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.replay.groups import PARTITION_COUNT, Group
from sequent_py.replay.refold import SpecialAggregate

Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: the events visible in ``until`` and not in ``since`` (None: from the beginning)."""

    migration_id: int
    number: int
    since: str | None
    until: str
    estimated_events: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class ClaimedGroup:
    """A group whose row lock this transaction holds."""

    migration_id: int
    pass_number: int
    number: int
    group: Group
    since: str | None
    until: str


@dataclass(frozen=True, slots=True)
class PassProgress:
    """How far a pass has come; events of unfinished groups are estimates."""

    events_done: int
    groups_done: int
    groups_total: int
    seconds_elapsed: float
    """From the pass's creation to its newest group's end, pauses between runs included."""


class Ledger:
    """The tables in one event store schema. Holds the schema's name and nothing else."""

    def __init__(self, schema: str) -> None:
        self._events = sql.Literal(sql.Identifier(schema, "events").as_string(None))
        self._specials = for_parameters(sql.Identifier(schema, "special_aggregates"))
        self._passes = for_parameters(sql.Identifier(schema, "replay_passes"))
        self._groups = for_parameters(sql.Identifier(schema, "replay_groups"))

    def _sql(self, template: LiteralString) -> sql.Composed:
        return sql.SQL(template).format(passes=self._passes, groups=self._groups, specials=self._specials)

    def create_pass(
        self,
        connection: Connection,
        new: Pass,
        groups: Sequence[Group],
        *,
        epoch: int,
        specials: Sequence[SpecialAggregate] = (),
    ) -> None:
        """Write a pass with its groups and special aggregates, claimable by workers of ``epoch`` from the commit on."""
        connection.execute(
            self._sql(
                "INSERT INTO {passes} (migration_id, number, snapshot_since, snapshot_until, estimated_events, is_exact)"
                " VALUES (%s, %s, %s::pg_snapshot, %s::pg_snapshot, %s, %s)"
            ),
            (new.migration_id, new.number, new.since, new.until, new.estimated_events, new.is_exact),
        )
        if specials:
            connection.execute(
                self._sql(
                    "INSERT INTO {specials} (migration_id, pass, aggregate_id, snapshot_since, is_edited)"
                    " SELECT %s, %s, s.* FROM unnest(%s::uuid[], %s::text[]::pg_snapshot[], %s::boolean[]) AS s"
                ),
                (
                    new.migration_id,
                    new.number,
                    [special.aggregate_id for special in specials],
                    [special.since for special in specials],
                    [special.is_edited for special in specials],
                ),
            )
        with connection.cursor() as cursor:
            cursor.executemany(
                self._sql(
                    "INSERT INTO {groups} (migration_id, pass, number, partition, lower, upper, estimated_events,"
                    " ordering, slice, slices, epoch) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                ),
                [
                    (
                        new.migration_id,
                        new.number,
                        number,
                        group.partition,
                        group.lower,
                        group.upper,
                        group.estimated_events,
                        group.ordering,
                        group.slice,
                        group.slices,
                        epoch,
                    )
                    for number, group in enumerate(groups)
                ],
            )

    def claim(self, connection: Connection, migration_id: int, *, epoch: int) -> ClaimedGroup | None:
        """Lock an unfinished group that nobody else is at, the largest first; None when there is none.

        Only groups of ``epoch`` are seen: a worker of an earlier run finds nothing.
        """
        row = connection.execute(
            self._sql(
                "SELECT g.pass, g.number, g.partition, g.lower, g.upper, g.estimated_events,"
                " g.ordering, g.slice, g.slices, p.snapshot_since::text, p.snapshot_until::text"
                " FROM {groups} g JOIN {passes} p ON p.migration_id = g.migration_id AND p.number = g.pass"
                " WHERE g.migration_id = %s AND g.epoch = %s AND g.done_at IS NULL"
                " ORDER BY g.pass, g.estimated_events DESC, g.number LIMIT 1 FOR UPDATE OF g SKIP LOCKED"
            ),
            (migration_id, epoch),
        ).fetchone()
        if row is None:
            return None
        pass_number, number, *slice_of_pass, since, until = row
        return ClaimedGroup(
            migration_id=migration_id,
            pass_number=pass_number,  # type: ignore[arg-type]
            number=number,  # type: ignore[arg-type]
            group=Group(*slice_of_pass),  # type: ignore[arg-type]
            since=since,  # type: ignore[arg-type]
            until=until,  # type: ignore[arg-type]
        )

    def next_group_events(self, connection: Connection, migration_id: int, *, epoch: int) -> int | None:
        """Return about how many events the group has that :meth:`claim` would lock now; None where it would find none. Locks it as long."""
        row = connection.execute(
            self._sql(
                "SELECT estimated_events FROM {groups} WHERE migration_id = %s AND epoch = %s AND done_at IS NULL"
                " ORDER BY pass, estimated_events DESC, number LIMIT 1 FOR UPDATE SKIP LOCKED"
            ),
            (migration_id, epoch),
        ).fetchone()
        return None if row is None else int(row[0])  # type: ignore[call-overload]

    def special_aggregates(self, connection: Connection, claimed: ClaimedGroup) -> list[SpecialAggregate]:
        """Return the special aggregates of a claimed group."""
        group = claimed.group
        condition = (
            sql.SQL("true")
            if group.partition is None
            else for_parameters(
                sql.SQL("satisfies_hash_partition({}::regclass, {}, {}, aggregate_id)").format(
                    self._events, sql.Literal(PARTITION_COUNT), sql.Literal(group.partition)
                )
            )
        )
        rows = connection.execute(
            self._sql(
                "SELECT aggregate_id, snapshot_since::text, is_edited FROM {specials} WHERE migration_id = %s AND pass = %s"
                " AND (%s::uuid IS NULL OR aggregate_id >= %s) AND (%s::uuid IS NULL OR aggregate_id < %s) AND "
            )
            + condition,
            (
                claimed.migration_id,
                claimed.pass_number,
                group.lower,
                group.lower,
                group.upper,
                group.upper,
            ),
        )
        return [SpecialAggregate(*row) for row in rows]  # type: ignore[arg-type]

    def finish(
        self,
        connection: Connection,
        claimed: ClaimedGroup,
        *,
        events: int,
        row_changes: Mapping[str, int],
        seconds: float,
        worker: str,
    ) -> None:
        """Mark a claimed group done, in the transaction that wrote its rows."""
        connection.execute(
            self._sql(
                "UPDATE {groups} SET done_at = clock_timestamp(), events = %s, row_changes = %s::jsonb, seconds = %s,"
                " worker = %s, error = NULL WHERE migration_id = %s AND pass = %s AND number = %s AND done_at IS NULL"
            ),
            (
                events,
                json.dumps(row_changes),
                seconds,
                worker,
                claimed.migration_id,
                claimed.pass_number,
                claimed.number,
            ),
        )

    def record_error(self, connection: Connection, claimed: ClaimedGroup, error: str) -> None:
        """Note why a group could not be finished; it stays claimable."""
        connection.execute(
            self._sql(
                "UPDATE {groups} SET error = %s WHERE migration_id = %s AND pass = %s AND number = %s AND done_at IS NULL"
            ),
            (error, claimed.migration_id, claimed.pass_number, claimed.number),
        )

    def take_over(self, connection: Connection, migration_id: int, *, epoch: int) -> int:
        """Give the unfinished groups a new epoch, which fences every older worker; return how many there are."""
        return connection.execute(
            self._sql(
                "UPDATE {groups} SET epoch = %s, error = NULL WHERE migration_id = %s AND done_at IS NULL"
            ),
            (epoch, migration_id),
        ).rowcount

    def latest_pass(self, connection: Connection, migration_id: int) -> Pass | None:
        """Return the newest pass, None before the first."""
        row = connection.execute(
            self._sql(
                "SELECT number, snapshot_since::text, snapshot_until::text, estimated_events, is_exact FROM {passes}"
                " WHERE migration_id = %s ORDER BY number DESC LIMIT 1"
            ),
            (migration_id,),
        ).fetchone()
        return None if row is None else Pass(migration_id, *row)  # type: ignore[arg-type]

    def first_snapshot(self, connection: Connection, migration_id: int) -> str | None:
        """Return the snapshot that the migration's first pass replays up to; None before it."""
        row = connection.execute(
            self._sql("SELECT snapshot_until::text FROM {passes} WHERE migration_id = %s AND number = 0"),
            (migration_id,),
        ).fetchone()
        return None if row is None else str(row[0])

    def progress(self, connection: Connection, migration_id: int, pass_number: int) -> PassProgress:
        """Return how far a pass has come; reads all of its groups."""
        row = connection.execute(
            self._sql(
                "SELECT coalesce(sum(g.events), 0)::bigint, count(g.done_at), count(g.number),"
                " coalesce(extract(epoch FROM max(g.done_at) - min(p.created_at)), 0)::double precision"
                " FROM {passes} p LEFT JOIN {groups} g ON g.migration_id = p.migration_id AND g.pass = p.number"
                " WHERE p.migration_id = %s AND p.number = %s"
            ),
            (migration_id, pass_number),
        ).fetchone()
        assert row is not None
        return PassProgress(*row)  # type: ignore[arg-type]

    def has_unfinished(self, connection: Connection, migration_id: int) -> bool:
        """Whether a group of any pass is not done; looks at one entry of an index, however many groups there are."""
        row = connection.execute(
            self._sql("SELECT EXISTS (SELECT FROM {groups} WHERE migration_id = %s AND done_at IS NULL)"),
            (migration_id,),
        ).fetchone()
        return row == (True,)

    def unfinished_groups(self, connection: Connection, migration_id: int) -> int:
        """Count the groups of every pass that are not done."""
        row = connection.execute(
            self._sql("SELECT count(*) FROM {groups} WHERE migration_id = %s AND done_at IS NULL"),
            (migration_id,),
        ).fetchone()
        assert row is not None
        return row[0]  # type: ignore[return-value]

    def finished_groups(self, connection: Connection, migration_id: int) -> int:
        """Count the groups of every pass that are done."""
        row = connection.execute(
            self._sql("SELECT count(*) FROM {groups} WHERE migration_id = %s AND done_at IS NOT NULL"),
            (migration_id,),
        ).fetchone()
        assert row is not None
        return row[0]  # type: ignore[return-value]

    def row_counts(self, connection: Connection, migration_id: int, *, from_pass: int = 0) -> dict[str, int]:
        """Sum what all done groups say they inserted less what they deleted, per table, from a pass on."""
        rows = connection.execute(
            self._sql(
                "SELECT change.key, sum(change.value::bigint)::bigint FROM {groups} g,"
                " LATERAL jsonb_each_text(g.row_changes) AS change"
                " WHERE g.migration_id = %s AND g.pass >= %s AND g.done_at IS NOT NULL GROUP BY change.key"
            ),
            (migration_id, from_pass),
        ).fetchall()
        return dict(rows)  # type: ignore[arg-type]

    def replayed_events(self, connection: Connection, migration_id: int) -> int:
        """Return about how many events all passes have."""
        row = connection.execute(
            self._sql(
                "SELECT coalesce(sum(estimated_events), 0)::bigint FROM {passes} WHERE migration_id = %s"
            ),
            (migration_id,),
        ).fetchone()
        assert row is not None
        return row[0]  # type: ignore[return-value]

    def correct_rows(
        self, connection: Connection, migration_id: int, row_changes: Mapping[str, int], *, worker: str
    ) -> None:
        """Note that somebody else than a group changed the tables' numbers of rows, in the transaction that did it.

        Written as a group of the newest pass, done and without events, so that the sums stay what the tables hold. Needs a pass. Two that
        correct at once take turns, each until the end of its transaction.
        """
        connection.execute(
            self._sql(
                "SELECT FROM {passes} WHERE migration_id = %s ORDER BY number DESC LIMIT 1 FOR NO KEY UPDATE"
            ),
            (migration_id,),
        )
        connection.execute(
            self._sql(
                "INSERT INTO {groups} (migration_id, pass, number, estimated_events, epoch, done_at, events, row_changes, seconds, worker)"
                " SELECT p.migration_id, p.number, (SELECT coalesce(max(g.number) + 1, 0) FROM {groups} g"
                " WHERE g.migration_id = p.migration_id AND g.pass = p.number), 0, 0, clock_timestamp(), 0, %s::jsonb, 0, %s"
                " FROM {passes} p WHERE p.migration_id = %s ORDER BY p.number DESC LIMIT 1"
            ),
            (json.dumps(row_changes), worker, migration_id),
        )

    def forget(self, connection: Connection, migration_id: int) -> None:
        """Delete a migration's passes and groups; waits for workers that hold a group under the caller's lock_timeout."""
        connection.execute(self._sql("DELETE FROM {groups} WHERE migration_id = %s"), (migration_id,))
        connection.execute(self._sql("DELETE FROM {specials} WHERE migration_id = %s"), (migration_id,))
        connection.execute(self._sql("DELETE FROM {passes} WHERE migration_id = %s"), (migration_id,))
