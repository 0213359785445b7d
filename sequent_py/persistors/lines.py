"""Lines: how the statements of an append's handlers get to the server on a connection of the store's own, in as few round trips as possible.

Two things save round trips, and handlers notice neither:

* Look-ups that were foreseen (:mod:`.lookups`) have come back with the events themselves. An answer counts only as long as nothing was written to its table since.
* Writes whose outcome is known beforehand are sent ahead, and nobody waits for the answer: until a handler asks the server for something, or until all are done and COMMIT
  goes behind them. They keep their order, and everything that is sent later sees them. Where they fail, the handler that wrote is to blame, whoever is at it by then.

Of a batch, the updates of one row may go as one (:mod:`.holding`).

Nothing is sent ahead on tables where a write can have effects on other rows, or on its own (triggers, rules, foreign keys that cascade updates).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.pq.abc import PGresult

from sequent_py.events import Event
from sequent_py.exchange import Exchange, Row, Statement, Texts
from sequent_py.persistors.holding import Holdable
from sequent_py.persistors.lookups import Foresight, LookUp, LookUps

MOST_UNANSWERED = 1_000
"""So many writes are sent ahead of their answers, which the server would stop to be rid of."""
_NOTHING: Holdable = MappingProxyType({})

Handler = Callable[[Event], None]


@dataclass(slots=True)
class Answer:
    """What came back for a statement; read as a cursor is."""

    rows: list[Row]
    rowcount: int

    def fetchone(self) -> Row | None:
        return self.rows[0] if self.rows else None

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


@dataclass(slots=True)
class Foreseen:
    """A look-up that is sent ahead."""

    foresight: Foresight
    parameters: Sequence[Any]
    texts: Texts
    """The parameters as they are sent."""
    answer: PGresult | None = None
    """No error; None until it is there."""


@dataclass(slots=True)
class Failure:
    """What went wrong, and at whom."""

    handler: Handler
    event: Event
    error: Exception


@dataclass(slots=True)
class _Write:
    handler: Handler
    event: Event
    explain: Callable[[psycopg.Error], Exception]
    missing: Callable[[], Exception] | None
    """What to raise where no row was there to be written."""


class Line:
    """The statements of one append, along an exchange."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        at_once: Collection[str] = (),
        holdable: Holdable = _NOTHING,
        look_ups: LookUps | None = None,
    ) -> None:
        self.exchange = exchange
        self.failure: Failure | None = None
        """The first write that failed after its handler had gone on."""
        self.at: tuple[Handler, Event] | None = None
        """The handler that is at it, and the event."""
        self.more_come = False
        """Whether events come after that one: only then is it worth anything to remember and hold."""
        self.holdable = holdable
        self._at_once = at_once
        """Tables where nothing may wait."""
        self._holders: dict[str, Callable[[], None]] = {}
        self._look_ups = look_ups
        self._foreseen: list[Foreseen] = []
        self._spoiled: list[Foreseen] = []
        self._unanswered: list[_Write] = []
        self._swallowed: Failure | None = None

    # Reading

    def expect(self, foreseen: Sequence[Foreseen]) -> None:
        """Take the look-ups that were sent along with the events, answered."""
        self._foreseen = list(foreseen)

    def foreseen(self, look_up: LookUp, parameters: Sequence[Any]) -> list[Row] | None:
        """Return the rows of a look-up that was foreseen; once, and only as long as nothing was written to the table since."""
        for item in self._foreseen:
            if item.foresight.look_up is look_up and item.parameters == parameters:
                self._foreseen.remove(item)
                assert item.answer is not None
                return self.exchange.load(look_up.statement, item.answer)
        return None

    def learn(self, look_up: LookUp, values: Sequence[Any]) -> None:
        """Take note of a look-up that was not foreseen."""
        if self._look_ups is not None and self.at is not None:
            self._look_ups.learn(self.at[1], look_up, values)

    @property
    def in_vain(self) -> list[Foresight]:
        """What was foreseen, and either not asked for or no longer true when it was."""
        return [item.foresight for item in (*self._foreseen, *self._spoiled)]

    # Sending

    def run(self, statement: Statement, parameters: Sequence[Any]) -> Answer:
        """Send a statement behind the others, and wait for its answer."""
        exchange = self.exchange
        answer = self._ask((statement, exchange.dump(parameters)))[0]
        try:
            exchange.checked(answer)
        except psycopg.Error as error:
            if self.at is not None and self._swallowed is None:
                self._swallowed = Failure(*self.at, error)
            raise
        return Answer(exchange.load(statement, answer), answer.command_tuples or 0)

    def has_effects(self, table: str) -> bool:
        """Whether a write to the table can have effects on other rows, or on its own: its answer cannot wait."""
        return table in self._at_once

    def write(
        self,
        statement: Statement,
        parameters: Sequence[Any],
        explain: Callable[[psycopg.Error], Exception],
        missing: Callable[[], Exception] | None = None,
        held_for: tuple[Handler, Event] | None = None,
    ) -> None:
        """Send a statement ahead; ``explain`` what the server says against it. ``held_for`` is who is to blame, if not who is at it."""
        at = held_for or self.at
        assert at is not None
        exchange = self.exchange
        exchange.send((statement, exchange.dump(parameters)))
        self._unanswered.append(_Write(*at, explain, missing))
        if len(self._unanswered) == MOST_UNANSWERED:
            self._ask()

    def hold(self, table: str, send: Callable[[], None]) -> None:
        """Note that a table may hold an update; ``send`` sends it, if it still does."""
        self._holders[table] = send

    def note_written(self, table: str) -> None:
        """Believe no longer what was read ahead of a table's rows; of no table's, where a write to this one can have effects elsewhere."""
        for item in tuple(self._foreseen):
            if item.foresight.look_up.table == table or table in self._at_once:
                self._foreseen.remove(item)
                self._spoiled.append(item)

    def flush(self) -> None:
        """Send what is held, and wait for the answers to all that was sent ahead."""
        self._send_held()
        if self._unanswered:
            self._ask()

    def commit(self) -> None:
        """Send COMMIT behind the rest; raises as :meth:`.Exchange.commit`, and what the server has against what was sent ahead."""
        if self._swallowed is not None:
            # A handler went on after an error of the server, which has aborted the transaction.
            self.failure = self.failure or self._swallowed
            raise self.failure.error
        self._send_held()
        written, self._unanswered = self._unanswered, []

        def check(answers: list[PGresult]) -> None:
            self._check(written, answers)

        self.exchange.commit(check)

    def _send_held(self) -> None:
        for send in self._holders.values():
            send()
        self._holders.clear()

    def _ask(self, *asked: tuple[Statement, Texts]) -> list[PGresult]:
        written, self._unanswered = self._unanswered, []
        answers = self.exchange.ask(*asked)
        self._check(written, answers)
        return answers[len(written) :]

    def _check(self, written: Sequence[_Write], answers: Sequence[PGresult]) -> None:
        """Raise what the server has against a write, in the order in which they were made."""
        for write, answer in zip(written, answers, strict=False):
            try:
                try:
                    self.exchange.checked(answer)
                except psycopg.Error as error:
                    found = write.explain(error)
                    if found is error:
                        raise
                    raise found from error
                if write.missing is not None and not answer.command_tuples:
                    raise write.missing()
            except Exception as error:
                self.failure = Failure(write.handler, write.event, error)
                raise
