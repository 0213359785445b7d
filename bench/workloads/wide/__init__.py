"""The wide workload: one table of 20 columns, five updates of its row for every event."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from bench.workloads import History, ReadTable, Workload

EVENTS_PER_METER = 50
_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
_CHANNELS = "abcde"


def _history(count: int) -> History:
    from bench.workloads.wide.app import MeterInstalled, MeterRead

    chance = random.Random(count)
    meters = [UUID(int=chance.getrandbits(128), version=4) for _ in range(max(1, count // EVENTS_PER_METER))]
    for number in range(count):
        turn, index = divmod(number, len(meters))
        moment = _BEGIN + timedelta(milliseconds=number)
        if turn == 0:
            yield meters[index], MeterInstalled(site=f"Site {index % 1000}", model="M5"), moment
        else:
            values = {channel: chance.randrange(1000) for channel in _CHANNELS}
            yield meters[index], MeterRead(**values), moment


_SELECT = """
    SELECT e.aggregate_id,
           min(e.payload->>'site') AS site,
           min(e.payload->>'model') AS model,
           (count(*) FILTER (WHERE t.name = 'MeterRead'))::integer AS readings,
           coalesce((array_agg((e.payload->>'a')::bigint ORDER BY e.sequence_number DESC) FILTER (WHERE t.name = 'MeterRead'))[1], 0) AS last_a,
           coalesce((array_agg((e.payload->>'b')::bigint ORDER BY e.sequence_number DESC) FILTER (WHERE t.name = 'MeterRead'))[1], 0) AS last_b,
           coalesce((array_agg((e.payload->>'c')::bigint ORDER BY e.sequence_number DESC) FILTER (WHERE t.name = 'MeterRead'))[1], 0) AS last_c,
           coalesce((array_agg((e.payload->>'d')::bigint ORDER BY e.sequence_number DESC) FILTER (WHERE t.name = 'MeterRead'))[1], 0) AS last_d,
           coalesce((array_agg((e.payload->>'e')::bigint ORDER BY e.sequence_number DESC) FILTER (WHERE t.name = 'MeterRead'))[1], 0) AS last_e,
           coalesce(sum((e.payload->>'a')::bigint), 0)::bigint AS total_a,
           coalesce(sum((e.payload->>'b')::bigint), 0)::bigint AS total_b,
           coalesce(sum((e.payload->>'c')::bigint), 0)::bigint AS total_c,
           coalesce(sum((e.payload->>'d')::bigint), 0)::bigint AS total_d,
           coalesce(sum((e.payload->>'e')::bigint), 0)::bigint AS total_e,
           coalesce(max((e.payload->>'a')::bigint), 0) AS highest_a,
           coalesce(max((e.payload->>'b')::bigint), 0) AS highest_b,
           coalesce(max((e.payload->>'c')::bigint), 0) AS highest_c,
           coalesce(max((e.payload->>'d')::bigint), 0) AS highest_d,
           coalesce(max((e.payload->>'e')::bigint), 0) AS highest_e,
           (array_agg(e.created_at ORDER BY e.sequence_number DESC))[1] AS updated_at
    FROM {events} e JOIN {event_types} t ON t.id = e.event_type_id
    GROUP BY e.aggregate_id
"""

WIDE = Workload(
    "wide",
    "a row of 20 columns per meter, five updates of it per event",
    "bench.workloads.wide.app:MeterMigrations",
    Path(__file__).parent / "sql",
    _history,
    (
        ReadTable(
            "meter_records",
            (
                *("aggregate_id", "site", "model", "readings"),
                *(f"{what}_{channel}" for what in ("last", "total", "highest") for channel in _CHANNELS),
                "updated_at",
            ),
            _SELECT,
        ),
    ),
)
