"""Exchanges: statements that travel to the server one behind the other, and whose answers come back together. Over ``psycopg.pq``, the driver's own layer on libpq.

For connections of the engine's pool while the store has one to itself. A cursor costs ten times what is sent here by it, and every statement's way to
the server and back as much again. Whatever anybody has set on the connection (row factory, cursor, adapters, autocommit) means nothing here: texts go to the server as
parameters, whose types the statements name, binary values come back, and the driver's shipped conversions read both.

Statements that are sent often are prepared under names of our own. They may get lost at any time: somebody else who uses the pool runs DISCARD ALL, rolls back (the
driver deallocates everything then), or there is a pooler between us and the server. The server says so (:func:`is_lost`) and has run nothing of what came along;
after :meth:`Exchange.forget` the same is sent again.

What nobody waits for yet is sent ahead (:meth:`Exchange.send`): the server is at it while we get ready what comes next. So it is between :meth:`Exchange.post`, behind which
all is on its way, and :meth:`Exchange.answers`.

An exception in the middle of an exchange (an alarm's, say) leaves the connection in a pipeline or waiting for the server: it can only be closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import abc
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

from sequent_py.cursors import OwnCursor
from sequent_py.database import PREPARE_AFTER
from sequent_py.errors import DatabaseUnavailable
from sequent_py.native import IS_NATIVE, native

Connection = psycopg.Connection[Any]
Row = tuple[Any, ...]
Texts = Sequence[Buffer | None]

MOST_PREPARED = 100
"""Statements that one connection keeps prepared; the driver's own limit. Others are sent with their text."""
MOST_LOSSES = 100
"""So often may a connection lose what was prepared. Behind a pooler that changes servers it does all the time, and would leave statements on all of them."""
RENEWED_AT, RENEWAL_GROWTH = 16, 4
"""A prepared statement is prepared anew after so many uses, and then after so many times more than the last time. The server keeps the plan that it made when the
table was empty, and scanned by pages, until somebody analyses the table: by then thousands of events may have gone by."""
SENT_TOGETHER = 16
"""So many statements that are sent ahead leave in one piece. Only the first leaves by itself, because the server has to wake up: a piece costs a system call, and
as much again where the server has gone to sleep meanwhile."""
_LOST = frozenset({"26000", "42P05"})
"""No such prepared statement; or there is one of that name already."""
_PLACEHOLDER = re.compile(rb"%([%sbt])")
_DONE = frozenset({ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK})
# What an exchange compares with a dozen times; a member of an enum is looked for by a function.
_BINARY, _SYNC = Format.BINARY, ExecStatus.PIPELINE_SYNC


class Statement:
    """A statement that is sent again and again. Its text is the server's: ``$1`` is the first parameter."""

    __slots__ = ("text", "uses")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.uses = 0
        """How often it was sent, on whatever connection; a guess where threads meet."""


BEGIN, COMMIT = Statement(b"BEGIN"), Statement(b"COMMIT")


def _text(value: str) -> bytes:
    text = value.encode()
    if b"\0" in text:
        # It would end there. The driver says so.
        raise UnicodeError
    return text


_TEXTS: Mapping[type, Callable[[Any], bytes]] = {
    int: lambda value: b"%d" % value,
    str: _text,
    UUID: lambda value: b"%032x" % value.int,
    datetime: lambda value: str(value).encode(),
}
"""The commonest types, written as the driver writes them; it takes three times as long to find out how."""


def texts_in_python(values: Sequence[Any]) -> Texts | None:
    """Return values of the commonest types as the texts of parameters; None where there is one of another type."""
    try:
        return [None if value is None else _TEXTS[value.__class__](value) for value in values]
    except (KeyError, UnicodeError):
        return None


_texts: Callable[[Sequence[Any]], Texts | None] = native.texts if IS_NATIVE else texts_in_python


def numbered(query: bytes) -> Statement:
    """Return the statement of a query in the driver's spelling, whose placeholders are ``%s`` and whose ``%%`` is a ``%``."""
    numbers = iter(range(1, query.count(b"%") + 1))
    return Statement(
        _PLACEHOLDER.sub(lambda found: b"%" if found[1] == b"%" else b"$%d" % next(numbers), query)
    )


