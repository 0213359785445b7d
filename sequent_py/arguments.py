"""What callers of the Python interface hand over, checked before anything is asked of the database. Pure.

An aggregate id is a ``uuid.UUID``, everywhere. Texts are refused rather than converted: the server would take one for the same id in a query,
while sets, dictionaries and rows in memory would not, so that half of the library would find the aggregate and half would not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sequent_py.errors import InvalidAggregateId, StoreError
from sequent_py.events import Event


def checked_aggregate_id(value: object) -> UUID:
    """Return an aggregate id.

    Raises
    ------
    InvalidAggregateId
        It is no UUID.
    """
    if not isinstance(value, UUID):
        raise InvalidAggregateId(value)
    return value


def checked_aggregate_ids(values: object) -> list[UUID]:
    """Return aggregate ids as a list, each once, in their order.

    Raises
    ------
    InvalidAggregateId
        One is no UUID, or these are not several.
    """
    if isinstance(values, str | bytes | UUID) or not isinstance(values, Iterable):
        raise InvalidAggregateId(values, are_several=True)
    return list(dict.fromkeys(checked_aggregate_id(value) for value in values))


def checked_count(name: str, value: Any) -> int:
    """Return a number that is not negative.

    Raises
    ------
    StoreError
        It is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise StoreError(f"{name} is a whole number from 0 on, not {value!r:.80}.")
    return value


def checked_event_classes(values: Sequence[Any]) -> Sequence[type[Event]]:
    """Return event classes.

    Raises
    ------
    StoreError
        One is something else, its name for example.
    """
    for value in [values] if isinstance(values, str | type) else values:
        if values is value or not (isinstance(value, type) and issubclass(value, Event)):
            raise StoreError(
                f"event_types is a list of event classes, not {value!r:.80}.",
                remedy="Write event_types=[TheEvent, …].",
            )
    return values
