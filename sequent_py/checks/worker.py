"""Workers of checks: in this process, or processes of their own that answer requests one at a time.

``python -m sequent_py.checks.worker`` gets its :class:`CheckTask`, which holds the password, as the first line of standard input, and a request per further
line; each is answered by one line of JSON. When standard input closes, whatever became of the parent, the worker ends. What handlers
print goes to standard error.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import IO, Any
from uuid import UUID

import psycopg

from sequent_py import database, errors
from sequent_py.checks.checker import SliceChecker, SliceResult, tables_of_projectors
from sequent_py.checks.comparison import Change, RelationComparison
from sequent_py.checks.contention import repeated
from sequent_py.checks.determinism import Circumstances, FoldedRows, fold_sample
from sequent_py.checks.omissions import Omissions
from sequent_py.checks.slices import Slice
from sequent_py.checks.staging import Target
from sequent_py.errors import SequentError, WorkerFailed
from sequent_py.event_classes import EventTypes
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Projector
from sequent_py.records import Record, record_shape
from sequent_py.replay.ledger import Connection
from sequent_py.replay.loading import event_types_of, load_migrations
from sequent_py.view_schema.migrations import Migrations, definition

STOP_TIMEOUT_SECONDS = 10.0
AGAIN = "Nothing was changed. Run it again: sequent migrate verify"
"""The remedy where no table and no handler is to blame."""


@dataclass(frozen=True)
class CheckTask:
    """What a worker needs to know; travels over a pipe, never on a command line, for it holds the password."""

    database_url: str
    event_store_schema: str
    view_schema: str
    migrations_class: str
    sys_path: tuple[str, ...]
    version: int
    migration_id: int | None
    projectors: tuple[str, ...]
    """Those that take part in the fold."""
    physical_tables: Mapping[str, str]
    """By plain name, of all their tables."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CheckTask:
        """Read :meth:`to_json`'s line."""
        values = json.loads(text)
        return cls(
            **{**values, "sys_path": tuple(values["sys_path"]), "projectors": tuple(values["projectors"])}
        )


class InlineWorker:
    """Answers in this process. Connections are opened when they are first needed."""

    def __init__(self, task: CheckTask, migrations: type[Migrations], event_types: EventTypes) -> None:
        by_name = {item.name: item.projector for item in definition(migrations).projectors}
        self.projectors: list[type[Projector]] = [by_name[name] for name in task.projectors]
        self._task = task
        self._event_types = event_types
        self._open = ExitStack()
        self._checker: SliceChecker | None = None

    def __enter__(self) -> InlineWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def check(self, which: Slice, tables: Sequence[str]) -> SliceResult:
        return repeated(lambda: self._slice_checker().check(which, tables))

    def check_whole(self, tables: Sequence[str], on_events: Callable[[int], object]) -> SliceResult:
        """Compare whole tables; see :meth:`~sequent_py.checks.checker.SliceChecker.check_whole`."""
        checker = self._slice_checker()
        with self._connect("reading") as reader:
            return repeated(lambda: checker.check_whole(reader, tables, on_events))

    def fold(
        self, aggregate_ids: Sequence[UUID], until: str, circumstances: Circumstances, omissions: Omissions
    ) -> FoldedRows:
        with self._connect("folding") as connection, self._connect("reading") as reader:
            return repeated(
                lambda: fold_sample(
                    connection,
                    reader,
                    schema=self._task.event_store_schema,
                    projectors=self.projectors,
                    tables=self._tables(connection),
                    event_types=self._event_types,
                    aggregate_ids=aggregate_ids,
                    until=until,
                    circumstances=circumstances,
                    omissions=omissions,
                )
            )

    def _slice_checker(self) -> SliceChecker:
        if self._checker is None:
            connection = self._open.enter_context(self._connect("verifying"))
            self._checker = SliceChecker(
                connection,
                Target(self._task.event_store_schema, self._task.version, self._task.migration_id),
                self.projectors,
                self._tables(connection),
                self._event_types,
            )
        return self._checker

    def _connect(self, purpose: str) -> Connection:
        return database.connect_for_migration(
            self._task.database_url, application_name=f"sequent {purpose} (pid {os.getpid()})"
        )

    def _tables(self, connection: Connection) -> dict[type[Record], TableShape]:
        return {
            record: read_table_shape(
                connection,
                record_shape(record),
                self._task.view_schema,
                self._task.physical_tables[record_shape(record).table_name],
            )
            for record in tables_of_projectors(self.projectors)
        }


