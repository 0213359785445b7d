"""The shop with declared projections; its rows are the same."""

from __future__ import annotations

from typing import Any

from picky import PickyOrderRecord
from shop import LineAdded, LineProjector, LineRecord, OrderCancelled, OrderPlaced, OrderRecord

from sequent_py import Migrations, TableProjection, upcaster
from sequent_py.declared import count, delete, delete_all, field, increment, insert, update


class OrderTable(TableProjection):
    table = OrderRecord
    on_event = {
        OrderPlaced: insert(
            customer=field("customer"),
            total=0,
            lines=0,
            updated_at=field("created_at"),
            sequence_number=field("sequence_number"),
        ),
        LineAdded: update(total=increment(field("cents")), lines=count()),
        OrderCancelled: delete(),
    }


class LineTable(TableProjection):
    table = LineRecord
    key = {"number": field("sequence_number")}
    on_event = {
        LineAdded: insert(product=field("product"), cents=field("cents")),
        OrderCancelled: delete_all(),
    }


class KeptOrderTable(TableProjection):
    """Orders of a shop where nobody cancels: nothing that only SQL can do."""

    table = OrderRecord
    on_event = {cls: rule for cls, rule in OrderTable.on_event.items() if cls is not OrderCancelled}


class KeptLineTable(TableProjection):
    table = LineRecord
    key = LineTable.key
    on_event = {LineAdded: LineTable.on_event[LineAdded]}


class KeptShop(Migrations):
    version = 1
    versions = {1: [KeptOrderTable, KeptLineTable]}


class DeclaredShop1(Migrations):
    version = 1
    versions = {1: [OrderTable, LineTable]}


class DeclaredShop2(Migrations):
    version = 2
    versions = {1: [OrderTable, LineTable], 2: [OrderTable, LineTable]}


class MixedShop(Migrations):
    version = 1
    versions = {1: [OrderTable, LineProjector]}


class OrderReplaced(OrderPlaced):
    @upcaster
    @staticmethod
    def named(payload: dict[str, Any]) -> dict[str, Any]:
        return payload


class UpcastTable(TableProjection):
    table = OrderRecord
    on_event = {**OrderTable.on_event, OrderReplaced: delete()}


class UpcastShop(Migrations):
    version = 1
    versions = {1: [UpcastTable, LineTable]}


class PickyOrderTable(TableProjection):
    table = PickyOrderRecord
    on_event = {
        OrderPlaced: insert(
            customer=field("customer"),
            total=0,
            lines=0,
            phone="112",
            updated_at=field("created_at"),
            sequence_number=field("sequence_number"),
        ),
        LineAdded: update(total=increment(field("cents")), lines=count()),
        OrderCancelled: delete(),
    }


class DeclaredPickyShop(Migrations):
    version = 1
    versions = {1: [PickyOrderTable, LineTable]}


class KeptPickyOrderTable(TableProjection):
    table = PickyOrderRecord
    on_event = {cls: rule for cls, rule in PickyOrderTable.on_event.items() if cls is not OrderCancelled}


class KeptPickyShop(Migrations):
    version = 1
    versions = {1: [KeptPickyOrderTable, KeptLineTable]}
