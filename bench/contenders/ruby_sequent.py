"""Ruby's Sequent (https://www.sequent.io), of which this library took its migrations: its own event store, projectors and ``migrate_online``, with its persistor for replays.

It needs ``ruby`` with the gem ``sequent``, version 7 (``gem install sequent -v '~> 7.2'``, or its sources on RUBYLIB); the application is ``ruby/bank.rb``. As many processes as the
machine has cores. Its event store gets an index on what its groups are selected by, which its schema leaves to whoever has many events.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bench.contenders import Contender, rows_that_differ
from bench.contenders.waiting_process import WaitingProcess
from bench.workloads import Workload

_APPLICATION = Path(__file__).parent / "ruby" / "bank.rb"
_STORE = "ruby_store"
_VERSION = 1

_FILL = """
    WITH command AS (
        INSERT INTO command_records (command_type, command_json, created_at) VALUES ('Import', '{}', now()) RETURNING id
    ), streams AS (
        INSERT INTO stream_records (created_at, aggregate_type, aggregate_id)
        SELECT min(created_at), 'Account', aggregate_id FROM sequent_schema.events GROUP BY aggregate_id
        RETURNING id, aggregate_id
    )
    INSERT INTO event_records
        (aggregate_id, sequence_number, created_at, event_type, event_json, command_record_id, stream_record_id)
    SELECT e.aggregate_id, e.sequence_number, e.created_at, t.name, (e.payload || jsonb_build_object(
        'aggregate_id', e.aggregate_id, 'sequence_number', e.sequence_number,
        'created_at', to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    ))::text, command.id, streams.id
    FROM sequent_schema.events e JOIN sequent_schema.event_types t ON t.id = e.event_type_id
    JOIN streams USING (aggregate_id), command
    ORDER BY e.position
"""


def is_there() -> bool:
    """Whether Ruby is, and finds Sequent."""
    ruby = shutil.which("ruby")
    return (
        ruby is not None
        and subprocess.run([ruby, "-e", "require 'sequent'"], capture_output=True, check=False).returncode
        == 0
    )


class RubySequent(Contender):
    """``migrate_online``, as its documentation configures it."""

    name = "Ruby's Sequent"

    def __init__(self, url: str, workload: Workload, events: int) -> None:
        self.events = events
        self._url, self._workload = url, workload
        self._round = itertools.count(1)

    def prepare(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(_STORE)))
            self._process("install", "public").run()
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(_STORE)))
            connection.execute(_FILL)
            connection.execute("CREATE INDEX ON event_records (substring(aggregate_id::text from 1 for 3))")
            connection.execute("VACUUM ANALYZE event_records")

    def reset(self) -> None:
        # Its versions are kept beside the tables: a run finds neither of another's.
        self._schema = f"ruby_view_{next(self._round)}"
        self._waiting = self._process("online", self._schema)
        self.cpu_seconds_before = self._waiting.cpu_seconds_before

    def run(self) -> float | None:
        self._waiting.run()
        return None

    def differences(self) -> int | None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return sum(
                rows_that_differ(connection, table, sql.Identifier(self._schema, name), self.events)
                for table, name in zip(self._workload.tables, self._tables(), strict=True)
            )

    def discard(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            for name in self._tables():
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(self._schema, name)))

    def _tables(self) -> list[str]:
        return [f"{table.name}_{_VERSION}" for table in self._workload.tables]

    def _process(self, command: str, view_schema: str) -> WaitingProcess:
        found = conninfo_to_dict(self._url)
        names = {
            "host": "host",
            "port": "port",
            "user": "username",
            "password": "password",
            "dbname": "database",
        }
        task: dict[str, Any] = {
            "connection": {ours: str(found[theirs]) for theirs, ours in names.items() if theirs in found},
            "store_schema": _STORE,
            "view_schema": view_schema,
            "sql_directory": str(self._workload.sql_directory),
            "workers": os.cpu_count() or 1,
        }
        environment = {**os.environ, "SEQUENT_ENV": "production"}
        return WaitingProcess(["ruby", str(_APPLICATION), command], task, environment)
