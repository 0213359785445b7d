"""The shop workload: what applications have beside integers. Three tables of numeric, date, jsonb and array columns; rows that are created, updated and deleted."""

from __future__ import annotations

from pathlib import Path

from bench.workloads import History, ReadTable, Workload


def _history(count: int) -> History:
    from bench.workloads.shop.history import history

    return history(count)


# One aggregation for each row, and no joins of large parts: PostgreSQL knows nothing of how many rows JSON has, and would choose nested loops.
_LINES = """
    happened AS (
        SELECT e.aggregate_id, e.position, e.created_at, t.name AS type_name, e.payload
        FROM {events} e JOIN {event_types} t ON t.id = e.event_type_id
    ),
    changes AS (
        SELECT aggregate_id, position, line->>'sku' AS sku, line, (line->>'quantity')::integer AS quantity, false AS is_removed
        FROM happened CROSS JOIN LATERAL jsonb_array_elements(payload->'lines') AS line
        WHERE type_name = 'OrderPlaced'
        UNION ALL
        SELECT aggregate_id, position, payload->'line'->>'sku', payload->'line', (payload->'line'->>'quantity')::integer, false
        FROM happened WHERE type_name = 'LineAdded'
        UNION ALL
        SELECT aggregate_id, position, payload->>'sku', NULL, (payload->>'quantity')::integer, type_name = 'LineRemoved'
        FROM happened WHERE type_name IN ('QuantityChanged', 'LineRemoved')
    ),
    present AS (
        SELECT aggregate_id, sku, min(line->>'title') AS title,
               (array_agg(quantity ORDER BY position DESC))[1] AS quantity, min((line->>'unit_price')::numeric(10, 2)) AS unit_price
        FROM changes GROUP BY aggregate_id, sku HAVING NOT bool_or(is_removed)
    )
"""

_ORDERS = f"""
    WITH {_LINES},
    sums AS (SELECT aggregate_id, sum(quantity * unit_price) AS total, count(*)::integer AS line_count FROM present GROUP BY aggregate_id),
    orders AS (
        SELECT aggregate_id,
               (array_agg(payload) FILTER (WHERE type_name = 'OrderPlaced'))[1] AS placed,
               min(created_at) AS placed_at,
               max(created_at) FILTER (WHERE type_name <> 'OrderCancelled') AS updated_at,
               coalesce(sum(CASE type_name WHEN 'PaymentReceived' THEN (payload->>'amount')::numeric
                                           WHEN 'PaymentRefunded' THEN -(payload->>'amount')::numeric END), 0) AS paid,
               (array_agg(payload->'address' ORDER BY position DESC) FILTER (WHERE type_name IN ('OrderPlaced', 'AddressChanged')))[1] AS address,
               array_agg(payload->>'tag' ORDER BY position) FILTER (WHERE type_name = 'TagAdded') AS tags,
               max((payload->>'shipped_on')::date) FILTER (WHERE type_name = 'OrderShipped') AS shipped_on,
               bool_or(type_name = 'OrderCancelled') AS is_cancelled
        FROM happened GROUP BY aggregate_id
    )
    SELECT o.aggregate_id,
           placed->>'customer' AS customer,
           placed->>'email' AS email,
           CASE WHEN is_cancelled THEN 'cancelled' WHEN shipped_on IS NOT NULL THEN 'shipped' ELSE 'placed' END AS status,
           placed->>'currency' AS currency,
           total,
           paid,
           paid >= total AS is_paid,
           CASE WHEN is_cancelled THEN 0 ELSE line_count END AS line_count,
           (placed->>'ship_by')::date AS ship_by,
           shipped_on,
           address,
           ARRAY(SELECT jsonb_array_elements_text(placed->'tags')) || coalesce(o.tags, ARRAY[]::text[]) AS tags,
           placed_at,
           updated_at
    FROM orders o JOIN sums USING (aggregate_id)
"""  # noqa: S608

_ORDER_LINES = f"""
    WITH {_LINES}
    SELECT aggregate_id, sku, title, quantity, unit_price, quantity * unit_price AS amount
    FROM present WHERE aggregate_id NOT IN (SELECT aggregate_id FROM happened WHERE type_name = 'OrderCancelled')
"""  # noqa: S608

_PAYMENTS = """
    SELECT e.aggregate_id,
           CASE t.name WHEN 'PaymentReceived' THEN (e.payload->>'amount')::numeric ELSE -(e.payload->>'amount')::numeric END AS amount,
           e.payload->>'method' AS method,
           (e.payload->>'paid_on')::date AS paid_on
    FROM {events} e JOIN {event_types} t ON t.id = e.event_type_id
    WHERE t.name IN ('PaymentReceived', 'PaymentRefunded')
"""

SHOP = Workload(
    "shop",
    "orders, their lines and payments: numeric, dates, jsonb, arrays; rows that are created, updated and deleted",
    "bench.workloads.shop.app:ShopMigrations",
    Path(__file__).parent / "sql",
    _history,
    (
        ReadTable(
            "order_records",
            (
                *("aggregate_id", "customer", "email", "status", "currency", "total", "paid", "is_paid"),
                *("line_count", "ship_by", "shipped_on", "address", "tags", "placed_at", "updated_at"),
            ),
            _ORDERS,
        ),
        ReadTable(
            "order_line_records",
            ("aggregate_id", "sku", "title", "quantity", "unit_price", "amount"),
            _ORDER_LINES,
        ),
        ReadTable("payment_records", ("aggregate_id", "amount", "method", "paid_on"), _PAYMENTS),
    ),
)
