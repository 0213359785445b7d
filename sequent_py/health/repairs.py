"""Repairs: keys, indexes and triggers of the store, made again as the migrations make them.

Each repair is small and can be run again after a crash. Indexes of ``events`` are built partition by partition with CREATE INDEX CONCURRENTLY,
which lets writers go on and waits for transactions that are older than it; then they are attached to the index of the parent, which takes
a short lock. Everything else takes SHARE ROW EXCLUSIVE on one table, or ACCESS EXCLUSIVE for a key, for milliseconds, and gives up after
:data:`LOCK_TIMEOUT`. Nothing is dropped but a trigger of ours that does something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.errors import MigrationError
from sequent_py.health.store_objects import REPAIRABLE, Divergence, StoreObject
from sequent_py.health.store_tables import EVENT_TABLES

Connection = psycopg.Connection[Any]

LOCK_TIMEOUT = "5s"
CONCURRENT_LOCK_TIMEOUT = "60s"
"""How long an index build waits for each transaction that is older than it."""
_PARTITIONS = EVENT_TABLES[1:]


def repair_objects(
    connection: Connection, schema: str, found: Sequence[Divergence], note: Callable[[str], None]
) -> list[str]:
    """Mend what can be mended, and return what was done; needs an autocommit connection of the store's owner.

    Raises
    ------
    MigrationError
        A lock was not to be had, or the rows do not allow a key. What was done before stays done.
    """
    done: list[str] = []
    with _searching(connection, schema):
        # Partitions first: the parent's index and key are attached to theirs.
        for item in sorted(found, key=lambda it: (it.expected.kind, it.expected.table not in _PARTITIONS)):
            expected = item.expected
            if expected.kind not in REPAIRABLE:
                continue
            note(f"mending the {expected.kind} {expected.name} on {expected.table}")
            try:
                if expected.kind == "trigger":
                    _mend_trigger(connection, item)
                elif expected.kind == "index":
                    _mend_index(connection, item)
                else:
                    _mend_key(connection, item)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.UniqueViolation) as error:
                raise MigrationError(
                    f"The {expected.kind} {expected.name} on {expected.table} could not be mended: {error.diag.message_primary}."
                    f" {error.diag.message_detail or ''}".rstrip(),
                    remedy="What was mended before stays. Try again when fewer transactions are open: sequent doctor --repair"
                    if isinstance(error, psycopg.errors.LockNotAvailable)
                    else "Remove the duplicate, then run: sequent doctor --repair",
                ) from error
            done.append(f"{expected.kind} {expected.name} on {expected.table}")
    return done


def _mend_trigger(connection: Connection, item: Divergence) -> None:
    expected = item.expected
    table, name = sql.Identifier(expected.table), sql.Identifier(expected.name)
    with connection.transaction():
        if item.found is not None and item.found.definition != expected.definition:
            connection.execute(sql.SQL("DROP TRIGGER {} ON {}").format(name, table))
        if item.found is None or item.found.definition != expected.definition:
            connection.execute(_trusted(expected.definition))
        always = sql.SQL("ALWAYS " if expected.state == "A" else "")
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE {}TRIGGER {}").format(table, always, name))


def _mend_index(connection: Connection, item: Divergence) -> None:
    expected = item.expected
    if expected.table in _PARTITIONS:
        name = item.found.name if item.found is not None else expected.name
        _build_concurrently(connection, expected.table, name, _target(expected), is_unique=False)
        if item.found is None:
            _attach(connection, expected)
    elif expected.table == "events":
        with connection.transaction():
            connection.execute(
                sql.SQL("CREATE INDEX IF NOT EXISTS {} ON ONLY events {}").format(
                    sql.Identifier(expected.name), _target(expected)
                )
            )
        for partition in _PARTITIONS:
            _attach_equal(connection, expected, partition)
    else:
        connection.execute(
            _trusted(expected.definition.replace(" ON ", f" {_quoted(connection, expected.name)} ON ", 1))
        )


def _mend_key(connection: Connection, item: Divergence) -> None:
    expected = item.expected
    table, name = sql.Identifier(expected.table), sql.Identifier(expected.name)
    if expected.table in _PARTITIONS:
        columns = _trusted(expected.definition.removeprefix("PRIMARY KEY").removeprefix("UNIQUE"))
        _build_concurrently(connection, expected.table, expected.name, columns, is_unique=True)
        kind = _trusted(expected.definition.partition(" (")[0])
        with connection.transaction():
            connection.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} USING INDEX {}").format(table, name, kind, name)
            )
            _attach(connection, expected)
    elif expected.table == "events":
        with connection.transaction():
            connection.execute(
                sql.SQL("ALTER TABLE ONLY events ADD CONSTRAINT {} {}").format(
                    name, _trusted(expected.definition)
                )
            )
            for partition in _PARTITIONS:
                _attach_equal(connection, expected, partition)
    else:
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(table, name, _trusted(expected.definition))
        )


def _build_concurrently(
    connection: Connection, table: str, name: str, target: sql.Composable, *, is_unique: bool
) -> None:
    """Build an index beside writers; an invalid one, such as the ruin of an earlier try, is built anew."""
    row = connection.execute(
        "SELECT i.indisvalid FROM pg_catalog.pg_index i WHERE i.indexrelid = to_regclass(%s)",
        (_quoted(connection, name),),
    ).fetchone()
    if row is not None and row[0]:
        return
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (CONCURRENT_LOCK_TIMEOUT,))
    try:
        if row is not None:
            connection.execute(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(sql.Identifier(name)))
            return
        connection.execute(
            sql.SQL("CREATE {}INDEX CONCURRENTLY {} ON {} {}").format(
                sql.SQL("UNIQUE " if is_unique else ""), sql.Identifier(name), sql.Identifier(table), target
            )
        )
    finally:
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))


def _attach(connection: Connection, expected: StoreObject) -> None:
    """Attach a partition's index to its parent's, if that is there; if not, mending that one attaches all of them."""
    row = connection.execute(
        "SELECT to_regclass(%s) IS NOT NULL", (_quoted(connection, expected.parent),)
    ).fetchone()
    if row is not None and row[0]:
        connection.execute(
            sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
                sql.Identifier(expected.parent), sql.Identifier(expected.name)
            )
        )


def _attach_equal(connection: Connection, parent: StoreObject, partition: str) -> None:
    """Attach the index of a partition that is equal to the parent's and not attached to anything, whatever its name."""
    row = connection.execute(
        _EQUAL_INDEX, {"parent": _quoted(connection, parent.name), "partition": partition}
    ).fetchone()
    if row is not None:
        connection.execute(
            sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
                sql.Identifier(parent.name), sql.Identifier(row[0])
            )
        )


