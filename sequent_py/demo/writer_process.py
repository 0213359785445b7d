"""A bank's counter, as a process: appends through the public API, again and again, until its standard input closes.

The first line of standard input is a :class:`WriterTask`. Standard output gets a JSON object per line: ``{"appends": n, "closed": bool}`` several
times a second, ``{"report": …}`` at the end, ``{"error": …}`` when it has to give up. What the closed gate refuses is repeated until it is taken.

The pace is fixed, not the pause: an append that took long is followed at once by the next, as customers do not wait for each other.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from sequent_py.app import Sequent
from sequent_py.config import Config
from sequent_py.demo.reports import WriterReport
from sequent_py.errors import MaintenanceModeActive, SequentError

REPORT_INTERVAL_SECONDS = 0.1
RETRY_SECONDS = 0.005
_SEED = 7


@dataclass(frozen=True)
class WriterTask:
    """What the process needs to know; it travels through a pipe, never through arguments that ``ps`` shows."""

    database_url: str
    project_directory: str
    migrations_class: str
    events_module: str
    accounts: tuple[str, ...]
    """Accounts of the imported history, to go on with."""
    appends_per_second: float


class Counter:
    """Decides and appends. Knows its accounts from their events, and keeps their state from its own appends."""

    def __init__(self, app: Sequent, events: ModuleType, accounts: tuple[str, ...]) -> None:
        self._store, self._engine, self._events = app.store, app.engine, events
        self._chance = random.Random(_SEED)
        self._accounts: list[UUID] = []
        self._state: dict[UUID, tuple[int, int]] = {}
        """Version and balance."""
        for account in map(UUID, accounts):
            self._load(account)

    def _load(self, account: UUID) -> None:
        events, balance = self._store.load(account), 0
        for event in events:
            match type(event).__name__:
                case "MoneyDeposited" | "TransferReceived":
                    balance += getattr(event, "amount", 0)
                case "MoneyWithdrawn" | "TransferSent":
                    balance -= getattr(event, "amount", 0)
                case "AccountClosed":
                    return
        if events:
            self._accounts.append(account)
            self._state[account] = (len(events), balance)

    def decide(self) -> list[tuple[UUID, list[Any], int]]:
        """Return what happens next: events for one account, or a transfer between two, with each account's balance after it."""
        chance, made = self._chance, self._events
        draw = chance.random()
        if len(self._accounts) < 2 or draw < 0.05:
            opened = made.AccountOpened(owner=f"Walk-in {chance.randrange(10_000)}")
            amount = chance.randrange(1, 100_000)
            return [
                (
                    UUID(int=chance.getrandbits(128), version=4),
                    [opened, made.MoneyDeposited(amount=amount)],
                    amount,
                )
            ]
        account, other = chance.sample(self._accounts, 2)
        _, balance = self._state[account]
        if balance == 0 or draw < 0.5:
            amount = chance.randrange(1, 100_000)
            return [(account, [made.MoneyDeposited(amount=amount)], balance + amount)]
        amount = chance.randint(1, balance)
        if draw < 0.8:
            return [(account, [made.MoneyWithdrawn(amount=amount)], balance - amount)]
        sent = made.TransferSent(amount=amount, to_account=other)
        received = made.TransferReceived(amount=amount, from_account=account)
        return [
            (account, [sent], balance - amount),
            (other, [received], self._state[other][1] + amount),
        ]

    def append(self, happening: list[tuple[UUID, list[Any], int]]) -> int:
        """Append it in one transaction, on the versions it was decided on; return the number of events."""
        if len(happening) == 1:
            account, events, _ = happening[0]
            self._store.append(account, events, expected_version=self._version(account))
        else:
            with self._engine.begin() as connection:
                for account, events, _ in happening:
                    self._store.append(
                        account, events, expected_version=self._version(account), connection=connection
                    )
        for account, events, balance in happening:
            if account not in self._state:
                self._accounts.append(account)
            self._state[account] = (self._version(account) + len(events), balance)
        return sum(len(events) for _, events, _ in happening)

    def _version(self, account: UUID) -> int:
        return self._state[account][0] if account in self._state else 0


