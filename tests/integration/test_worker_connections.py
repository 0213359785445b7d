"""What a worker asks of its connections."""

from __future__ import annotations

from sequent_py.replay.group_replayer import connect_worker


def test_a_worker_takes_no_parallel_workers_of_the_servers(store_database_url: str) -> None:
    reader, writer = connect_worker(store_database_url, "sequent_schema")
    with reader, writer:
        for connection in (reader, writer):
            assert connection.execute("SHOW max_parallel_workers_per_gather").fetchone() == ("0",)
