"""Tracing: who wrote a row, and who meets it afterwards.

A projector's ``ordering`` promises that its handlers meet rows of their own scope only: of one aggregate, of one partition key, or of all. A
:class:`Tracer` holds it to that, by standing between projectors and any persistor while a sample of events is folded. A row that was written by events of
one scope and is read, changed, deleted or made again by events of another is a :class:`SharedRow`: replayed in parallel, the two could meet in any
order, or not at all. What it finds is certain; what it does not find may be in other events, or in a look-up that found nothing.

Changes and deletions by filter look the rows up first, so tracing costs statements: it is for samples, not for replays. It keeps the
scope of every row's last writer in memory, and nothing is written by it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from sequent_py.errors import OrderingViolated
from sequent_py.ordering import Ordering
from sequent_py.persistors import Persistor
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, record_shape

R = TypeVar("R", bound=Record)
Raw = TypeVar("Raw", bound=tuple[Any, ...])

EXAMPLES = 5
"""Shared rows that a message shows; one is kept per record and way of meeting."""
AGGREGATE_FIELD = 2
"""Where a raw event has its aggregate id, as bytes."""


@dataclass(frozen=True, slots=True)
class SharedRow:
    """A row that events of two scopes met."""

    projectors: tuple[str, ...]
    """Those that manage the record."""
    ordering: Ordering
    record: str
    key: Mapping[str, Any]
    writer: UUID
    """The aggregate whose event wrote it last."""
    other: UUID
    """The aggregate whose event met it then."""
    operation: str
    """What that event's handler did: reads, updates, deletes, creates anew."""
    keys: tuple[str, str] | None = None
    """The partition keys of the two, under the ordering ``partition``."""

    def __str__(self) -> str:
        key = ", ".join(f"{name}={value!s}" for name, value in self.key.items())
        writer, other = f"aggregate {self.writer}", f"aggregate {self.other}"
        if self.keys is not None:
            writer, other = (
                f"{who} (partition {of!r})" for who, of in zip((writer, other), self.keys, strict=True)
            )
        return (
            f"{' and '.join(self.projectors)} {self.operation} the {self.record} with {key} on an event of {other},"
            f" and an event of {writer} wrote it"
        )


class Tracer:
    """Watches a fold of some projectors. ``partition_keys`` are those of the aggregates in it that have one."""

    def __init__(
        self,
        projectors: Sequence[type[Projector]],
        partition_keys: Mapping[UUID, str] | None = None,
    ) -> None:
        self.shared: dict[tuple[str, str], SharedRow] = {}
        """What was found: the first row for each record and operation."""
        self._partition_keys = partition_keys or {}
        self._managed: dict[type[Record], tuple[Ordering, tuple[str, ...]]] = {}
        for projector in projectors:
            found = projector_definition(projector)
            for record in found.records:
                names = self._managed.get(record, ("aggregate", ()))[1]
                self._managed[record] = (found.ordering, (*names, found.name))
        self._writers: dict[type[Record], dict[tuple[Any, ...], UUID]] = {
            record: {} for record in self._managed
        }
        self.key_getters = {record: _key_getter(record) for record in self._managed}
        """From rows of each managed record to their primary keys."""
        self._aggregate_ids: dict[bytes, UUID] = {}
        self._aggregate = UUID(int=0)

    def watch(
        self, raw_events: Iterable[Raw], on_event: Callable[[], object] = lambda: None
    ) -> Iterator[Raw]:
        """Pass events on one by one, after a call of ``on_event``, and remember whose event is being folded."""
        known = self._aggregate_ids
        for raw in raw_events:
            # One object for each aggregate, so that it is told from others by identity.
            raw_id = raw[AGGREGATE_FIELD]
            found = known.get(raw_id)
            if found is None:
                found = known[raw_id] = UUID(bytes=bytes(raw_id))
            self._aggregate = found
            on_event()
            yield raw

    def around(self, persistor: Persistor) -> TracingPersistor:
        """Return a persistor that does what ``persistor`` does, watched."""
        return TracingPersistor(persistor, self)

    def require_none(self) -> None:
        """Refuse to go on where rows were shared.

        Raises
        ------
        OrderingViolated
            With the first of them, and what to declare.
        """
        if self.shared:
            raise ordering_violated(self.shared.values())

    def met(self, record: type[Record], row: Record, operation: str) -> tuple[Any, ...]:
        """Note that the current event's handler met a row; all but reading makes it the current aggregate's. Return the row's key."""
        writers, key = self._writers[record], self.key_getters[record](row)
        writer, current = writers.get(key), self._aggregate
        if writer is None or operation != READS:
            writers[key] = current
        if writer is not None and writer is not current:
            self._compare_scopes(record, key, writer, operation)
        return key

    def _compare_scopes(
        self, record: type[Record], key: tuple[Any, ...], writer: UUID, operation: str
    ) -> None:
        ordering, names = self._managed[record]
        if ordering == "global" or self._scope(ordering, writer) == self._scope(ordering, self._aggregate):
            return
        found = SharedRow(
            projectors=names,
            ordering=ordering,
            record=record.__name__,
            key=dict(zip(_key_attributes(record), key, strict=True)),
            writer=writer,
            other=self._aggregate,
            operation=operation,
            keys=self._keys(writer) if ordering == "partition" else None,
        )
        self.shared.setdefault((found.record, operation), found)

    def _scope(self, ordering: Ordering, aggregate_id: UUID) -> Hashable:
        return (
            aggregate_id if ordering == "aggregate" else self._partition_keys.get(aggregate_id, aggregate_id)
        )

    def _keys(self, writer: UUID) -> tuple[str, str]:
        first, second = (self._partition_keys.get(each, str(each)) for each in (writer, self._aggregate))
        return first, second