def is_lost(error: BaseException | None) -> bool:
    """Whether it is, or was caused by, a statement that the server has lost; nothing of what was sent took effect."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, psycopg.Error) and error.sqlstate in _LOST:
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


@dataclass(slots=True)
class _Prepared:
    """By which name a statement is prepared on a connection, how often it was sent by it, and when it is prepared anew."""

    name: bytes
    renewed_at: int
    uses: int = 0
    loading: abc.Transformer | None = None
    """Reads its answers, whose columns keep their types as long as it is prepared: to look for each column's conversion takes longer than to convert."""


class Exchange:
    """What is known of one connection, as long as it lives; and sending along it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.pgconn = connection.pgconn
        self.prepared_for: object = None
        """For what tables, and as of when, statements are prepared: whoever lends the connection says so, and finds it."""
        self._token = uuid4().hex.encode()
        self._prepared: dict[Statement, _Prepared] = {}
        self._given = 0
        self._losses = 0
        self._sent: list[tuple[Statement, int]] = []
        """What has not been answered yet, and how many answers come before that of each."""
        self._syncs = 0
        """How many answers among those say that the server has come so far."""
        self._prepares = False
        """Whether there are any that come before."""
        self._transformer = Transformer(OwnCursor(connection))

    def ask(self, *asked: tuple[Statement, Texts]) -> list[PGresult]:
        """Send statements with their parameters, wait, and return the answers in their order, those to what was sent ahead first.

        An answer may be an error, see :meth:`checked`; behind one nothing was run. Outside of a transaction they are one of their own; where that
        does not commit, the reason is one more answer.

        Raises
        ------
        psycopg.OperationalError
            The connection was lost.
        """
        self.post(*asked)
        return self.answers()

    def post(self, *asked: tuple[Statement, Texts]) -> None:
        """Send what :meth:`ask` would, and leave it to :meth:`answers` to wait: what is done between the two is done while the server works.

        As much leaves now as the socket takes, the rest with the wait.
        """
        for statement, values in asked:
            self._queue(statement, values)
        if self._sent:
            self.pgconn.pipeline_sync()
            self._syncs += 1

    def answers(self) -> list[PGresult]:
        """Wait for the answers to what was posted, and return them as :meth:`ask` does."""
        if not self._sent:
            return []
        pgconn = self.pgconn
        answers = self.connection.wait(_answers(pgconn, self._syncs))
        # In this order: a connection that is out of its pipeline is lent again, whatever comes between.
        sent, self._sent, self._syncs = self._sent, [], 0
        prepares, self._prepares = self._prepares, False
        pgconn.exit_pipeline_mode()
        return self._without_preparations(sent, answers) if prepares else answers

    def send(self, *asked: tuple[Statement, Texts], more_comes_now: bool = False) -> None:
        """Send statements whose answers are not waited for: :meth:`ask` returns them before those to what it is asked itself.

        Until then nothing else may be done on the connection. To the server, its transaction is idle until more comes (``idle_in_transaction_session_timeout``);
        not where ``more_comes_now``, which saves it an answer.
        """
        before = len(self._sent)
        for statement, values in asked:
            self._queue(statement, values)
        if before and before // SENT_TOGETHER == len(self._sent) // SENT_TOGETHER:
            return
        # As much leaves now as the socket takes, the rest with what is asked.
        if more_comes_now:
            self.pgconn.flush()
        else:
            self.pgconn.pipeline_sync()
            self._syncs += 1

    def checked(self, answer: PGresult) -> PGresult:
        """Return an answer that is no error.

        Raises
        ------
        psycopg.Error
            It is one; PipelineAborted where the error was that of a statement before.
        """
        if answer.status in _DONE:
            return answer
        if answer.status == ExecStatus.PIPELINE_ABORTED:
            raise psycopg.errors.PipelineAborted("a statement before this one failed")
        raise error_from_result(answer)

    def commit(self, check: Callable[[list[PGresult]], None] | None = None) -> None:
        """Send COMMIT; ``check`` looks first at the answers to what was sent ahead.

        Raises
        ------
        psycopg.Error
            The transaction was not committed, nor will it ever be.
        DatabaseUnavailable
            The connection was lost, and nobody knows.
        """
        try:
            *answers, committed = self.ask((COMMIT, ()))
        except psycopg.OperationalError as error:
            if not self.connection.closed:
                raise
            raise DatabaseUnavailable(
                "The connection was lost; whether the last statement took effect is not known.",
                remedy="Look, and try again.",
            ) from error
        if check is not None:
            check(answers)
        if self.checked(committed).command_status != b"COMMIT":
            raise psycopg.errors.InFailedSqlTransaction(
                "an earlier statement had failed: the transaction was rolled back"
            )

    def roll_back(self) -> None:
        """End a transaction, if there is one, whatever becomes of what was sent ahead. Where an exception came in the middle of sending, the connection is left to be closed."""
        if self.connection.closed:
            return
        self.ask()
        pgconn = self.pgconn
        if (
            pgconn.pipeline_status == PipelineStatus.OFF
            and pgconn.transaction_status != TransactionStatus.IDLE
        ):
            self.connection.rollback()

    def dump(self, values: Sequence[Any]) -> Texts:
        """Return Python values as the texts of parameters."""
        texts = _texts(values)
        return (
            self._transformer.dump_sequence(values, [PyFormat.TEXT] * len(values)) if texts is None else texts
        )

    def load(self, statement: Statement, answer: PGresult) -> list[Row]:
        """Return the rows of an answer to a statement."""
        count = answer.ntuples
        if not count:
            return []
        prepared = self._prepared.get(statement)
        loading = self._transformer if prepared is None else prepared.loading
        if loading is None:
            assert prepared is not None
            loading = Transformer(OwnCursor(self.connection))
            loading.set_pgresult(answer)
            # Only now: without its conversions the driver crashes, and an exception may come between.
            prepared.loading = loading
        else:
            loading.set_pgresult(answer, set_loaders=prepared is None)
        return loading.load_rows(0, count, tuple)

    def forget(self) -> None:
        """Believe no longer that anything is prepared. Names are not used again: some of it may be."""
        self._prepared.clear()
        self._losses += 1

    def _queue(self, statement: Statement, values: Texts) -> None:
        """Put a statement where it leaves with the next piece, or earlier."""
        pgconn = self.pgconn
        if not self._sent:
            pgconn.enter_pipeline_mode()
        name, preceding = self._ready(statement)
        self._sent.append((statement, preceding))
        if preceding:
            self._prepares = True
        if name is None:
            pgconn.send_query_params(statement.text, values, None, None, _BINARY)
        else:
            pgconn.send_query_prepared(name, values, None, _BINARY)

    def _ready(self, statement: Statement) -> tuple[bytes | None, int]:
        """Return the name that a statement is prepared by, None where it is to be sent with its text; and how many answers come before its own."""
        pgconn, known = self.pgconn, self._prepared.get(statement)
        if known is not None:
            known.uses += 1
            if known.uses < known.renewed_at:
                return known.name, 0
            pgconn.send_query_params(b"DEALLOCATE " + known.name, ())
        else:
            statement.uses += 1
            if (
                statement.uses <= PREPARE_AFTER
                or len(self._prepared) >= MOST_PREPARED
                or self._losses >= MOST_LOSSES
            ):
                return None, 0
        self._given += 1
        name = b"sequent_%s_%d" % (self._token, self._given)
        renewed_at = RENEWED_AT if known is None else known.renewed_at * RENEWAL_GROWTH
        self._prepared[statement] = _Prepared(name, renewed_at)
        pgconn.send_prepare(name, statement.text)
        return name, 1 if known is None else 2

    def _without_preparations(
        self, sent: Sequence[tuple[Statement, int]], answers: list[PGresult]
    ) -> list[PGresult]:
        """Leave out the answers to preparations; an error of one is the answer to its statement."""
        found: list[PGresult] = []
        coming = iter(answers)
        for statement, preceding in sent:
            answer, *others = islice(coming, preceding + 1)
            for other in others:
                if answer.status == ExecStatus.COMMAND_OK:
                    answer = other
                else:
                    self._prepared.pop(statement, None)
            found.append(answer)
        return [*found, *coming]


def _answers(pgconn: PGconn, syncs: int) -> Generator[Wait, Ready | int, list[PGresult]]:
    """Send what is queued and collect the answers to it, up to that of the last of so many synchronisations; for ``Connection.wait``."""
    while pgconn.flush():
        # The server may want to be read before it reads on.
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    answers: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            if not (yield Wait.R):
                continue
            try:
                pgconn.consume_input()
            except psycopg.OperationalError:
                # The server may have said why, before it hung up.
                for answer in answers:
                    if answer.status == ExecStatus.FATAL_ERROR:
                        raise error_from_result(answer) from None
                raise
        found = pgconn.get_result()
        if found is None:
            continue
        if found.status != _SYNC:
            answers.append(found)
        elif syncs == 1:
            return answers
        else:
            syncs -= 1
