"""The shop with tables that refuse rows: by every kind of constraint, a column's type and a trigger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from shop import LineAdded, LineProjector, OrderCancelled, OrderPlaced, OrderProjector, OrderRecord, shop
from sqlalchemy import BigInteger, DateTime
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Migrations, Projector, Record, Sequent, on

PICKY_SQL = Path(__file__).parent / "picky_sql"


class PickyOrderRecord(Record):
    __tablename__ = "order_records"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    aggregate_id: Mapped[UUID]
    customer: Mapped[str]
    total: Mapped[int] = mapped_column(BigInteger)
    lines: Mapped[int]
    phone: Mapped[str]
    voucher: Mapped[str | None]
    desk: Mapped[int | None]
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    sequence_number: Mapped[int]


class PickyProjector(Projector):
    """Does what products say; once it is mended, not if they cost one cent."""

    manages_tables = (PickyOrderRecord,)
    is_mended = False

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.create_record(
            PickyOrderRecord,
            aggregate_id=event.aggregate_id,
            customer=event.customer,
            total=0,
            lines=0,
            phone="112",
            updated_at=event.created_at,
            sequence_number=event.sequence_number,
        )

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        if event.product == "orphan" and not self.is_mended:
            self.delete_all_records(PickyOrderRecord, aggregate_id=event.aggregate_id)
            return
        if (
            event.product == "after"
            and self.find_record(PickyOrderRecord, aggregate_id=event.aggregate_id) is None
        ):
            return
        with self.update_record(PickyOrderRecord, event) as order:
            order.total += event.cents
            order.lines += 1
            if not (self.is_mended and event.cents == 1):
                self.obey(order, event.product)

    def obey(self, order: PickyOrderRecord, product: str) -> None:
        what, _, value = product.partition(" ")
        if what == "voucher":
            order.voucher = value or None
        elif what == "desk":
            order.desk = int(value)
        elif what == "unlisted":
            order.phone = "none"

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.delete_all_records(PickyOrderRecord, aggregate_id=event.aggregate_id)


class ShopPicky(Migrations):
    version = 1
    versions = {1: [PickyProjector, LineProjector]}


def picky_shop(database_url: str, migrations: type[Migrations] = ShopPicky, **settings: Any) -> Sequent:
    return shop(database_url, migrations, sql_directory=PICKY_SQL, **settings)


class PickyByPartition(PickyProjector):
    ordering = "partition"


class ShopPickyByPartition(Migrations):
    version = 1
    versions = {1: [PickyByPartition, LineProjector]}


class PickyInLine(PickyProjector):
    ordering = "global"


class ShopPickyInLine(Migrations):
    version = 1
    versions = {1: [PickyInLine, LineProjector]}


class CrossingProjector(OrderProjector):
    """A line may touch another order as well, and meets others half-way."""

    half_way: Callable[[], object] = staticmethod(lambda: None)

    @on(LineAdded)
    def touches(self, event: LineAdded) -> None:
        what, _, other = event.product.partition(" ")
        if what == "touch":
            self.half_way()
            with self.update_record(OrderRecord, event, aggregate_id=UUID(other)) as order:
                order.total += event.cents


class ShopCrossing(Migrations):
    version = 1
    versions = {1: [CrossingProjector, LineProjector]}


class BadgeRecord(Record):
    """Its key is not the aggregate's."""

    __tablename__ = "badge_records"

    number: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class BadgeProjector(Projector):
    manages_tables = (BadgeRecord,)

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        if event.product == "badge":
            self.create_record(BadgeRecord, number=event.cents, aggregate_id=event.aggregate_id)


class ShopBadges(Migrations):
    version = 1
    versions = {1: [BadgeProjector]}