READS, UPDATES, DELETES, CREATES = "reads", "updates", "deletes", "creates anew"


def ordering_violated(shared: Iterable[SharedRow]) -> OrderingViolated:
    """Return the error that names the rows and says what to declare."""
    rows = list(shared)
    names = sorted({name for row in rows for name in row.projectors})
    orderings = {row.ordering for row in rows}
    wider = '"partition" (and give the aggregates a partition_key) or "global"'
    return OrderingViolated(
        "; ".join(map(str, rows[:EXAMPLES])) + ".",
        remedy=f"Declare ordering = {wider if 'aggregate' in orderings else chr(34) + 'global' + chr(34)} in {' and '.join(names)},"
        " or write each row from one of them only; then: sequent migrate abort, sequent migrate online",
    )


def _key_attributes(record: type[Record]) -> tuple[str, ...]:
    return tuple(column.attribute for column in record_shape(record).key_columns)


def _key_getter(record: type[Record]) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function from a row to its primary key."""
    attributes = _key_attributes(record)
    get = attrgetter(*attributes)
    return get if len(attributes) > 1 else lambda row: (get(row),)


class TracingPersistor:
    """Passes every operation on, and tells the tracer which rows it met."""

    def __init__(self, inner: Persistor, tracer: Tracer) -> None:
        self._inner = inner
        self._tracer = tracer
        self._met = tracer.met

    def create_record(self, record: type[R], values: Mapping[str, Any]) -> R:
        row = self._inner.create_record(record, values)
        self._met(record, row, CREATES)
        return row

    def create_records(self, record: type[R], rows: Iterable[Mapping[str, Any]]) -> list[R]:
        return self._all_met(record, self._inner.create_records(record, rows), CREATES)

    def update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return _TracedBlock(self._inner.update_record(record, where, touched), record, self._tracer)

    def create_or_update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return _TracedBlock(self._inner.create_or_update_record(record, where, touched), record, self._tracer)

    def get_record(self, record: type[R], where: Mapping[str, Any]) -> R:
        row = self._inner.get_record(record, where)
        self._met(record, row, READS)
        return row

    def find_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        row = self._inner.find_record(record, where)
        if row is not None:
            self._met(record, row, READS)
        return row

    def find_records(self, record: type[R], where: Mapping[str, Any]) -> list[R]:
        return self._all_met(record, self._inner.find_records(record, where), READS)

    def last_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        row = self._inner.last_record(record, where)
        if row is not None:
            self._met(record, row, READS)
        return row

    def update_all_records(
        self, record: type[Record], where: Mapping[str, Any], values: Mapping[str, Any]
    ) -> int:
        self._all_met(record, self._inner.find_records(record, where), UPDATES)
        return self._inner.update_all_records(record, where, values)

    def delete_record(self, record: type[R], row: R) -> int:
        deleted = self._inner.delete_record(record, row)
        if deleted:
            self._met(record, row, DELETES)
        return deleted

    def delete_all_records(self, record: type[Record], where: Mapping[str, Any]) -> int:
        self._all_met(record, self._inner.find_records(record, where), DELETES)
        return self._inner.delete_all_records(record, where)

    def _all_met(self, record: type[R], rows: list[R], operation: str) -> list[R]:
        for row in rows:
            self._met(record, row, operation)
        return rows


class _TracedBlock(AbstractContextManager[R]):
    """The block of an update: the row is met as it was found, and under its new key, should the block change that."""

    def __init__(self, inner: AbstractContextManager[R], record: type[R], tracer: Tracer) -> None:
        self._inner, self._record, self._tracer = inner, record, tracer

    def __enter__(self) -> R:
        row = self._row = self._inner.__enter__()
        self._key: tuple[Any, ...] | None = None
        if None not in self._tracer.key_getters[self._record](row):
            self._key = self._tracer.met(self._record, row, UPDATES)
        return row

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        swallowed = self._inner.__exit__(kind, error, traceback)
        if kind is None and self._tracer.key_getters[self._record](self._row) != self._key:
            self._tracer.met(self._record, self._row, UPDATES)
        return swallowed
