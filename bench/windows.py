"""What a window of new events costs: ``online`` once more, after events of accounts that exist have been added.

A window's cost shall be proportional to the window, and not to the store: compare the rows of stores of different sizes. Beside it, the same tables kept up to date by
set-based SQL, written by hand: a window costs the server more per event than a load, because rows are looked up, changed and entered in indexes one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from bench.contenders.ours import online_process, replay_seconds
from bench.contenders.plain_sql import Increments
from bench.measure import Cost, Meter
from bench.server import say
from bench.stages import Stage, TablesDiffer

OURS = "ours"
TRANSACTIONS = 10
"""In which a window's events are written: several, as an application's would be."""

_EXTEND = """
    WITH accounts AS (
        SELECT aggregate_id, max(sequence_number) AS last_number
        FROM sequent_schema.events GROUP BY aggregate_id ORDER BY md5(aggregate_id::text || %(salt)s) LIMIT %(events)s
    )
    INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload)
    SELECT a.aggregate_id, a.last_number + n.number,
           (SELECT id FROM sequent_schema.event_types WHERE name = 'MoneyDeposited'), '{"amount": 1}'
    FROM (SELECT count(*) AS size FROM accounts) s
    CROSS JOIN LATERAL generate_series(1, ceil(%(events)s::numeric / s.size)::integer) AS n (number)
    CROSS JOIN accounts a
    ORDER BY n.number LIMIT %(events)s
"""


@dataclass(frozen=True, slots=True)
class Window:
    """A window that was caught up with."""

    by: str
    stage: str
    store_events: int
    window_events: int
    cost: Cost


def run_windows(
    stages: list[Stage], meter: Meter, windows: list[int], rounds: int, workers: int
) -> list[Window]:
    """Build the tables of the bank's stages, and then let windows of each size come, round after round.

    Raises
    ------
    TablesDiffer
        Those that are kept up to date by hand are not what the events say; ours are proved with the stage.
    """
    found = []
    by_hand = [Increments(stage.url, stage.workload) for stage in stages]
    for stage, increments in zip(stages, by_hand, strict=True):
        stage.app.view_schema.online(workers=workers)
        increments.load()
    for number in range(rounds):
        for events in windows:
            for stage, increments in zip(stages, by_hand, strict=True):
                _extend(stage.url, events, salt=f"{number} {events}")
                with meter.measuring() as result:
                    increments.run()
                found.append(Window(increments.name, stage.name, stage.events, events, result.cost))
                process = online_process(stage.url, stage.workload, workers)
                with meter.measuring() as result:
                    result.cpu_seconds_before = process.cpu_seconds_before
                    process.run()
                    result.rows_seconds = replay_seconds(stage.url)
                found.append(Window(OURS, stage.name, stage.events, events, result.cost))
        say(f"windows, round {number + 1} of {rounds}")
    for stage, increments in zip(stages, by_hand, strict=True):
        if differences := increments.differences():
            raise TablesDiffer(f"{stage.name}: {differences} rows that were kept up to date by hand differ.")
    return found


def _extend(url: str, events: int, salt: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for part in range(TRANSACTIONS):
            connection.execute(_EXTEND, {"events": events // TRANSACTIONS, "salt": f"{salt} {part}"})
        connection.execute("ANALYZE sequent_schema.events")
