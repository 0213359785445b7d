"""Schema migrations: versioned files for ordinary tables, after the model of Ruby's Sequel.

A directory of Python files is brought to a database one file at a time, up or down, and the database remembers how far it is. Projections are not
migrated this way; they are rebuilt. The event store's own schema is (:mod:`.event_store`).

::

    files        names and modules of migration files                          (pure but for loading)
    plans        what a run will do, from names and the recorded state         (pure)
    operations   ``op``: Alembic's operations and Sequel's verbs
    alter_table    the verbs for one table
    ddl            the operations that Alembic lacks
    reversal     ``change`` run backwards: only what is listed there           (pure)
    tracking     owns ``schema_info`` and ``schema_migrations``
    connections  the one connection of a run, its transactions, its lock
    migrator     the order of a run; integer and timestamp: its two kinds
    choice       which of the two a directory asks for; run, is_current, status
    sql_log      each statement with its time
    dumper       tables as a migration; dump_types, dump_parts, catalog serve it; sql_dump: by pg_dump

The database is authoritative for what has been applied, and says so in the transaction that applied it::

    files ──plan──▶ steps ──load all──▶ for each: BEGIN · block · version · COMMIT

Whatever fails, what is recorded is what is applied. Wrong files, names or numbers: nothing was created. A file that does not load: nothing was applied. A
migration that fails: those before it stay, it is undone, those after it were not tried. A death in between: the same. Only a migration that
opts out of its transaction can leave work that is not recorded. Two runs at once: the advisory lock lets one go on, the other is told. Questions
(:func:`is_current`, :func:`status`, plans) write nothing and take no lock.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sequent_py.schema_migrations.choice import (
        Status,
        check_current,
        is_current,
        migrator_class,
        migrator_for,
        run,
        run_single,
        status,
    )
    from sequent_py.schema_migrations.ddl import SQLType
    from sequent_py.schema_migrations.integer import IntegerMigrator
    from sequent_py.schema_migrations.timestamp import TimestampMigrator

_HOMES = {
    "IntegerMigrator": "integer",
    "SQLType": "ddl",
    "Status": "choice",
    "TimestampMigrator": "timestamp",
    "check_current": "choice",
    "is_current": "choice",
    "migrator_class": "choice",
    "migrator_for": "choice",
    "run": "choice",
    "run_single": "choice",
    "status": "choice",
}

__all__ = [
    "IntegerMigrator",
    "SQLType",
    "Status",
    "TimestampMigrator",
    "check_current",
    "is_current",
    "migrator_class",
    "migrator_for",
    "run",
    "run_single",
    "status",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: Alembic takes a fifth of a second, and most commands never migrate a schema.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
