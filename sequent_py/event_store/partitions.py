"""Partition keys as they are stored: which aggregates share one, and giving them to imported aggregates.

``append_events`` owns the tables ``partitions`` and ``aggregate_partitions`` and writes them with an aggregate's first event; only an import, which does not
call it, writes them here, by the same rule: the key's row is updated before positions are drawn, and stays locked until the transaction ends. A key never
changes, so whatever is read here stays true.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.errors import StoreError

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class WholePartitions:
    """Aggregates that are complete partitions together."""

    aggregate_ids: tuple[UUID, ...] = ()
    keys: Mapping[UUID, str] = field(default_factory=dict)
    """Of those that have one."""
    events: int = 0


def checked_partition_key(key: object) -> str:
    """Return a partition key as it may be stored.

    Raises
    ------
    StoreError
        It is not a text, or empty.
    """
    if not isinstance(key, str) or not key:
        raise StoreError(f"partition_key is a text that is not empty, not {key!r:.80}.")
    return key


def partition_keys(connection: Connection, schema: str, aggregate_ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the partition keys of those of the aggregates that have one."""
    rows = connection.execute(
        _sql(
            "SELECT aggregate_id, partition_key FROM {aggregate_partitions} WHERE aggregate_id = ANY (%s)",
            schema,
        ),
        (list(aggregate_ids),),
    )
    return {row[0]: row[1] for row in rows}


def whole_partitions(
    connection: Connection, schema: str, aggregate_ids: Sequence[UUID], *, most_events: int
) -> WholePartitions:
    """Return the partitions of these aggregates with all of their members, as many as have ``most_events`` in all."""
    own = partition_keys(connection, schema, aggregate_ids)
    scopes = dict.fromkeys(own.get(aggregate_id, aggregate_id) for aggregate_id in aggregate_ids)
    chosen: list[UUID] = []
    keys: dict[UUID, str] = {}
    events = 0
    for scope in scopes:
        members = _members(connection, schema, scope) if isinstance(scope, str) else [scope]
        row = connection.execute(
            _sql(
                "SELECT count(*) FROM (SELECT FROM {events} WHERE aggregate_id = ANY (%s) LIMIT %s) AS counted",
                schema,
            ),
            (members, most_events - events + 1),
        ).fetchone()
        assert row is not None
        if events + row[0] <= most_events:
            events += row[0]
            chosen += members
            if isinstance(scope, str):
                keys |= dict.fromkeys(members, scope)
    return WholePartitions(tuple(chosen), keys, events)


def _members(connection: Connection, schema: str, partition_key: str) -> list[UUID]:
    rows = connection.execute(
        _sql("SELECT aggregate_id FROM {aggregate_partitions} WHERE partition_key = %s", schema),
        (partition_key,),
    )
    return [row[0] for row in rows]


def lock_partitions(connection: Connection, schema: str, keys: Collection[str]) -> None:
    """Take the rows of partition keys, made where they are new, until the transaction ends; in one order, so that two imports cannot deadlock."""
    connection.execute(
        _sql(
            "INSERT INTO {partitions} AS p (partition_key, xact_id)"
            ' SELECT k, pg_current_xact_id() FROM unnest(%s::text[]) AS k ORDER BY k COLLATE "C"'
            " ON CONFLICT (partition_key) DO UPDATE SET xact_id = excluded.xact_id",
            schema,
        ),
        (list(keys),),
    )


def assign_partitions(connection: Connection, schema: str, keys: Mapping[UUID, str]) -> None:
    """Give new aggregates their keys, whose rows this transaction has locked.

    Raises
    ------
    psycopg.errors.UniqueViolation
        An aggregate has one already.
    """
    connection.execute(
        _sql(
            "INSERT INTO {aggregate_partitions} (aggregate_id, partition_key) SELECT * FROM unnest(%s::uuid[], %s::text[])",
            schema,
        ),
        (list(keys), list(keys.values())),
    )


def _sql(statement: LiteralString, schema: str) -> sql.Composed:
    return sql.SQL(statement).format(
        **{
            name: for_parameters(sql.Identifier(schema, name))
            for name in ("events", "partitions", "aggregate_partitions")
        }
    )
