"""A history of the shop: two thousand orders are open at a time, and live for some ten events each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from bench.workloads import History
from bench.workloads.shop.app import (
    Address,
    AddressChanged,
    Currency,
    LineAdded,
    LineRemoved,
    OrderCancelled,
    OrderLine,
    OrderPlaced,
    OrderShipped,
    PaymentMethod,
    PaymentReceived,
    PaymentRefunded,
    QuantityChanged,
    TagAdded,
)
from sequent_py import Event

_OPEN_ORDERS = 2_000
_WORDS = ("blue", "chair", "table", "lamp", "oak", "steel", "cotton", "large", "small", "café", "stühle")
_CITIES = ("Amsterdam", "Köln", "London", "Paris", "São Paulo", "Utrecht")
_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
_FIRST_DAY = date(2024, 1, 1)


def history(count: int) -> History:
    """Yield that many events, the same every time, of orders that take turns by chance."""
    chance = random.Random(count)
    orders: list[tuple[UUID, Iterator[Event]]] = []
    placed = done = 0
    while done < count:
        while len(orders) < _OPEN_ORDERS:
            orders.append((UUID(int=chance.getrandbits(128), version=4), _order(chance, placed)))
            placed += 1
        index = chance.randrange(len(orders))
        aggregate_id, events = orders[index]
        event = next(events, None)
        if event is None:
            orders[index] = orders[-1]
            orders.pop()
        else:
            done += 1
            yield aggregate_id, event, _BEGIN + timedelta(milliseconds=done * 731)


def _order(chance: random.Random, number: int) -> Iterator[Event]:
    lines = [_line(chance, index) for index in range(chance.randrange(1, 5))]
    skus, lines_so_far = [line.sku for line in lines], len(lines)
    day = _FIRST_DAY + timedelta(days=chance.randrange(600))
    yield OrderPlaced(
        customer=f"Customer {number}",
        email=f"c{number}@example.com",
        currency=chance.choice(list(Currency)),
        lines=lines,
        address=_address(chance),
        ship_by=day + timedelta(days=9) if chance.random() < 0.5 else None,
        tags=[chance.choice(_WORDS) for _ in range(chance.randrange(3))],
    )
    for _ in range(chance.randrange(2, 14)):
        what = chance.random()
        if what < 0.15:
            line = _line(chance, lines_so_far)
            lines_so_far += 1
            skus.append(line.sku)
            yield LineAdded(line=line)
        elif what < 0.22 and len(skus) > 1:
            yield LineRemoved(sku=skus.pop(chance.randrange(len(skus))))
        elif what < 0.40:
            yield QuantityChanged(sku=chance.choice(skus), quantity=chance.randrange(1, 9))
        elif what < 0.70:
            yield PaymentReceived(amount=_money(chance, 50_000), method=_method(chance), paid_on=day)
        elif what < 0.75:
            yield PaymentRefunded(amount=_money(chance, 5_000), method=_method(chance), paid_on=day)
        elif what < 0.85:
            yield AddressChanged(address=_address(chance))
        else:
            yield TagAdded(tag=chance.choice(_WORDS))
    ending = chance.random()
    if ending < 0.1:
        yield OrderCancelled(reason="changed my mind")
    elif ending < 0.8:
        yield OrderShipped(carrier="DHL", shipped_on=day + timedelta(days=3), tracking=f"T{number:09}")


def _line(chance: random.Random, index: int) -> OrderLine:
    return OrderLine(
        # No order has one twice.
        sku=f"SKU-{index:03}-{chance.randrange(1000):03}",
        title=f"{chance.choice(_WORDS)} {chance.choice(_WORDS)}",
        quantity=chance.randrange(1, 6),
        unit_price=_money(chance, 20_000),
    )


def _address(chance: random.Random) -> Address:
    return Address(
        street=f"{chance.choice(_WORDS).title()} street {chance.randrange(200)}",
        zip=f"{chance.randrange(10_000):04} AB",
        city=chance.choice(_CITIES),
    )


def _money(chance: random.Random, most_cents: int) -> Decimal:
    return Decimal(chance.randrange(100, most_cents)) / 100


def _method(chance: random.Random) -> PaymentMethod:
    return chance.choice(list(PaymentMethod))
