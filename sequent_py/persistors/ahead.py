"""Reading ahead: what the events that come next will look up.

In catch-up a row that is not in memory costs a round trip, longer than all else that is done for an event. But most handlers take their filters from the
event itself: its aggregate, a field, its sequence number less one. So from a look-up that misses one learns *how* its values come out of the event, and
the same miss reads what the following events of that type will ask for, in one statement.

What is learned is a guess and nothing hangs on it: rows that are read in vain stay unchanged in memory and are never written, rows that were not guessed are
read when they are asked for. Guesses that fail narrow what a value can come from, and a look-up whose guesses keep failing is left alone.

Pure: asks no database and calls no handler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from operator import attrgetter, is_not
from typing import Any, Protocol
from uuid import UUID

from sequent_py.column_types import INTEGER_BOUNDS
from sequent_py.errors import SequentError
from sequent_py.persistors.operations import Filter
from sequent_py.records import ColumnShape

FIRST_KEYS = 64
"""So many values are read ahead by a guess that was never tried."""
MOST_KEYS = 4_096
"""Beyond it the parameters of a statement cost more than round trips."""
MOST_ALTERNATIVES = 4
"""Of one handler's look-ups in one table by the same columns: a transfer looks an account up twice."""
MOST_MISSES = 64
"""So often may a look-up miss that no guess explains; then it is left alone."""
MOST_STRAYS = 64
"""So often may look-ups miss that reading for the first events of aggregates should have covered; then all events are read for."""
_GROWTH = 8

Values = tuple[Any, ...]
Lookup = tuple[Any, ...]
"""Tells look-ups apart that are not alike: the table, which of the rows are wanted, and the columns."""


class Coming(Protocol):
    """Who knows the events that are being projected, in their order."""

    @property
    def current(self) -> Any:
        """The event that handlers are at; None between events."""

    @property
    def place(self) -> int:
        """The current event's number; later ones have higher numbers."""

    def following(self) -> Iterator[tuple[int, Any]]:
        """Yield the events of the current one's class that come after it, with their numbers, as far as they are known."""

    def firsts(self, after: int, classes: Collection[type], seen: set[Any]) -> Iterator[tuple[int, Any]]:
        """Yield events of these classes with numbers above ``after`` and the current one's, of each aggregate that is not in ``seen`` the first.

        The current event's aggregate is added, and that of every event that is yielded.
        """


@dataclass(frozen=True, slots=True)
class Source:
    """Where a filter's value comes from: an attribute of the event, perhaps with 1 more or less or as text; or it is always the same."""

    attribute: str | None
    offset: int = 0
    constant: Any = None

    def of(self, event: Any, column: ColumnShape) -> Any:
        """Return the value for an event; None where it has none that the column takes."""
        if self.attribute is None:
            return self.constant
        return _converted(getattr(event, self.attribute), self.offset, column)

    def of_all(self, events: Sequence[Any], column: ColumnShape) -> Sequence[Any]:
        """Return the value for each event; in one go where all are usual, for this is asked of every event of a window, and several times."""
        if self.attribute is None:
            return [self.constant] * len(events)
        values = list(map(attrgetter(self.attribute), events))
        kinds = set(map(type, values))
        if kinds == {UUID} and column.type.family == "uuid" and not self.offset:
            return values
        if kinds == {int} and column.type.family == "integer" and column.type.members is None:
            bound, offset = INTEGER_BOUNDS[column.type.name], self.offset
            if -bound <= min(values) + offset and max(values) + offset < bound:
                return [value + offset for value in values] if offset else values
        return [_converted(value, self.offset, column) for value in values]

    def compiled(self, column: ColumnShape) -> Callable[[Any], Any]:
        """Return :meth:`of` as a function of the event: it runs for every append."""
        if self.attribute is None:
            return lambda _event: self.constant
        get, offset = attrgetter(self.attribute), self.offset
        if column.type.family == "uuid" and offset == 0:

            def of_uuid(event: Any) -> Any:
                value = get(event)
                return value if value.__class__ is UUID else _converted(value, 0, column)

            return of_uuid
        if column.type.family == "integer" and column.type.members is None:
            bound = INTEGER_BOUNDS[column.type.name]

            def of_integer(event: Any) -> Any:
                value = get(event)
                if value.__class__ is int and -bound <= value + offset < bound:
                    return value + offset
                return _converted(value, offset, column)

            return of_integer
        return lambda event: _converted(get(event), offset, column)


