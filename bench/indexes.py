"""Measure appending, loading and snapshot windows on a large store, with and without candidate indexes.

Run from the checkout::

    python -m bench.indexes [--events 1000000] [--repeat 3]

The server is a throw-away one (fsync and synchronous_commit off) unless ``--server-url`` names another. Every figure is the best of
``--repeat`` runs. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

from psycopg import sql

from sequent_py.database import connect, create_engine
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.store import EventStore
from sequent_py.events import Event
from sequent_py.schema_migrations.event_store import install_event_store
from sequent_py.testing.server import fresh_database, shared_server
from sequent_py.windows import window_condition

SCHEMA = "sequent_schema"
EVENTS_PER_TRANSACTION = 10
EVENTS_PER_AGGREGATE = 20
WINDOW_EVENTS = 10_000
APPENDS = 1_000


class Deposited(Event, type_name="BenchDeposited"):
    amount: int
    note: str = "a note of some forty characters, as they are"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--server-url")
    options = parser.parse_args()
    server = (
        nullcontext(options.server_url)
        if options.server_url
        else shared_server(f"bench-{uuid.uuid4().hex[:8]}")
    )
    with server as server_url, fresh_database(server_url, f"bench_{uuid.uuid4().hex[:8]}") as url:
        Bench(url, options.events, options.repeat).run()


class Bench:
    """One store, measured in a fixed order."""

    def __init__(self, url: str, events: int, repeat: int) -> None:
        self.url, self.events, self.repeat = url, events, repeat
        self.connection = connect(url, view_schema=SCHEMA, autocommit=True)
        install_event_store(self.connection, SCHEMA)
        self.store = EventStore(create_engine(url, SCHEMA), SCHEMA, EventTypes([Deposited]))

    def run(self) -> None:
        version = self.connection.execute("SHOW server_version").fetchone()
        report(f"PostgreSQL {version[0] if version else '?'}, {self.events:,} events")
        self.connection.execute("DROP INDEX events_xact_id, events_position")
        self.fill()
        with closing(self.connection):
            self.measure_indexes()
            self.measure_gate()
        self.store.engine.dispose()

    def fill(self) -> None:
        """Write the store in transactions of a few events, as applications do: windows and their index depend on it."""
        self.connection.execute("INSERT INTO event_types (name) VALUES ('BenchDeposited')")
        self.connection.execute("ALTER TABLE events DISABLE TRIGGER events_guard")
        aggregates = max(1, self.events // EVENTS_PER_AGGREGATE)
        started = time.perf_counter()
        self.connection.execute(
            sql.SQL(
                """
                DO $$
                BEGIN
                    FOR batch IN 0..{last} LOOP
                        INSERT INTO events (aggregate_id, sequence_number, event_type_id, payload)
                        SELECT md5((batch % {aggregates})::text)::uuid, batch / {aggregates} * {size} + n, 1,
                               jsonb_build_object('amount', n, 'note', 'a note of some forty characters, as they are')
                        FROM generate_series(1, {size}) n;
                        COMMIT;
                    END LOOP;
                END $$
                """
            ).format(
                last=sql.Literal(self.events // EVENTS_PER_TRANSACTION - 1),
                aggregates=sql.Literal(aggregates),
                size=sql.Literal(EVENTS_PER_TRANSACTION),
            )
        )
        self.connection.execute("ALTER TABLE events ENABLE TRIGGER events_guard")
        self.connection.execute("VACUUM ANALYZE events")
        report(f"filled in {time.perf_counter() - started:.0f} s")

    def measure_indexes(self) -> None:
        for name, create in (
            ("primary key only", None),
            ("+ btree xact_id", "CREATE INDEX events_xact_id ON events (xact_id)"),
            (
                "+ brin position",
                "CREATE INDEX bench_position ON events USING brin (position) WITH (pages_per_range = 16)",
            ),
            ("+ btree position", "CREATE INDEX bench_position ON events (position)"),
        ):
            if create is not None:
                started = time.perf_counter()
                self.connection.execute("DROP INDEX IF EXISTS bench_position")
                self.connection.execute(create)
                self.connection.execute("VACUUM ANALYZE events")
                index = create.split()[2]
                size = self.value(
                    "SELECT pg_size_pretty(sum(pg_relation_size(inhrelid))) FROM pg_inherits WHERE inhparent = %s::regclass",
                    [index],
                )
                report(f"{name}: built in {time.perf_counter() - started:.1f} s, {size}")
            else:
                report(f"{name}:")
            self.measure_appends()
            self.measure_reads()
        self.connection.execute("DROP INDEX bench_position")

    def measure_appends(self) -> None:
        self.line(
            "append of 1 event, in the server",
            min(self.server_microseconds() for _ in range(self.repeat)),
            "µs of CPU",
        )
        self.line("append of 1 event through the store", self.rate(lambda: self.append(1)), "appends/s")
        self.line(
            "append of 10 events through the store", self.rate(lambda: self.append(10)) * 10, "events/s"
        )

    def measure_reads(self) -> None:
        aggregate_id = uuid.UUID(str(self.value("SELECT md5('7')::uuid")))
        self.line("load of one aggregate, 20 events", 1e3 / self.rate(lambda: self.load(aggregate_id)), "ms")
        since, until = self.window_of(WINDOW_EVENTS)
        query = sql.SQL("SELECT position, payload FROM events WHERE {} ORDER BY position").format(
            window_condition(since, until)
        )
        self.line(f"window of {WINDOW_EVENTS:,} new events", self.milliseconds(query), "ms")
        partition = sql.SQL(
            "SELECT position, aggregate_id, sequence_number, payload FROM events_07 ORDER BY position"
        )
        self.line("one partition in position order", self.milliseconds(partition), "ms")
        middle = sql.SQL("SELECT * FROM events WHERE position > {} ORDER BY position LIMIT 1000").format(
            sql.Literal(self.events // 2)
        )
        self.line("1000 events after a position", self.milliseconds(middle), "ms")

    def measure_gate(self) -> None:
        report("the gate's share of an append, in the server, 1 event:")
        definition = str(self.value("SELECT pg_get_functiondef('append_events_v1'::regproc)"))
        check = f"{SCHEMA}.check_gate_v1()"
        without = definition.replace("append_events_v1", "append_without_gate").replace(
            f'"{SCHEMA}".check_gate_v1()', "0"
        )
        without = without.replace(check, "0")
        assert "check_gate" not in without
        self.connection.execute(without.encode())
        variants = {
            "with it": ("ENABLE", "append_events_v1"),
            "without the trigger on the table": ("DISABLE", "append_events_v1"),
            "without it": ("DISABLE", "append_without_gate"),
        }
        best = dict.fromkeys(variants, float("inf"))
        # In turns, so that what else the machine does falls on all of them.
        for _ in range(4 * self.repeat):
            for name, (trigger, function) in variants.items():
                self.connection.execute(
                    sql.SQL("ALTER TABLE events {} TRIGGER events_guard").format(sql.SQL(trigger))
                )
                best[name] = min(best[name], self.server_microseconds(function))
        for name, microseconds in best.items():
            self.line(name, microseconds, "µs of CPU")

    # How

    def append(self, size: int) -> int:
        aggregates = [uuid.uuid4() for _ in range(100)]
        versions = dict.fromkeys(aggregates, 0)
        count = APPENDS // size
        for number in range(count):
            aggregate_id = aggregates[number % 100]
            self.store.append(aggregate_id, [Deposited(amount=1)] * size, versions[aggregate_id])
            versions[aggregate_id] += size
        return count

    def load(self, aggregate_id: uuid.UUID) -> int:
        for _ in range(200):
            assert len(self.store.load(aggregate_id)) == EVENTS_PER_AGGREGATE
        return 200

    def window_of(self, events: int) -> tuple[str, str]:
        since = self.store.snapshot()
        for _ in range(events // 100):
            self.store.append(uuid.uuid4(), [Deposited(amount=1)] * 100)
        return since, self.store.snapshot()

    def server_microseconds(self, function: str = "append_events_v1") -> float:
        """CPU time of one append of one event to a new aggregate, all but the round trip; other processes hardly disturb it."""
        appends = 5_000
        body = sql.SQL(
            "DO $$ BEGIN FOR i IN 1..{} LOOP"
            " PERFORM {}(gen_random_uuid(), 0, ARRAY[1], ARRAY['{{\"amount\": 1}}'::jsonb], '{{}}', NULL, 0);"
            " END LOOP; END $$"
        ).format(sql.Literal(appends), sql.Identifier(function))
        before = self.backend_cpu_seconds()
        self.connection.execute(body)
        return (self.backend_cpu_seconds() - before) / appends * 1e6

    def backend_cpu_seconds(self) -> float:
        try:
            stat = Path(f"/proc/{self.connection.info.backend_pid}/stat").read_text()
        except OSError:
            # Another machine, or no /proc: the clock on the wall.
            return time.perf_counter()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def rate(self, work: Callable[[], int]) -> float:
        best = 0.0
        for _ in range(self.repeat):
            started = time.perf_counter()
            count = work()
            best = max(best, count / (time.perf_counter() - started))
        return best

    def milliseconds(self, query: sql.Composable) -> float:
        times = []
        for _ in range(self.repeat):
            started = time.perf_counter()
            self.connection.execute(sql.Composed([query]), binary=True)
            times.append(time.perf_counter() - started)
        return min(times) * 1000

    def value(self, query: str, parameters: list[object] | None = None) -> object:
        row = self.connection.execute(query.encode(), parameters).fetchone()
        assert row is not None
        return row[0]

    def line(self, what: str, value: float, unit: str) -> None:
        report(f"    {what:<42} {value:>12,.{0 if value >= 100 else 2}f} {unit}")


def report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
