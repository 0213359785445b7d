"""The git demonstration: a repository's history as events, two versions of the read side, and git itself as the judge.

The last commits are not imported but appended, by a thread of this process, while version 2 is being built: first by the code of version 1,
which projects them live into version 1's tables; when the swap has happened that code is refused (``VersionMismatch``), and the code of version 2
goes on. So every way in which a commit can reach the tables of version 2 is taken: replayed, caught up, in the closing window, and live.
"""

from __future__ import annotations

import importlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

from sequent_py import database
from sequent_py.app import Sequent
from sequent_py.demo.examples import example_directory
from sequent_py.demo.git_check import check_git
from sequent_py.demo.reports import Comparison, DemoProgress, DemoReport, WriterReport
from sequent_py.demo.scratch import Scratch, scratch
from sequent_py.demo.session import Session, application, importable
from sequent_py.demo.writer_process import RETRY_SECONDS, Measurements
from sequent_py.errors import MaintenanceModeActive, VersionMismatch

LATE_SHARE = 10
"""One in so many commits is appended while version 2 is built …"""
LATE_COMMITS = 1000
"""… but no more than this: appends go one by one, an import by COPY."""

Happening = list[tuple[UUID, Any]]
"""What one commit means: (aggregate, event)."""


def run_git(
    *,
    repository: Path,
    workers: int | None,
    keep: bool,
    server_url: str | None,
    working_directory: Path,
    progress: DemoProgress,
) -> DemoReport:
    """Import the history of the repository, build version 1, migrate to version 2 while the last commits arrive, compare with git.

    Raises
    ------
    SequentError
        Anything went wrong on the way, e.g. the path is no repository. Differences are not raised but reported.
    """
    session = Session(progress)
    with ExitStack() as stack:
        # The repository is looked at first: a wrong path should not cost the start of a server.
        stack.enter_context(importable(example_directory("git_history")))
        log, lineage = (importlib.import_module(f"git_history.{name}") for name in ("log", "lineage"))
        source = log.open_repository(repository)
        if source.is_shallow:
            progress.note("The clone is shallow: its oldest commits count as the first.")
        place = stack.enter_context(
            scratch("git_history", server_url=server_url, keep=keep, working_directory=working_directory)
        )
        version_1, version_2 = (
            stack.enter_context(_application(place, version, workers)) for version in (1, 2)
        )
        commits = stack.enter_context(closing(log.read_commits(source)))
        history = _by_commit(lineage, session.counted(commits, source.commits))
        late = min(source.commits // LATE_SHARE, LATE_COMMITS)
        imported = _import(version_1, session, itertools.islice(history, source.commits - late))
        session.online(version_1, "version 1")
        session.offline(version_1, "version 1")
        writer = _migrate(version_1, version_2, session, list(history))
        comparisons = _check(version_2, session, repository, source.head, events=imported + writer.events)
        return DemoReport(
            subject=f"git: {source.commits:,} commits of {repository}",
            server=place.server,
            phases=session.phases,
            gate_closed_seconds=session.gate_closed_seconds,
            writer=writer,
            comparisons=comparisons,
            kept=place.kept,
        )


def _application(place: Scratch, version: int, workers: int | None) -> Sequent:
    return application(
        place.project_directory,
        place.database_url,
        f"git_history.v{version}:GitHistoryMigrations",
        sql_directory=f"sql/v{version}",
        workers=workers,
    )


def _by_commit(lineage: ModuleType, commits: Iterable[Any]) -> Iterator[tuple[datetime, Happening]]:
    state = None
    for commit in commits:
        state = state or lineage.Lineage(commit.sha)
        yield commit.committed_at, list(state.events(commit))


def _import(app: Sequent, session: Session, history: Iterable[tuple[datetime, Happening]]) -> int:
    session.progress.step("install the event store")
    app.install()
    with session.phase("read git log and load") as events:
        events.append(
            app.store.import_history(
                (aggregate_id, event, moment)
                for moment, happening in history
                for aggregate_id, event in happening
            )
        )
    return sum(events)


def _migrate(
    version_1: Sequent, version_2: Sequent, session: Session, late: Sequence[tuple[datetime, Happening]]
) -> WriterReport:
    appender = _Appender(version_1, version_2, late)
    with ThreadPoolExecutor(1, thread_name_prefix="appender") as pool:
        appended = pool.submit(appender.run)
        try:
            session.online(version_2, "version 2")
            appender.online_done.set()
            session.offline(version_2, "version 2")
        except BaseException:
            appender.stop.set()
            raise
        finally:
            appender.online_done.set()
            appender.swapped.set()
        session.progress.step("the last commits arrive, projected live by version 2")
        return appended.result()


class _Appender:
    """Appends the last commits, a transaction each: half during online, a quarter during offline, a quarter after the swap."""

    def __init__(
        self, version_1: Sequent, version_2: Sequent, late: Sequence[tuple[datetime, Happening]]
    ) -> None:
        self._app, self._next_app = version_1, version_2
        self._late = late
        self._measured = Measurements()
        self.online_done, self.swapped, self.stop = threading.Event(), threading.Event(), threading.Event()

    def run(self) -> WriterReport:
        """Append all of them; return what was measured."""
        measured = self._measured
        for number, (moment, happening) in enumerate(self._late):
            if number == len(self._late) // 2:
                self.online_done.wait()
            if number == len(self._late) * 3 // 4:
                self.swapped.wait()
            self._append(moment, happening)
            if self.stop.is_set():
                break
        return measured.report()

    def _append(self, moment: datetime, happening: Happening) -> None:
        """Append one commit, however often the gate refuses it."""
        while not self.stop.is_set():
            started = self._measured.clock()
            try:
                with self._app.engine.begin() as connection:
                    for aggregate_id, event in happening:
                        self._app.store.append(
                            aggregate_id, [event], created_at=moment, connection=connection
                        )
            except MaintenanceModeActive:
                self._measured.was_refused()
                self.stop.wait(RETRY_SECONDS)
            except VersionMismatch:
                if self._app is self._next_app:
                    raise
                # What a deployment does: the new version's code takes over.
                self._measured.version_refusals += 1
                self._app = self._next_app
            else:
                self._measured.succeeded(started, len(happening), is_after_swap=self._app is self._next_app)
                return


def _check(
    app: Sequent, session: Session, repository: Path, head: str, *, events: int
) -> tuple[Comparison, ...]:
    with (
        session.phase("check against git log --numstat") as checked,
        database.connect(app.database_url) as connection,
    ):
        checked.append(events)
        return check_git(connection, app.config.event_store_schema, app.config.view_schema, repository, head)
