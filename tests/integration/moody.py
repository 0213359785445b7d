"""Order projectors whose rows depend on more than their events, one kind each."""

from __future__ import annotations

import datetime as calendar
import os
import random
import time
from datetime import UTC, date, datetime
from typing import Any, ClassVar
from uuid import uuid4

import psycopg
from shop import LineProjector, OrderPlaced, OrderProjector, OrderRecord

from sequent_py import Migrations, on


class Moody(OrderProjector):
    """Names the customer by what it should not look at."""

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.create_record(
            OrderRecord,
            aggregate_id=event.aggregate_id,
            customer=self.named(event),
            total=0,
            lines=0,
            updated_at=event.created_at,
            sequence_number=event.sequence_number,
        )

    def named(self, event: OrderPlaced) -> str:
        """Return the customer's name."""
        raise NotImplementedError


class ByMoment(Moody):
    def named(self, event: OrderPlaced) -> str:
        return datetime.now(UTC).isoformat()


class ByYear(Moody):
    """Two folds within a day see no difference unless the clock is moved."""

    def named(self, event: OrderPlaced) -> str:
        return f"{date.today().year} {calendar.datetime.now().year} {time.gmtime(time.time()).tm_year}"


class ByChance(Moody):
    def named(self, event: OrderPlaced) -> str:
        return f"{random.random()} {uuid4()}"


class ByHashOrder(Moody):
    def named(self, event: OrderPlaced) -> str:
        return ",".join({"red", "green", "blue", "yellow", "black", "white"})


class ByOthers(Moody):
    """Counts rows, which are those of other aggregates."""

    def named(self, event: OrderPlaced) -> str:
        return f"customer {len(self.find_records(OrderRecord))}"


class ByCalls(Moody):
    seen: ClassVar[int] = 0

    def named(self, event: OrderPlaced) -> str:
        type(self).seen += 1
        return f"customer {self.seen}"


class ByOwnConnection(Moody):
    """Reads what is there today, which is the same in two folds; and what another table held then is forgotten."""

    def named(self, event: OrderPlaced) -> str:
        with psycopg.connect(os.environ["MOODY_DATABASE_URL"]) as connection:
            row: Any = connection.execute("SELECT count(*) FROM pg_catalog.pg_type").fetchone()
        return f"customer {row[0]}"


class OnlyTogether(Moody):
    """Fails unless it sees somebody else's row."""

    def named(self, event: OrderPlaced) -> str:
        if event.customer != "customer 0" and not self.find_records(OrderRecord):
            raise LookupError("nobody was here before")
        return event.customer


class Sober(Moody):
    """Uses the same modules for what is no mood: values of its events."""

    def named(self, event: OrderPlaced) -> str:
        moment = datetime.fromisoformat("2024-02-03T04:05:06+00:00")
        assert isinstance(event.created_at, datetime)
        assert isinstance(moment, calendar.datetime)
        assert date(2024, 2, 3) == moment.date()
        return f"{event.customer} {random.Random(event.customer).random()} {sorted({'red', 'blue'})} {moment}"


class ShopByMoment(Migrations):
    version = 1
    versions = {1: [ByMoment, LineProjector]}


class ShopByYear(Migrations):
    version = 1
    versions = {1: [ByYear, LineProjector]}


class ShopByChance(Migrations):
    version = 1
    versions = {1: [ByChance, LineProjector]}


class ShopByHashOrder(Migrations):
    version = 1
    versions = {1: [ByHashOrder, LineProjector]}


class ShopByOthers(Migrations):
    version = 1
    versions = {1: [ByOthers, LineProjector]}


class ShopByCalls(Migrations):
    version = 1
    versions = {1: [ByCalls, LineProjector]}


class ShopByOwnConnection(Migrations):
    version = 1
    versions = {1: [ByOwnConnection, LineProjector]}


class ShopOnlyTogether(Migrations):
    version = 1
    versions = {1: [OnlyTogether, LineProjector]}


class ShopSober(Migrations):
    version = 1
    versions = {1: [Sober, LineProjector]}