@dataclass(slots=True, eq=False)
class Path:
    """One look-up of one handler: for each column that it filters by, where its value can come from, the likeliest first."""

    columns: tuple[ColumnShape, ...]
    sources: list[list[Source]]
    guess: Callable[[Any], Values | None] = field(init=False)
    """From an event to what it will look up; None where that cannot be told."""
    explained: int = 0
    """How many misses it has explained since the one that it was learned from."""
    most_keys: int = FIRST_KEYS
    rows_per_key: int = 1
    """As of the last time."""
    strays: int = 0
    """How many look-ups by events that are not the first of their aggregates have missed."""

    def __post_init__(self) -> None:
        self.take(self.sources)

    @property
    def is_promising(self) -> bool:
        """Whether other events will ask for other values."""
        return any(sources[0].attribute is not None for sources in self.sources)

    @property
    def reads_firsts(self) -> bool:
        """Whether it reads ahead for the first event of each aggregate only.

        What later ones look up of their aggregate, that one has read by then, or they have made; where that turns out wrong, it reads for all.
        """
        return self.strays <= MOST_STRAYS and any(
            each[0].attribute == "aggregate_id" for each in self.sources
        )

    def narrowed(self, event: Any, values: Values) -> list[list[Source]] | None:
        """Return the sources that explain these values, too; None where those of a column do not."""
        explaining = [
            [source for source in sources if source.of(event, column) == value]
            for column, sources, value in zip(self.columns, self.sources, values, strict=True)
        ]
        return explaining if all(explaining) else None

    def take(self, sources: list[list[Source]]) -> None:
        """Guess by these sources from now on."""
        self.sources = sources
        getters = [each[0].compiled(column) for column, each in zip(self.columns, sources, strict=True)]

        def guess(event: Any) -> Values | None:
            values = []
            for get in getters:
                value = get(event)
                # By identity: UUIDs would be asked whether they are equal.
                if value is None:
                    return None
                values.append(value)
            return tuple(values)

        self.guess = guess

    def guesses(self, events: Sequence[Any]) -> list[Values]:
        """Return what events will look up, without those of which that cannot be told."""
        columns = [
            each[0].of_all(events, column) for column, each in zip(self.columns, self.sources, strict=True)
        ]
        several = list(zip(*columns, strict=True))
        if all(all(map(is_not, values, repeat(None))) for values in columns):
            return several
        return [values for values in several if all(map(is_not, values, repeat(None)))]

    def note_read(self, keys: int, rows: int, most_rows: int) -> None:
        """Take note of what reading ahead has brought: the next time more, but no more than ``most_rows``."""
        self.rows_per_key = max(1, -(-rows // keys))
        self.most_keys = max(1, min(self.most_keys * _GROWTH, MOST_KEYS, most_rows // self.rows_per_key))

    def note_failed(self) -> None:
        """Take note that the value of an event that was read ahead for was not read."""
        if self.reads_firsts:
            self.strays += 1
            return
        self.most_keys = max(2, self.most_keys // (_GROWTH * _GROWTH))


@dataclass(slots=True)
class _Alternatives:
    paths: list[Path] = field(default_factory=list)
    unexplained: int = 0


@dataclass(slots=True)
class AccessPaths:
    """What has been learned; may be kept for as long as the handlers are the same."""

    by_lookup: dict[Lookup, dict[type, _Alternatives]] = field(default_factory=dict)

    def of_firsts(self, lookup: Lookup) -> dict[type, list[Path]]:
        """Return the paths of a look-up that read for the first events of aggregates, by the events' classes."""
        found = {
            cls: [path for path in known.paths if path.reads_firsts and path.is_promising]
            for cls, known in self.by_lookup.get(lookup, {}).items()
        }
        return {cls: paths for cls, paths in found.items() if paths}

    def path(self, event: Any, lookup: Lookup, filters: Sequence[Filter]) -> Path | None:
        """Return how the values of a look-up that has missed come out of the event, after learning from it; None where they don't."""
        known = self.by_lookup.setdefault(lookup, {}).setdefault(type(event), _Alternatives())
        values = tuple(item.values[0] for item in filters)
        for path in known.paths:
            sources = path.narrowed(event, values)
            if sources is not None:
                if sources != path.sources:
                    path.take(sources)
                path.explained += 1
                return path if path.is_promising else None
        known.unexplained += 1
        if known.unexplained > MOST_MISSES:
            return None
        path = _learned(event, filters, values)
        if not path.is_promising:
            return None
        if len(known.paths) == MOST_ALTERNATIVES:
            # The newest of those that explain least: the first one learned is seldom a coincidence, and is not asked again while it covers what comes.
            known.paths.remove(min(reversed(known.paths), key=lambda item: item.explained))
        known.paths.append(path)
        return path


def _learned(event: Any, filters: Sequence[Filter], values: Values) -> Path:
    columns = tuple(item.column for item in filters)
    attributes = ("aggregate_id", *type(event).model_fields, "sequence_number", "position", "created_at")
    return Path(
        columns,
        [
            [*_sources(event, attributes, column, value), Source(None, constant=value)]
            for column, value in zip(columns, values, strict=True)
        ],
    )


def _sources(event: Any, attributes: Sequence[str], column: ColumnShape, value: Any) -> Iterator[Source]:
    for offset in (0, -1, 1):
        for attribute in attributes:
            if _converted(getattr(event, attribute), offset, column) == value:
                yield Source(attribute, offset)


def _converted(value: Any, offset: int, column: ColumnShape) -> Any:
    """Return an event's value as the column has it; None where it takes no such value."""
    if value is None:
        return None
    if offset:
        if type(value) is not int:
            return None
        value += offset
    try:
        if column.type.family == "text" and not isinstance(value, str) and column.type.members is None:
            value = str(value)
        return column.coerce(value)
    except SequentError:
        return None


class ReadAhead:
    """The events to come, and what has been learned of them."""

    def __init__(self, coming: Coming, paths: AccessPaths) -> None:
        self._coming, self._paths = coming, paths
        self._covered: dict[Path | Lookup, int] = {}
        """The numbers of the last events that were read ahead for: by a path, or, for the first events of aggregates, for a look-up."""
        self._seen: dict[Lookup, tuple[frozenset[type], set[Any]]] = {}
        """The aggregates whose first events were read ahead for, of these classes."""

    def forget(self) -> None:
        """Note that rows have left memory: what was read ahead for an aggregate may have to be read again."""
        self._seen.clear()

    def path(self, lookup: Lookup, filters: Sequence[Filter]) -> Path | None:
        """Return how the values of a look-up that has missed come out of the current event; None where nothing can be read ahead."""
        event = self._coming.current
        if event is None or not filters or not all(_is_plain(item) for item in filters):
            return None
        path = self._paths.path(event, lookup, filters)
        if path is not None:
            covered = self._covered.get(lookup if path.reads_firsts else path, -1)
            if self._coming.place <= covered:
                path.note_failed()
        return path

    def note_read(
        self, path: Path, lookup: Lookup, covered: int, *, keys: int, rows: int, most_rows: int
    ) -> None:
        """Take note of what was read for a path that was followed as far as the event number ``covered``."""
        self._covered[lookup if path.reads_firsts else path] = covered
        path.note_read(keys, rows, most_rows)

    def guesses(self, path: Path, lookup: Lookup, most: int) -> Iterator[tuple[int, list[Values]]]:
        """Yield what coming events will look up, of about ``most`` events at a time, with the number of the last of them.

        Not endlessly, if most of it is known already.
        """
        if path.reads_firsts:
            paths = self._paths.of_firsts(lookup)
            coming = self._firsts(lookup, paths)
        else:
            paths = {type(self._coming.current): [path]}
            coming = islice(self._coming.following(), _GROWTH * path.most_keys)
        several = max(map(len, paths.values()), default=1)
        while some := list(islice(coming, max(1, most // several))):
            events: dict[type, list[Any]] = {}
            for _, event in some:
                events.setdefault(event.__class__, []).append(event)
            yield (
                some[-1][0],
                [values for cls in events for each in paths[cls] for values in each.guesses(events[cls])],
            )

    def _firsts(self, lookup: Lookup, paths: Mapping[type, list[Path]]) -> Iterator[tuple[int, Any]]:
        """Return the first events of aggregates, of all classes that look it up; after those that were read ahead for."""
        classes, seen = self._seen.get(lookup, (frozenset(), set()))
        covered = self._covered.get(lookup, -1)
        if classes != paths.keys():
            # A class of events that was not known to look this up.
            covered, seen = -1, set()
        self._seen[lookup] = frozenset(paths), seen
        return self._coming.firsts(covered, paths, seen)


def _is_plain(item: Filter) -> bool:
    return item.is_scalar and item.values[0] is not None