class WorkerProcess:
    """Answers in a process of its own, with ``hash_seed`` if one is given."""

    def __init__(self, task: CheckTask, *, hash_seed: int | None = None) -> None:
        self._task = task
        self._hash_seed = hash_seed

    def __enter__(self) -> WorkerProcess:
        environment = dict(os.environ)
        if self._hash_seed is not None:
            environment["PYTHONHASHSEED"] = str(self._hash_seed)
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sequent_py.checks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=environment,
            # Ctrl-C reaches the parent alone, which closes the pipe.
            start_new_session=True,
        )
        with contextlib.suppress(BrokenPipeError):
            self._send(self._task.to_json())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, in the middle of a request too; its transaction rolls back."""
        process = self._process
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        # Ended rather than left to notice: it may be in the middle of a fold.
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._stderr.close()

    def check(self, which: Slice, tables: Sequence[str]) -> SliceResult:
        return _result(self._ask({"check": which.to_json(), "tables": list(tables)}))

    def fold(
        self, aggregate_ids: Sequence[UUID], until: str, circumstances: Circumstances, omissions: Omissions
    ) -> FoldedRows:
        answer = self._ask(
            {
                "fold": [str(aggregate_id) for aggregate_id in aggregate_ids],
                "until": until,
                "circumstances": asdict(circumstances),
                "omissions": omissions.to_json(),
            }
        )
        return FoldedRows(**answer)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._send(json.dumps(request))
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(
                f"A verifying process ended without an answer: {self._last_words()}.",
                remedy=AGAIN,
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise rebuilt(answer["error"])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait(STOP_TIMEOUT_SECONDS)
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return text.rpartition("\n")[2] or f"exit status {status}"


def rebuilt(document: Mapping[str, str]) -> SequentError:
    """Return a worker's error under its own class."""
    cls = getattr(errors, document["type"], None)
    if isinstance(cls, type) and issubclass(cls, SequentError):
        error: SequentError = cls.__new__(cls)
        SequentError.__init__(error, document["message"], remedy=document["remedy"])
        return error
    return WorkerFailed(
        f"A verifying process failed: {document['type']}: {document['message'].rstrip('.')}.",
        remedy=document["remedy"],
    )


def _result(answer: Mapping[str, Any]) -> SliceResult:
    return SliceResult(
        answer["events"],
        answer["rows"],
        {table: _comparison(values) for table, values in answer["comparisons"].items()},
        {table: tuple(names) for table, names in answer["uncompared"].items()},
        {table: tuple(aggregates) for table, aggregates in answer["left_out"].items()},
        tuple(answer["strayed"]),
        answer["is_disputed"],
    )


def _comparison(values: Mapping[str, Any]) -> RelationComparison:
    return RelationComparison(
        **{
            **values,
            "only_left_examples": tuple(values["only_left_examples"]),
            "only_right_examples": tuple(values["only_right_examples"]),
            "changed_examples": tuple(
                Change(item["key"], {name: tuple(pair) for name, pair in item["columns"].items()})
                for item in values["changed_examples"]
            ),
        }
    )


def _answer(worker: InlineWorker, request: Mapping[str, Any]) -> Mapping[str, Any]:
    if "check" in request:
        return asdict(worker.check(Slice.from_json(request["check"]), request["tables"]))
    ids = [UUID(text) for text in request["fold"]]
    circumstances = Circumstances(**request["circumstances"])
    omissions = Omissions.from_json(request["omissions"])
    return asdict(worker.fold(ids, request["until"], circumstances, omissions))


def main() -> int:
    """Answer requests until standard input closes."""
    # Handlers may print; our answers must stay alone on their line.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        lines = iter(sys.stdin.readline, "")
        task = CheckTask.from_json(next(lines))
        sys.path[:0] = [entry for entry in task.sys_path if entry not in sys.path]

        def say(message: Mapping[str, Any]) -> None:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        try:
            migrations = load_migrations(task.migrations_class)
            with InlineWorker(task, migrations, event_types_of(migrations)) as worker:
                gc.freeze()
                for line in lines:
                    say(_answer(worker, json.loads(line)))
        except SequentError as error:
            say({"error": {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}})
            return 1
        except psycopg.Error as error:
            say({"error": {"type": type(error).__name__, "message": str(error).strip(), "remedy": AGAIN}})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