def _target(expected: StoreObject) -> sql.Composable:
    """Return what follows the table's name in an index's definition."""
    return _trusted("USING " + expected.definition.partition(" USING ")[2])


def _quoted(connection: Connection, name: str) -> str:
    return sql.Identifier(name).as_string(connection)


def _trusted(text: str) -> sql.SQL:
    """Take over what the server printed of a fresh installation."""
    return sql.SQL(text)


@contextmanager
def _searching(connection: Connection, schema: str) -> Iterator[None]:
    rows = connection.execute(
        "SELECT current_setting('search_path'), current_setting('lock_timeout')"
    ).fetchone()
    assert rows is not None
    path = sql.SQL("{}, pg_catalog").format(sql.Identifier(schema)).as_string(connection)
    query = "SELECT set_config('search_path', %s, false), set_config('lock_timeout', %s, false)"
    connection.execute(query, (path, LOCK_TIMEOUT))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(query, rows)


_EQUAL_INDEX = """
SELECT x.relname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_index p ON p.indexrelid = to_regclass(%(parent)s)
WHERE i.indrelid = to_regclass(%(partition)s) AND i.indkey = p.indkey AND i.indisunique = p.indisunique AND i.indisprimary = p.indisprimary
  AND i.indpred IS NULL AND i.indisvalid AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)
LIMIT 1
"""
