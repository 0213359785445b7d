"""The schema check: managed tables against a fresh create from their files.

The files run in a scratch schema, in a transaction that is rolled back, under the names that the tables have now; then columns (type, nullability, default,
generation, collation), constraints and indexes are compared as text, and where the texts differ, by what the server makes of them. What
the files create and the table lacks, or has otherwise, is a *failure*: code counts on it. What the table has beyond its files was made by
hand and is *information*: the swap carries such things over. Only a column that no row could be inserted without is a failure as well.

Foreign keys are compared on live tables only: shadow tables get them with the swap. Locked, for the milliseconds of the transaction, is
what a file refers to without a suffix.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from sequent_py.errors import TableFileError, VerificationFailed
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.ddl.alter_trial import UNDEFINED
from sequent_py.view_schema.ddl.file_runs import run_files
from sequent_py.view_schema.ddl.outlines import Outline, Part, mean_the_same, read_outline
from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.plans import ResolvedPlan
from sequent_py.view_schema.tables import catalog
from sequent_py.view_schema.tables.script import lock_timeout, searching
from sequent_py.view_schema.tables.short_tries import in_short_tries

Connection = psycopg.Connection[Any]


LOCK_TIMEOUT_SECONDS = 5.0
"""Nobody but those who lock what a file refers to waits behind it."""


@dataclass(frozen=True, slots=True)
class SchemaDifferences:
    """How one table differs from what its files create."""

    failures: tuple[str, ...] = ()
    made_by_hand: tuple[str, ...] = ()
    """What the table has beyond its files, and nothing minds."""


@dataclass(frozen=True, slots=True)
class _Shape:
    outline: Outline
    foreign_keys: Mapping[str, str] = field(default_factory=dict)


def compare_schemas(
    connection: Connection,
    *,
    view_schema: str,
    files: Sequence[TableFiles],
    suffix: str,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
) -> dict[str, SchemaDifferences]:
    """Compare the tables that the files made under ``suffix`` (empty: the live ones) with a fresh create, by plain name.

    Raises
    ------
    TableFileError
        A file does not work.
    psycopg.errors.LockNotAvailable
        A file refers to a table that somebody holds.
    """
    if not files:
        return {}

    def attempt(lock_timeout_seconds: float) -> dict[str, SchemaDifferences]:
        return _attempt(connection, view_schema, files, suffix, lock_timeout_seconds)

    return in_short_tries(connection, attempt, seconds=lock_timeout_seconds)


def _attempt(
    connection: Connection,
    view_schema: str,
    files: Sequence[TableFiles],
    suffix: str,
    lock_timeout_seconds: float,
) -> dict[str, SchemaDifferences]:
    scratch = f"sequent_verify_{uuid.uuid4().hex}"
    for search_path in ((scratch, "public"), (scratch, view_schema, "public")):
        try:
            with (
                connection.transaction(force_rollback=True),
                lock_timeout(connection, lock_timeout_seconds),
            ):
                catalog.ensure_schema(connection, scratch)
                run_files(
                    connection,
                    files,
                    suffix,
                    schema=scratch,
                    view_schema=view_schema,
                    search_path=search_path,
                )
                return {
                    item.table: _compare(connection, view_schema, scratch, item.table + suffix, suffix)
                    for item in files
                }
        except TableFileError as error:
            # The view schema is on the path only if the files need it: else a plain name could mean a live table.
            if not isinstance(error.__cause__, UNDEFINED) or len(search_path) == 3:
                raise
    raise AssertionError("the second search path returns or raises")


def require_schemas(differences: Mapping[str, SchemaDifferences], *, remedy: str) -> None:
    """Refuse tables that lack what their files create.

    Raises
    ------
    VerificationFailed
        Naming every difference.
    """
    failures = [f"{table}: {text}" for table, found in differences.items() for text in found.failures]
    if failures:
        raise VerificationFailed(
            f"Tables differ from what their files create: {'; '.join(failures)}.",
            remedy=remedy,
            differences=failures,
        )


def require_shadow_schemas(context: Context, connection: Connection, resolved: ResolvedPlan) -> None:
    """Refuse shadow tables that lack what their files create; takes some milliseconds per table.

    Raises
    ------
    VerificationFailed
        Naming every difference.
    """
    target_version = resolved.plan.target_version
    differences = compare_schemas(
        connection,
        view_schema=context.config.view_schema,
        files=[files for _, files in context.table_files(resolved)],
        suffix=f"_{target_version}",
        lock_timeout_seconds=context.config.lock_timeout_seconds or LOCK_TIMEOUT_SECONDS,
    )
    require_schemas(
        differences,
        remedy="Somebody changed the shadow tables. Begin anew: sequent migrate abort, sequent migrate online.",
    )


def _compare(
    connection: Connection, view_schema: str, scratch: str, table: str, suffix: str
) -> SchemaDifferences:
    found = _shape(connection, view_schema, view_schema, table, with_foreign_keys=not suffix)
    wanted = _shape(connection, scratch, view_schema, table, with_foreign_keys=not suffix)
    if not found.outline.columns:
        return SchemaDifferences((f"there is no table {table}",))
    failures: list[str] = []
    by_hand: list[str] = []
    for name, text in wanted.outline.columns.items():
        actual = found.outline.columns.get(name)
        if actual != text:
            failures.append(f"column {name}: {actual or 'missing'} instead of {text}")
    for name, text in found.outline.columns.items():
        if name not in wanted.outline.columns:
            is_in_the_way = "NOT NULL" in text and not any(
                word in text for word in ("DEFAULT", "GENERATED", "IDENTITY")
            )
            (failures if is_in_the_way else by_hand).append(f"column {name}: {text}, which no file creates")
    _compare_parts(connection, view_schema, scratch, table, found.outline, wanted.outline, failures, by_hand)
    for name, text in wanted.foreign_keys.items():
        if text not in found.foreign_keys.values():
            failures.append(
                f"foreign key {name}: {found.foreign_keys.get(name) or 'missing'} instead of {text}"
            )
    by_hand += [
        f"foreign key {name}: {text}, which no file creates"
        for name, text in found.foreign_keys.items()
        if text not in wanted.foreign_keys.values()
    ]
    return SchemaDifferences(tuple(failures), tuple(by_hand))


def _compare_parts(
    connection: Connection,
    view_schema: str,
    scratch: str,
    table: str,
    found: Outline,
    wanted: Outline,
    failures: list[str],
    by_hand: list[str],
) -> None:
    beyond = {part: text for part, text in found.parts.items() if part not in wanted.parts}
    for part, text in wanted.parts.items():
        kind, name = part
        actual = found.parts.get(part)
        if actual is None:
            # The same under another name does the same.
            twin = next(
                (
                    other
                    for other, definition in beyond.items()
                    if other[0] == kind and _nameless(other, definition) == _nameless(part, text)
                ),
                None,
            )
            if twin is None:
                failures.append(f"{kind} {name}: missing, should be {text}")
            else:
                del beyond[twin]
                by_hand.append(f"{kind} {name}: is called {twin[1]}")
        elif actual != text and not mean_the_same(
            connection, scratch, view_schema, table, part, (actual, text)
        ):
            failures.append(f"{kind} {name}: {actual} instead of {text}")
    by_hand += [f"{kind} {name}: {text}, which no file creates" for (kind, name), text in beyond.items()]


def _nameless(part: Part, definition: str) -> str:
    """Return an index's definition without its name; a constraint's has none."""
    if part[0] != "index":
        return definition
    head, _, rest = definition.partition(" ON ")
    words = head.split(" INDEX ", 1)[0]
    return f"{words} INDEX ON {rest}"


def _shape(
    connection: Connection, schema: str, view_schema: str, table: str, *, with_foreign_keys: bool
) -> _Shape:
    names = {"schema": schema, "table": table}
    outline = read_outline(connection, schema, view_schema, table)
    with searching(connection, (schema, view_schema)):
        sequences = connection.execute(_OWN_SEQUENCES, names).fetchall()
        foreign_keys = connection.execute(_FOREIGN_KEYS, names).fetchall() if with_foreign_keys else []
    columns = dict(outline.columns)
    for column, sequence in sequences:
        # Where its name had to be cut, it depends on what else is in the schema: beside the live table it gets another number.
        columns[column] = columns[column].replace(f"nextval({sequence}", "nextval(its own sequence")
    return _Shape(replace(outline, columns=columns), dict(foreign_keys))


_OWN_SEQUENCES = """
    SELECT a.attname, pg_catalog.quote_literal(d.objid::regclass::text) || '::regclass'
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_depend d
        ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = c.oid AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'a'
    JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s"""

_FOREIGN_KEYS = """
    SELECT k.conname::text, pg_catalog.pg_get_constraintdef(k.oid, true)
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND k.contype = 'f'"""
