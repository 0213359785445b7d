"""What is handed to the Python interface and is something else than it should be is refused by name, and nothing happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from shop import (
    OrderPlaced,
    live_shop,
    shop,
)

from sequent_py import Sequent
from sequent_py.errors import InvalidAggregateId, StoreError

ORDER = UUID(int=7)
pytestmark = pytest.mark.store(made_by=live_shop(1))


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url) as app:
        app.store.append(ORDER, [OrderPlaced(customer="Ann")])
        yield app


ONE: dict[str, Callable[[Sequent, Any], Any]] = {
    "append": lambda app, it: app.store.append(it, [OrderPlaced(customer="Bob")]),
    "load": lambda app, it: app.store.load(it),
    "version_of": lambda app, it: app.store.version_of(it),
}
SEVERAL: dict[str, Callable[[Sequent, Any], Any]] = {
    "erase": lambda app, it: app.aggregates.erase(it),
    "refold": lambda app, it: app.aggregates.refold(it),
    "verify": lambda app, it: app.view_schema.verify(aggregate_ids=it),
    "golive": lambda app, it: app.view_schema.golive(accept_quarantined=it),
    "offline": lambda app, it: app.view_schema.offline(accept_quarantined=it),
}


def test_an_aggregate_is_named_by_a_uuid_and_nothing_else(app: Sequent) -> None:
    for call in ONE.values():
        for value in (str(ORDER), "no uuid", 7, None, b"x" * 16):
            with pytest.raises(InvalidAggregateId, match=f"is a UUID, not {type(value).__name__}") as caught:
                call(app, value)
            assert "uuid.UUID" in caught.value.remedy
    assert app.store.version_of(ORDER) == 1


def test_aggregates_are_named_by_a_list_of_uuids(app: Sequent) -> None:
    for call in SEVERAL.values():
        for value in ([str(ORDER)], [ORDER, None]):
            with pytest.raises(InvalidAggregateId, match="is a UUID, not"):
                call(app, value)
        for value in (str(ORDER), ORDER, 7):  # type: ignore[assignment]
            with pytest.raises(InvalidAggregateId, match="are a list of UUIDs"):
                call(app, value)
    assert app.store.version_of(ORDER) == 1
    report = app.aggregates.erase(iter([ORDER, ORDER]))  # type: ignore[arg-type]
    assert report.aggregate_ids == (ORDER,)


READING: list[tuple[Callable[[Any], Any], str]] = [
    (lambda store: store.load(ORDER, after="1"), "after"),
    (lambda store: store.load(ORDER, after=-1), "after"),
    (lambda store: store.load(ORDER, until=1.5), "until"),
    (lambda store: store.load_range(after_position="x"), "after_position"),
    (lambda store: store.load_range(limit=-1), "limit"),
    (lambda store: store.load_range(limit=True), "limit"),
    (lambda store: store.load_range(event_types=["OrderPlaced"]), "event_types"),
    (lambda store: store.load_range(event_types=OrderPlaced), "event_types"),
    (lambda store: store.load_range(event_types="OrderPlaced"), "event_types"),
    (lambda store: list(store.window(None, event_types=[int])), "event_types"),
    (lambda store: list(store.window(5)), "not a PostgreSQL snapshot"),
]


def test_other_arguments_of_reading_are_named(app: Sequent) -> None:
    for call, named in READING:
        with pytest.raises(StoreError, match=named):
            call(app.store)
