"""The life of a view schema, step by step and at random: appends of all kinds, commands, crashes. The oracle is a naive fold of the log.

Rules say what may happen and what must come of it; invariants are checked after each. A reader polls in a thread of its own throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
from bystanders import Reader
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from in_process_crashes import Crash, Killed, crashing
from parcels import (
    VERSIONS,
    ParcelLost,
    ParcelMoved,
    ParcelPosted,
    actual_rows,
    codes_of,
    expected_rows,
    parcel,
    parcel_rows,
    parcels,
    stop_rows,
)
from waiting import wait_until

from sequent_py import Event, Sequent
from sequent_py.errors import (
    DrainTimeout,
    MaintenanceModeActive,
    SequentError,
    VersionMismatch,
)

GROUP_EVENTS = 7
PARCELS = 8
"""Few, so that they meet."""

crashes = st.one_of(
    st.none(),
    st.builds(
        Crash,
        # Commands send between fifty and five hundred statements; most of what matters comes late.
        after=st.one_of(st.integers(0, 60), st.integers(60, 500)),
        is_kill=st.booleans(),
    ),
)


@dataclass
class Slow:
    """A transaction that stays open across rules."""

    connection: psycopg.Connection[Any]
    has_xid: bool = False
    parcels: dict[int, str] = field(default_factory=dict)
    """What becomes of the parcels that it appended to, if it commits."""

    @property
    def holds_gate(self) -> bool:
        return bool(self.parcels)


@dataclass
class Losses:
    """Stands for the writer that a reader asks which parcels may vanish."""

    losing: set[UUID] = field(default_factory=set)


class Life(RuleBasedStateMachine):
    """Made by a subclass that says which database: see ``test_life_of_a_view_schema``."""

    @contextmanager
    def database(self) -> Iterator[str]:
        raise NotImplementedError

    @initialize(history=st.integers(0, PARCELS), is_live=st.booleans())
    def begin(self, history: int, is_live: bool) -> None:
        self._database = self.database()
        self.url = self._database.__enter__()
        self._apps: dict[int, Sequent] = {}
        self.there: dict[int, str] = {}
        """Parcels: ``there`` or ``lost``, as committed."""
        self.slow: list[Slow] = []
        self.live = 0
        self.code = 1
        self.state: str | None = None
        self.is_maintenance = False
        self.losses = Losses()
        self.reader: Reader | None = None
        self.app(1).install()
        for number in range(history):
            self.append_now(number, 0)
        if is_live:
            self.succeed("online", 1)
            self.succeed("offline", 1)

    def app(self, version: int) -> Sequent:
        """The application at a version of its code; from 2 on it carries the version before."""
        if version not in self._apps:
            self._apps[version] = parcels(self.url, version, group_target_events=GROUP_EVENTS)
        return self._apps[version]

    # -- appending

    def append_now(self, number: int, kind: int) -> None:
        events, becomes = self.events(self.there.get(number, "new"), number, kind)
        self.app(max(self.live, 1)).store.append(parcel(number), events)
        self.there[number] = becomes

    def events(self, status: str, number: int, kind: int) -> tuple[list[Event], str]:
        if status == "new":
            return [ParcelPosted(city=f"city {number}"), *[ParcelMoved(cents=1)] * (kind % 2)], "there"
        if kind == 3:
            self.losses.losing.add(parcel(number))
            return [ParcelLost()], "lost"
        return [ParcelMoved(cents=10 * number + kind)] * (1 + kind), "there"

    def free(self, number: int) -> int:
        """Choose a parcel that is not lost and that no slow transaction has appended to: its appends would queue behind it."""
        taken = {taken for slow in self.slow for taken in slow.parcels}
        while number in taken or self.there.get(number) == "lost":
            number += PARCELS
        return number

    def is_served(self, version: int) -> bool:
        return self.live == 0 or self.live in (version, version - 1)

    @contextmanager
    def as_expected(self, version: int) -> Iterator[None]:
        """Whether an append by that code is refused, and how."""
        if self.is_maintenance:
            with pytest.raises(MaintenanceModeActive):
                yield
        elif not self.is_served(version):
            with pytest.raises(VersionMismatch):
                yield
        else:
            yield

    @rule(number=st.integers(0, PARCELS - 1), kind=st.integers(0, 3), newer=st.integers(-1, 1))
    def append(self, number: int, kind: int, newer: int) -> None:
        version = self.some_version(newer)
        number = self.free(number)
        events, becomes = self.events(self.there.get(number, "new"), number, kind)
        with self.as_expected(version):
            self.app(version).store.append(parcel(number), events)
            self.there[number] = becomes

    @rule(number=st.integers(0, PARCELS - 1), kind=st.integers(0, 3))
    def append_and_roll_back(self, number: int, kind: int) -> None:
        version = max(self.live, 1)
        number = self.free(number)
        events, _ = self.events(self.there.get(number, "new"), number, kind)
        with psycopg.connect(self.url) as connection, self.as_expected(version):
            self.app(version).store.append(parcel(number), events, connection=connection)
            connection.rollback()

    @precondition(lambda self: len(self.slow) < 3)
    @rule(is_early=st.booleans())
    def begin_slowly(self, is_early: bool) -> None:
        slow = Slow(psycopg.connect(self.url))
        if is_early:
            slow.connection.execute("SELECT pg_current_xact_id()")
            slow.has_xid = True
        self.slow.append(slow)

    @precondition(lambda self: self.slow)
    @rule(
        which=st.integers(0, 2),
        number=st.integers(0, PARCELS - 1),
        kind=st.integers(0, 3),
        newer=st.integers(-1, 1),
    )
    def append_slowly(self, which: int, number: int, kind: int, newer: int) -> None:
        version = self.some_version(newer)
        slow = self.slow[which % len(self.slow)]
        number = self.free(number)
        events, becomes = self.events(self.there.get(number, "new"), number, kind)
        is_refused = self.is_maintenance or not self.is_served(version)
        with self.as_expected(version):
            self.app(version).store.append(parcel(number), events, connection=slow.connection)
        if is_refused:
            self.slow.remove(slow)
            slow.connection.close()
        else:
            slow.parcels[number] = becomes

    @precondition(lambda self: self.slow)
    @rule(which=st.integers(0, 2), is_committed=st.booleans())
    def end_slowly(self, which: int, is_committed: bool) -> None:
        slow = self.slow.pop(which % len(self.slow))
        with slow.connection as connection:
            if is_committed:
                connection.commit()
                self.there.update(slow.parcels)
            else:
                connection.rollback()

    def some_version(self, newer: int) -> int:
        return min(max(self.live, self.code - 1, 1) + newer or 1, VERSIONS)

    # -- commands

    @rule()
    @precondition(lambda self: self.code <= self.live < VERSIONS and not self.is_unfinished)
    def write_new_code(self) -> None:
        self.code = self.live + 1

    @rule(crash=crashes)
    @precondition(lambda self: self.code > self.live)
    def online(self, crash: Crash | None) -> None:
        self.run("online", self.code, crash, {"online_running", "online_done"})

    @rule(crash=crashes)
    @precondition(lambda self: self.state == "online_done")
    def offline(self, crash: Crash | None) -> None:
        if crash is None and self.is_gate_held:
            with pytest.raises(DrainTimeout):
                self.do("offline", self.code)
            self.look({"online_done"}, {self.live})
            return
        self.run("offline", self.code, crash, {"online_done", "live"}, promotes=self.code)

    @rule(crash=crashes)
    @precondition(lambda self: self.is_unfinished)
    def abort(self, crash: Crash | None) -> None:
        self.run("abort", self.code, crash, {"aborted"})

    @rule()
    def switch_maintenance(self) -> None:
        if any(slow.holds_gate for slow in self.slow) and not self.is_maintenance:
            return  # waits for nobody, and is refused nothing; kept for quieter moments so that slow ones can end
        maintenance = self.app(max(self.live, 1)).maintenance
        state = maintenance.off() if self.is_maintenance else maintenance.on("a rule says so")
        self.is_maintenance = not self.is_maintenance
        assert state.is_closed == self.is_maintenance

    @property
    def is_unfinished(self) -> bool:
        return self.state in ("online_running", "online_done")

    @property
    def is_gate_held(self) -> bool:
        return any(slow.holds_gate for slow in self.slow)

    def options(self, command: str) -> dict[str, Any]:
        """Give up soon where a slow transaction is in the way, for it will not end while we wait."""
        if command == "offline":
            return {"drain_timeout_seconds": 0.3 if self.is_gate_held else 10.0}
        return {}

    def do(self, command: str, version: int) -> Any:
        call: Callable[..., Any] = getattr(self.app(version).view_schema, command)
        return call(**self.options(command))

    def succeed(self, command: str, version: int) -> None:
        """Run a command that nothing may keep from its work, and see what it has come to."""
        target = version if command in ("offline", "golive") else self.live
        self.expect_codes(target)
        self.do(command, version)
        self.look(None, {target})

    def run(
        self,
        command: str,
        version: int,
        crash: Crash | None,
        states: set[str],
        *,
        promotes: int | None = None,
    ) -> None:
        """Run a command, with a crash perhaps; without one it succeeds."""
        before, target = self.live, promotes if promotes is not None else self.live
        self.expect_codes(target)
        earlier = self.state
        if crash is None:
            self.do(command, version)
            self.look(states - ({"online_running"} if command == "online" else set()), {target})
            return
        # Hypothesis keeps the object that it has drawn.
        crash = Crash(crash.after, crash.is_kill)
        failed: BaseException | None = None
        with crashing(crash):
            try:
                self.do(command, version)
            except (Killed, SequentError, psycopg.Error) as error:
                failed = error
        is_done = failed is None
        assert is_done or crash.at is not None or self.is_gate_held, f"{command} failed by itself: {failed!r}"
        note(f"{command}: {'done' if is_done else 'crashed'}, {crash.at or 'crash not reached'}")
        wait_until(lambda: self.app(version).view_schema.status().holder is None, 20)
        allowed = states if is_done else {*states, *([earlier] if earlier else []), None}
        self.look(allowed, {target} if is_done else {before, target})

    def look(self, states: set[str] | set[str | None] | None, lives: set[int]) -> None:
        """Ask where things stand, and whether they may."""
        status = self.app(self.code).view_schema.status()
        assert status.live_version in lives, status
        assert states is None or status.state in states, status
        assert status.holder is None
        self.live, self.state = status.live_version, status.state
        self.expect_codes(self.live)
        if self.live and self.reader is None:
            self.reader = Reader(self.url, (self.live,), self.losses)  # type: ignore[arg-type]
            self.reader.start()

    def expect_codes(self, target: int) -> None:
        """Tell the reader which versions it may see from now on: the one that serves, and the one that may come."""
        if self.reader is not None:
            self.reader.codes = {codes_of(version) for version in (self.live, target) if version}

    # -- what always holds

    @invariant()
    def tables_equal_the_log(self) -> None:
        if self.live:
            with psycopg.connect(self.url, autocommit=True) as connection:
                assert actual_rows(connection) == expected_rows(connection, self.live)

    @invariant()
    def shadow_tables_equal_their_snapshot(self) -> None:
        if getattr(self, "state", None) != "online_done":
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT p.snapshot_until::text FROM sequent_schema.replay_passes p"
                " JOIN sequent_schema.view_migrations m ON m.id = p.migration_id WHERE m.finished_at IS NULL"
                " AND NOT EXISTS (SELECT FROM sequent_schema.replay_groups g WHERE g.migration_id = m.id AND g.done_at IS NULL)"
                " ORDER BY p.number DESC LIMIT 1"
            ).fetchone()
            if row is None:
                return
            expected = expected_rows(connection, self.code, visible_in=row[0])
            shadows = connection.execute(
                "SELECT table_name, physical_name FROM sequent_schema.view_tables WHERE role = 'shadow'"
            ).fetchall()
            for table, physical in shadows:
                read = parcel_rows if table == "parcel_records" else stop_rows
                assert read(connection, physical) == expected[table], physical

    @invariant()
    def the_gate_is_as_it_should_be(self) -> None:
        gate = self.app(max(self.live, 1)).maintenance.status()
        assert gate.is_closed == self.is_maintenance
        assert gate.live_version == self.live

    @invariant()
    def the_reader_is_content(self) -> None:
        if self.reader is not None:
            assert not self.reader.errors, self.reader.errors[:5]
            assert self.reader.is_alive()

    def teardown(self) -> None:
        """From wherever a life has come, it can be brought to a good end."""
        if not hasattr(self, "url"):
            return
        try:
            self.bring_to_an_end()
        finally:
            if self.reader is not None:
                self.reader.stop()
            for slow in self.slow:
                slow.connection.close()
            for app in self._apps.values():
                app.close()
            self._database.__exit__(None, None, None)

    def bring_to_an_end(self) -> None:
        while self.slow:
            self.end_slowly(0, True)
        if self.is_maintenance:
            self.switch_maintenance()
        if self.code <= self.live:
            self.code = self.live + 1
        self.succeed("online", self.code)
        self.succeed("offline", self.code)
        self.tables_equal_the_log()
        self.append(0, 0, 0)
        self.tables_equal_the_log()
        if self.reader is not None:
            polls = self.reader.polls
            with suppress(AssertionError):
                wait_until(lambda: self.reader is None or self.reader.polls > polls, 10)
            self.the_reader_is_content()
