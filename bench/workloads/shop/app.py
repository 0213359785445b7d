"""A shop: orders with lines, addresses and tags; payments. Values of many types: numeric, date, jsonb, arrays, enums, nested models."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import Numeric, String
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Event, Migrations, Projector, Record, on


class Currency(StrEnum):
    """What is paid in."""

    EUR = "EUR"
    USD = "USD"
    GBP = "GBP"


class PaymentMethod(Enum):
    """What is paid by."""

    CARD = "card"
    INVOICE = "invoice"
    PAYPAL = "paypal"


class Address(BaseModel):
    """Where an order is sent."""

    street: str
    zip: str
    city: str
    country: str = "NL"


class OrderLine(BaseModel):
    """So many of one thing."""

    sku: str
    title: str
    quantity: int = Field(ge=1)
    unit_price: Decimal


class OrderPlaced(Event):
    """An order begins."""

    customer: str
    email: str
    currency: Currency
    lines: list[OrderLine]
    address: Address
    ship_by: date | None = None
    tags: list[str] = Field(default_factory=list)


class LineAdded(Event):
    """One thing more."""

    line: OrderLine


class LineRemoved(Event):
    """One thing less."""

    sku: str


class QuantityChanged(Event):
    """More or fewer of one thing."""

    sku: str
    quantity: int


class PaymentReceived(Event):
    """Money came."""

    amount: Decimal
    method: PaymentMethod
    paid_on: date


class PaymentRefunded(Event):
    """Money went back."""

    amount: Decimal
    method: PaymentMethod
    paid_on: date


class AddressChanged(Event):
    """It goes elsewhere."""

    address: Address


class TagAdded(Event):
    """A word for those who pack it."""

    tag: str


class OrderShipped(Event):
    """It is on its way."""

    carrier: str
    shipped_on: date
    tracking: str | None = None


class OrderCancelled(Event):
    """It will not be."""

    reason: str


class OrderRecord(Record):
    """An order."""

    __tablename__ = "order_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    customer: Mapped[str]
    email: Mapped[str] = mapped_column(String(120))
    status: Mapped[str] = mapped_column(String(20))
    currency: Mapped[str] = mapped_column(String(3))
    total: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    paid: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    is_paid: Mapped[bool]
    line_count: Mapped[int]
    ship_by: Mapped[date | None]
    shipped_on: Mapped[date | None]
    address: Mapped[dict[str, Any]]
    tags: Mapped[list[str]]
    placed_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class OrderLineRecord(Record):
    """A line of an order that was not cancelled."""

    __tablename__ = "order_line_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    sku: Mapped[str] = mapped_column(String(40))
    title: Mapped[str]
    quantity: Mapped[int]
    unit_price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))


class PaymentRecord(Record):
    """A payment; one that went back is negative."""

    __tablename__ = "payment_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    method: Mapped[str] = mapped_column(String(10))
    paid_on: Mapped[date]


class OrderProjector(Projector):
    """Orders and their lines."""

    manages_tables = (OrderRecord, OrderLineRecord)

    def _add_line(self, event: Event, line: OrderLine) -> Decimal:
        amount = line.quantity * line.unit_price
        self.create_record(
            OrderLineRecord,
            aggregate_id=event.aggregate_id,
            sku=line.sku,
            title=line.title,
            quantity=line.quantity,
            unit_price=line.unit_price,
            amount=amount,
        )
        return amount

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        total = sum((self._add_line(event, line) for line in event.lines), Decimal(0))
        self.create_record(
            OrderRecord,
            aggregate_id=event.aggregate_id,
            customer=event.customer,
            email=event.email,
            status="placed",
            currency=event.currency.value,
            total=total,
            paid=Decimal(0),
            is_paid=False,
            line_count=len(event.lines),
            ship_by=event.ship_by,
            address=event.address.model_dump(),
            tags=event.tags,
            placed_at=event.created_at,
            updated_at=event.created_at,
        )

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        amount = self._add_line(event, event.line)
        with self.update_record(OrderRecord, event) as order:
            order.total += amount
            order.line_count += 1
            order.is_paid = order.paid >= order.total

    @on(LineRemoved)
    def line_removed(self, event: LineRemoved) -> None:
        line = self.get_record(OrderLineRecord, aggregate_id=event.aggregate_id, sku=event.sku)
        self.delete_record(OrderLineRecord, line)
        with self.update_record(OrderRecord, event) as order:
            order.total -= line.amount
            order.line_count -= 1
            order.is_paid = order.paid >= order.total

    @on(QuantityChanged)
    def quantity_changed(self, event: QuantityChanged) -> None:
        with self.update_record(
            OrderLineRecord, event, aggregate_id=event.aggregate_id, sku=event.sku
        ) as line:
            before = line.amount
            line.quantity = event.quantity
            line.amount = line.quantity * line.unit_price
        with self.update_record(OrderRecord, event) as order:
            order.total += line.amount - before
            order.is_paid = order.paid >= order.total

    @on(PaymentReceived)
    def paid(self, event: PaymentReceived) -> None:
        self._pay(event, event.amount)

    @on(PaymentRefunded)
    def refunded(self, event: PaymentRefunded) -> None:
        self._pay(event, -event.amount)

    def _pay(self, event: Event, amount: Decimal) -> None:
        with self.update_record(OrderRecord, event) as order:
            order.paid += amount
            order.is_paid = order.paid >= order.total

    @on(AddressChanged)
    def address_changed(self, event: AddressChanged) -> None:
        with self.update_record(OrderRecord, event) as order:
            order.address = event.address.model_dump()

    @on(TagAdded)
    def tag_added(self, event: TagAdded) -> None:
        with self.update_record(OrderRecord, event) as order:
            order.tags = [*order.tags, event.tag]

    @on(OrderShipped)
    def shipped(self, event: OrderShipped) -> None:
        with self.update_record(OrderRecord, event) as order:
            order.status = "shipped"
            order.shipped_on = event.shipped_on

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.delete_all_records(OrderLineRecord, aggregate_id=event.aggregate_id)
        self.update_all_records(
            OrderRecord, {"aggregate_id": event.aggregate_id}, {"status": "cancelled", "line_count": 0}
        )


class PaymentProjector(Projector):
    """Every payment."""

    manages_tables = (PaymentRecord,)

    @on(PaymentReceived, PaymentRefunded)
    def payment(self, event: PaymentReceived | PaymentRefunded) -> None:
        sign = 1 if isinstance(event, PaymentReceived) else -1
        self.create_record(
            PaymentRecord,
            aggregate_id=event.aggregate_id,
            amount=sign * event.amount,
            method=event.method.value,
            paid_on=event.paid_on,
        )


class ShopMigrations(Migrations):
    """One version."""

    version = 1
    versions = {1: [OrderProjector, PaymentProjector]}  # noqa: RUF012