class Measurements:
    """What is measured. Moments are readings of ``clock``, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.appends = self.appends_after_swap = self.events = self.refused = self.version_refusals = 0
        self.is_closed = False
        self._latencies: list[float] = []
        self._last_success = clock()
        self._stall = 0.0

    def succeeded(self, started: float, events: int, *, is_after_swap: bool | None = None) -> None:
        """Note a success; the latency is that of the try that succeeded, the wait at a closed gate is the stall.

        Whoever does not know whether the swap has happened takes the first refusal for it.
        """
        now = self.clock()
        self._latencies.append(now - started)
        if self.is_closed:
            self._stall = max(self._stall, now - self._last_success)
            self.is_closed = False
        self._last_success = now
        self.appends += 1
        self.events += events
        if self.refused if is_after_swap is None else is_after_swap:
            self.appends_after_swap += 1

    def was_refused(self) -> None:
        """Note that the gate was closed."""
        self.refused += 1
        self.is_closed = True

    def report(self) -> WriterReport:
        """Return it as a value."""
        ordered = sorted(self._latencies) or [0.0]

        def percentile(share: float) -> float:
            return 1000 * ordered[min(int(len(ordered) * share), len(ordered) - 1)]

        return WriterReport(
            appends=self.appends,
            appends_after_swap=self.appends_after_swap,
            events=self.events,
            refused=self.refused,
            version_refusals=self.version_refusals,
            stall_seconds=self._stall,
            latency_p50_milliseconds=percentile(0.5),
            latency_p99_milliseconds=percentile(0.99),
            latency_max_milliseconds=1000 * ordered[-1],
        )


def keep_appending(
    counter: Counter,
    measured: Measurements,
    stop: threading.Event,
    pace: float,
    say: Callable[[dict[str, Any]], None],
) -> None:
    """Append at the pace until ``stop``; what was refused when it comes is given up, as nobody was promised it."""
    next_at = last_said = measured.clock()
    while not stop.is_set():
        happening = counter.decide()
        while not stop.is_set():
            started = measured.clock()
            try:
                events = counter.append(happening)
            except MaintenanceModeActive:
                measured.was_refused()
                stop.wait(RETRY_SECONDS)
                continue
            measured.succeeded(started, events)
            break
        now = measured.clock()
        if now - last_said >= REPORT_INTERVAL_SECONDS or measured.appends == 1:
            say({"appends": measured.appends, "closed": measured.is_closed})
            last_said = now
        # Never more than a second behind: a long stall is not made up for by a burst.
        next_at = max(next_at + 1 / pace, now - 1)
        stop.wait(max(next_at - now, 0))


def main() -> int:
    """Run until standard input ends."""
    task = json.loads(sys.stdin.readline())
    task = WriterTask(**{**task, "accounts": tuple(task["accounts"])})
    sys.path.insert(0, task.project_directory)
    config = Config(
        database_url=SecretStr(task.database_url),
        project_directory=Path(task.project_directory),
        migrations_class=task.migrations_class,
    )
    stop, measured = threading.Event(), Measurements()
    threading.Thread(target=_stop_with_input, args=(stop,), daemon=True).start()
    try:
        with Sequent(config) as app:
            counter = Counter(app, importlib.import_module(task.events_module), task.accounts)
            keep_appending(counter, measured, stop, task.appends_per_second, _say)
    except SequentError as error:
        _say({"error": f"{type(error).__name__}: {error}"})
        return 1
    _say({"report": asdict(measured.report())})
    return 0


def _stop_with_input(stop: threading.Event) -> None:
    """Standard input ends when our parent closes it or dies."""
    sys.stdin.read()
    stop.set()


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
