"""How many events a pass will read, and where its groups should be cut.

Exact where that is cheap, sampled where it is not: counting a large store before every replay costs as much as reading it. Reads only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from psycopg import sql

from sequent_py.database import for_parameters
from sequent_py.replay.groups import PARTITION_COUNT, PartitionSample, events_of, pieces_of
from sequent_py.replay.ledger import Connection
from sequent_py.windows import window_condition

EXACT_BYTES = 32 * 1024 * 1024
"""A partition up to this size is counted; it takes some 20 ms."""
HASTY_EXACT_BYTES = 4 * 1024 * 1024
"""The same where groups are to be cut, which sixteen counts would keep the workers waiting for."""
SAMPLED_PAGES = 64
"""Of a partition that is not counted: some thousands of events, read in a millisecond."""
SAMPLE_ROWS = 2_000
"""Sampled aggregate ids per partition, or of a whole window: enough for even groups, and cheap."""
_PAGE_BYTES = 8192


def current_snapshot(connection: Connection) -> str:
    """Return the snapshot that a statement gets now, as text to be stored."""
    row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
    assert row is not None
    return str(row[0])


def has_more_events(
    connection: Connection, schema: str, *, since: str | None = None, until: str | None = None, count: int
) -> bool:
    """Whether a window has more than so many events; reads no more of them than that. ``until`` None: what is visible now."""
    row = connection.execute(
        sql.SQL("SELECT count(*) > %s FROM (SELECT FROM {} WHERE {} LIMIT %s) AS first_ones").format(
            for_parameters(sql.Identifier(schema, "events")), window_condition(since, until)
        ),
        (count, count + 1),
    ).fetchone()
    assert row is not None
    return bool(row[0])


def estimate_history(
    connection: Connection,
    schema: str,
    *,
    until: str,
    event_type_ids: Sequence[int],
    group_target: Callable[[int], int] | None = None,
) -> tuple[dict[int, PartitionSample], bool]:
    """Size every partition's events visible in ``until``; return the samples and whether the counts are exact.

    ``group_target`` tells from the sum how many events a group should have: aggregate ids are sampled where a partition has more; None: nobody is to cut
    groups, and more partitions are counted.
    """
    samples: dict[int, PartitionSample] = {}
    tables = [sql.Identifier(schema, f"events_{partition:02d}") for partition in range(PARTITION_COUNT)]
    sizes = connection.execute(
        "SELECT pg_relation_size(c.oid), greatest(c.reltuples, 0)::bigint, c.relpages"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS t (name, number) JOIN pg_class c ON c.oid = t.name::regclass ORDER BY t.number",
        ([table.as_string(connection) for table in tables],),
    ).fetchall()
    exact_bytes = EXACT_BYTES if group_target is None else HASTY_EXACT_BYTES
    sampled: dict[int, float] = {}
    for partition, row in enumerate(sizes):
        size, tuples, pages = (int(value) for value in row)  # type: ignore[call-overload]
        table = for_parameters(tables[partition])
        if size <= exact_bytes:
            count = _count(connection, table, until, event_type_ids)
        else:
            sampled[partition] = percent = 100.0 * SAMPLED_PAGES / (size // _PAGE_BYTES)
            count = _estimated(connection, table, percent, size // _PAGE_BYTES, tuples, pages, event_type_ids)
        samples[partition] = PartitionSample(count)
    if group_target is not None:
        target = group_target(events_of(samples))
        for partition, sample in samples.items():
            count = sample.estimated_events
            if count > SAMPLE_ROWS and pieces_of(count, target) > 1:
                some = _some_events(for_parameters(tables[partition]), count, sampled.get(partition))
                ids = _aggregate_ids(connection, some, event_type_ids)
                samples[partition] = PartitionSample(count, ids)
    return samples, not sampled


def estimate_window(
    connection: Connection,
    schema: str,
    *,
    since: str,
    until: str,
    event_type_ids: Sequence[int],
    left_out: Collection[UUID] = (),
) -> dict[int, PartitionSample]:
    """Count a window's events per partition, exactly, by the index on ``xact_id``; sample where there are many.

    Events of the aggregates ``left_out`` don't count.
    """
    events = for_parameters(sql.Identifier(schema, "events"))
    rows = connection.execute(
        sql.SQL(
            "SELECT right(tableoid::regclass::text, 200), count(*) FROM {} WHERE {} AND event_type_id = ANY(%s::int[])"
            " AND aggregate_id <> ALL (%s::uuid[]) GROUP BY tableoid"
        ).format(events, window_condition(since, until)),
        (list(event_type_ids), list(left_out)),
    ).fetchall()
    counts = dict.fromkeys(range(PARTITION_COUNT), 0)
    for name, count in rows:
        counts[_partition_of(name)] = int(count)  # type: ignore[call-overload]
    ids: dict[int, list[UUID]] = {partition: [] for partition in counts}
    total = sum(counts.values())
    if total > SAMPLE_ROWS:
        sampled = connection.execute(
            sql.SQL(
                "SELECT right(tableoid::regclass::text, 200), aggregate_id FROM {} WHERE {} AND position %% %s = 0"
            ).format(events, window_condition(since, until)),
            (total // SAMPLE_ROWS,),
        )
        for name, aggregate_id in sampled:
            ids[_partition_of(name)].append(aggregate_id)  # type: ignore[arg-type]
    return {partition: PartitionSample(count, ids[partition]) for partition, count in counts.items()}


def _partition_of(name: object) -> int:
    """Return the number of a partition from the end of its name, which may be quoted."""
    return int(str(name).rstrip('"')[-2:])


def _count(connection: Connection, table: sql.Composable, until: str, event_type_ids: Sequence[int]) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE {} AND event_type_id = ANY(%s::int[])").format(
            table, window_condition(None, until)
        ),
        (list(event_type_ids),),
    ).fetchone()
    assert row is not None
    return int(row[0])  # type: ignore[call-overload, no-any-return]


def _some_events(table: sql.Composable, count: int, percent: float | None) -> sql.Composable:
    """Return a relation with some events of a table: those of that share of its pages, or of a counted one each so many-th."""
    if percent is not None:
        return sql.SQL("{} TABLESAMPLE SYSTEM ({})").format(table, sql.Literal(percent))
    return sql.SQL("(SELECT * FROM {} WHERE position %% {} = 0) AS thinned").format(
        table, sql.Literal(max(count // SAMPLE_ROWS, 1))
    )


def _aggregate_ids(
    connection: Connection, events: sql.Composable, event_type_ids: Sequence[int]
) -> list[UUID]:
    rows = connection.execute(
        sql.SQL("SELECT aggregate_id FROM {} WHERE event_type_id = ANY(%s::int[])").format(events),
        (list(event_type_ids),),
    )
    return [row[0] for row in rows]  # type: ignore[misc]


def _estimated(
    connection: Connection,
    table: sql.Composable,
    percent: float,
    pages_now: int,
    tuples: int,
    pages: int,
    event_type_ids: Sequence[int],
) -> int:
    """Estimate the events of these types from a sample of pages."""
    row = connection.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE event_type_id = ANY(%s::int[])) FROM {} TABLESAMPLE SYSTEM (%s)"
        ).format(table),
        (list(event_type_ids), percent),
    ).fetchone()
    assert row is not None
    found, wanted = (int(value) for value in row)  # type: ignore[call-overload]
    # Density from the last ANALYZE where there was one, else from the sample itself.
    per_page = tuples / pages if tuples > 0 and pages > 0 else found * 100.0 / percent / pages_now
    return round(per_page * pages_now * (wanted / found if found else 1.0))
