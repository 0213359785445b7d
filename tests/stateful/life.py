"""The life of a view schema, step by step and at random: appends of all kinds, commands, crashes. The oracle is a naive fold of the log.

Rules say what may happen and what must come of it; invariants are checked after each. A reader polls in a thread of its own throughout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy
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
from psycopg import sql
from waiting import wait_until

from sequent_py import Event, Sequent
from sequent_py.errors import (
    DrainTimeout,
    MaintenanceModeActive,
    SequentError,
    SwapLockTimeout,
    VersionMismatch,
)

FAILURES = (SequentError, psycopg.Error, sqlalchemy.exc.DBAPIError)
"""What a command may raise when it is cut off."""
SEEN: Counter[str] = Counter()
"""How often each command met which fate, in this process."""

GROUP_EVENTS = 7
PARCELS = 8
"""Few, so that they meet."""

crashes = st.one_of(
    st.none(),
    st.builds(
        Crash,
        # Commands send between fifty and a thousand statements; most of what matters comes late.
        after=st.one_of(st.integers(0, 60), st.integers(60, 300), st.integers(300, 1000)),
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

    def database(self) -> AbstractContextManager[str]:
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
        self.newest_code = 1
        self.other: int | None = None
        """The version that rollback can go to, back or forth; None when there is no way."""
        self.state: str | None = None
        self.touched: set[UUID] = set()
        """Aggregates that were edited or erased: snapshots show what was appended, not what was changed."""
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
    @precondition(
        lambda self: self.code <= self.live and self.newest_code < VERSIONS and not self.is_unfinished
    )
    def write_new_code(self) -> None:
        # Never a version again that has been rolled back: its tables are kept under its number.
        self.newest_code += 1
        self.code = self.newest_code

    @rule(crash=crashes)
    @precondition(lambda self: self.code > self.live)
    def online(self, crash: Crash | None) -> None:
        self.run("online", self.code, crash, {"online_running", "online_done"})

    @rule(crash=crashes, command=st.sampled_from(["offline", "golive"]))
    @precondition(lambda self: self.state == "online_done")
    def cut_over(self, crash: Crash | None, command: str) -> None:
        before = self.live
        if crash is None and self.is_gate_held:
            with pytest.raises(DrainTimeout if command == "offline" else SwapLockTimeout):
                self.do(command, self.code)
            self.look({"online_done"}, {before})
            return
        if command == "golive" and self.is_maintenance:
            return  # the gate is closed already: nobody waits, and offline is the same
        self.run(command, self.code, crash, {"online_done", "live"}, target=self.code)
        if self.live != before:
            self.other = before or None

    @rule(crash=crashes, command=st.sampled_from(["offline", "golive"]))
    def go_on(self, crash: Crash | None, command: str) -> None:
        """Do what comes next: the other rules alone seldom come to a second version."""
        if self.state == "online_done":
            self.cut_over(crash, command)
            return
        if self.code <= self.live:
            self.write_new_code()
        self.online(crash)

    @rule(crash=crashes)
    @precondition(lambda self: self.is_unfinished)
    def abort(self, crash: Crash | None) -> None:
        self.run("abort", self.code, crash, {"aborted"})

    @rule(crash=crashes)
    @precondition(
        lambda self: self.state in ("live", "rolled_back") and self.other and not self.is_maintenance
    )
    def roll_back_or_forth(self, crash: Crash | None) -> None:
        before, other = self.live, self.other
        assert other is not None
        if crash is None and self.is_gate_held:
            with pytest.raises(SwapLockTimeout):
                self.do("rollback", other)
            self.look({self.state}, {before})
            return
        self.run("rollback", other, crash, {"live", "rolled_back"}, target=other)
        if self.live != before:
            self.other, self.code = before, self.live

    @rule(crash=crashes, keep=st.integers(0, 1))
    @precondition(lambda self: self.other)
    def prune(self, crash: Crash | None, keep: int) -> None:
        self.run("prune", self.code, crash, {self.state}, keep=keep)
        if not self.retired_tables():
            self.other = None

    def retired_tables(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(
                "SELECT t.table_name, t.physical_name, t.version, CASE WHEN m.return_pass IS NULL THEN m.promoted_snapshot::text"
                " WHEN NOT EXISTS (SELECT FROM sequent_schema.replay_groups g WHERE g.migration_id = m.id AND g.done_at IS NULL)"
                " THEN (SELECT p.snapshot_until::text FROM sequent_schema.replay_passes p WHERE p.migration_id = m.id"
                "       ORDER BY p.number DESC LIMIT 1) END"
                " FROM sequent_schema.view_tables t JOIN sequent_schema.view_migrations m ON m.id = t.retired_by"
                " WHERE t.role = 'retired'"
            ).fetchall()

    # -- changing what has been written

    @rule(crash=crashes, number=st.integers(0, PARCELS - 1))
    @precondition(lambda self: not self.is_maintenance and not self.is_gate_held)
    def edit(self, crash: Crash | None, number: int) -> None:
        """Edit a parcel's events by hand, and fold its live rows anew, as the operations manual says."""
        if self.there.get(number) != "there":
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '77')"
                " WHERE aggregate_id = %s AND payload ? 'cents'",
                [parcel(number)],
            )
        self.touched.add(parcel(number))
        if self.live:
            self.change("refold", parcel(number), crash)

    @rule(crash=crashes, number=st.integers(0, PARCELS - 1))
    @precondition(lambda self: not self.is_maintenance and not self.is_gate_held)
    def erase(self, crash: Crash | None, number: int) -> None:
        if self.there.get(number) != "there":
            return
        self.losses.losing.add(parcel(number))
        self.touched.add(parcel(number))
        self.change("erase", parcel(number), crash)
        self.there[number] = "lost"
        with psycopg.connect(self.url, autocommit=True) as connection:
            for (table,) in connection.execute(
                "SELECT physical_name FROM sequent_schema.view_tables"
            ).fetchall():
                query = sql.SQL("SELECT count(*) FROM {} WHERE aggregate_id = %s")
                found = connection.execute(
                    query.format(sql.Identifier("view_schema", table)), [parcel(number)]
                ).fetchone()
                assert found == (0,), f"{table} still has the erased parcel"

    def change(self, command: str, aggregate_id: UUID, crash: Crash | None) -> None:
        """Erase or re-fold an aggregate, with a crash perhaps, and then once more."""
        aggregates = self.app(max(self.live, 1)).aggregates
        if crash is not None:
            with crashing(Crash(crash.after, crash.is_kill)), suppress(Killed, *FAILURES):
                getattr(aggregates, command)([aggregate_id])
        getattr(aggregates, command)([aggregate_id])

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
        """Give up soon where a slow transaction is in the way, for it will not end while we wait; be patient otherwise."""
        patience = 0.3 if self.is_gate_held else 20.0
        if command == "offline":
            return {"drain_timeout_seconds": patience}
        if command in ("golive", "rollback"):
            return {"lock_budget_seconds": patience, "max_lag_seconds": 10.0}
        return {}

    def do(self, command: str, version: int, **options: Any) -> Any:
        call: Callable[..., Any] = getattr(self.app(version).view_schema, command)
        return call(**self.options(command), **options)

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
        states: set[Any],
        *,
        target: int | None = None,
        **options: Any,
    ) -> None:
        """Run a command, with a crash perhaps; without one it succeeds. ``states`` are those that it may leave when it has ended well."""
        before, earlier = self.live, self.state
        target = before if target is None else target
        self.expect_codes(target)
        if crash is None:
            self.do(command, version, **options)
            SEEN[f"{command}, done"] += 1
            self.look(states - ({"online_running"} if command == "online" else set()), {target})
            return
        # Hypothesis keeps the object that it has drawn.
        crash = Crash(crash.after, crash.is_kill)
        failed: BaseException | None = None
        with crashing(crash):
            try:
                self.do(command, version, **options)
            except (Killed, *FAILURES) as error:
                failed = error
        is_done = failed is None
        assert is_done or crash.at is not None or self.is_gate_held, f"{command} failed by itself: {failed!r}"
        how = "done" if is_done else ("killed" if crash.is_kill else "cut off")
        note(f"{command}: {how}, {crash.at or 'crash not reached'}")
        SEEN[f"{command}, {how}"] += 1
        wait_until(lambda: self.app(version).view_schema.status().holder is None, 20)
        self.look(states if is_done else {*states, earlier}, {target} if is_done else {before, target})

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
            shadows = connection.execute(
                "SELECT table_name, physical_name FROM sequent_schema.view_tables WHERE role = 'shadow'"
            ).fetchall()
            for table, physical in shadows:
                self.check_table(connection, table, physical, self.code, row[0])

    @invariant()
    def retired_tables_equal_their_snapshot(self) -> None:
        if getattr(self, "state", None) not in ("live", "rolled_back"):
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            for table, physical, version, snapshot in self.retired_tables():
                if snapshot is not None:
                    self.check_table(connection, table, physical, version, snapshot)

    def check_table(
        self, connection: psycopg.Connection[Any], table: str, physical: str, version: int, snapshot: str
    ) -> None:
        """Compare a table that does not serve with the fold of what its snapshot sees, aggregates that were changed since left out."""
        expected = expected_rows(connection, version, visible_in=snapshot)[table]
        found = (parcel_rows if table == "parcel_records" else stop_rows)(connection, physical)
        assert [row for row in found if row[0] not in self.touched] == [
            row for row in expected if row[0] not in self.touched
        ], f"{physical} differs from snapshot {snapshot}"

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
            self.write_new_code()
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
