"""What the bank's tables must hold, computed by PostgreSQL from the payloads alone, and how they differ from that.

No projector, record or persistor takes part. Expected and found rows are compared whole, column by column, in both directions.
"""

from __future__ import annotations

from psycopg import Connection, sql

from sequent_py.demo.reports import Comparison

EXAMPLES = 5

_MOVES = """
    SELECT e.aggregate_id, e.sequence_number, e.created_at, t.name AS type_name, e.payload,
           CASE WHEN t.name IN ('MoneyDeposited', 'TransferReceived') THEN (e.payload->>'amount')::bigint
                WHEN t.name IN ('MoneyWithdrawn', 'TransferSent') THEN -(e.payload->>'amount')::bigint
                ELSE 0 END AS amount
    FROM {events} e JOIN {event_types} t ON t.id = e.event_type_id
"""

_ACCOUNTS = """
    SELECT aggregate_id,
           min(payload->>'owner') FILTER (WHERE type_name = 'AccountOpened') AS owner,
           min(payload->>'currency') FILTER (WHERE type_name = 'AccountOpened') AS currency,
           sum(amount)::bigint AS balance,
           (count(*) FILTER (WHERE type_name NOT IN ('AccountOpened', 'AccountClosed')))::integer AS transactions,
           CASE WHEN bool_or(type_name = 'AccountClosed') THEN 'closed' ELSE 'open' END AS status,
           min(created_at) AS opened_at,
           (array_agg(created_at ORDER BY sequence_number DESC))[1] AS updated_at
    FROM moves GROUP BY aggregate_id
"""

_STATEMENTS = """
    SELECT aggregate_id, sequence_number,
           CASE type_name WHEN 'AccountOpened' THEN 'opened' WHEN 'MoneyDeposited' THEN 'deposit'
                WHEN 'MoneyWithdrawn' THEN 'withdrawal' WHEN 'AccountClosed' THEN 'closed' ELSE 'transfer' END AS kind,
           amount,
           (sum(amount) OVER (PARTITION BY aggregate_id ORDER BY sequence_number))::bigint AS balance,
           coalesce(payload->>'to_account', payload->>'from_account')::uuid AS other_account,
           created_at AS booked_at
    FROM moves
"""

_COMPARE = """
    WITH moves AS MATERIALIZED ({moves}),
         expected AS MATERIALIZED ({expected}),
         found AS MATERIALIZED (SELECT {columns} FROM {table}),
         differing AS MATERIALIZED (
             (SELECT 'expected' AS side, d::text AS what FROM (TABLE expected EXCEPT ALL TABLE found) d)
             UNION ALL
             (SELECT 'found', d::text FROM (TABLE found EXCEPT ALL TABLE expected) d))
    SELECT (SELECT count(*) FROM expected), (SELECT count(*) FROM found), (SELECT count(*) FROM differing),
           ARRAY(SELECT side || ' ' || what FROM differing ORDER BY what, side LIMIT {examples})
"""


def check_bank(connection: Connection, event_store_schema: str, view_schema: str) -> tuple[Comparison, ...]:
    """Compare every account and every statement line with the events; one statement, and so one snapshot, for each."""
    return tuple(
        _compare(connection, event_store_schema, view_schema, table, expected, columns)
        for table, expected, columns in (
            (
                "account_records",
                _ACCOUNTS,
                "aggregate_id owner currency balance transactions status opened_at updated_at",
            ),
            (
                "statement_records",
                _STATEMENTS,
                "aggregate_id sequence_number kind amount balance other_account booked_at",
            ),
        )
    )


def _compare(
    connection: Connection, event_store_schema: str, view_schema: str, table: str, expected: str, columns: str
) -> Comparison:
    moves = sql.SQL(_MOVES).format(
        events=sql.Identifier(event_store_schema, "events"),
        event_types=sql.Identifier(event_store_schema, "event_types"),
    )
    statement = sql.SQL(_COMPARE).format(
        moves=moves,
        expected=sql.SQL(expected),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns.split())),
        table=sql.Identifier(view_schema, table),
        examples=sql.Literal(EXAMPLES),
    )
    row = connection.execute(statement).fetchone()
    assert row is not None
    expected_rows, found_rows, differences, examples = row
    return Comparison(f"{table} against SQL", max(expected_rows, found_rows), differences, tuple(examples))
