"""The trial: proves that a plan's files work before anything is written.

Everything happens in one transaction that is always rolled back, under a short lock timeout:

1. in a scratch schema, the files under plain names, and beside them under suffixed ones: a name without ``%SUFFIX%`` clashes here;
2. the suffixed objects are renamed to the plain names, and must then be defined exactly as the plain run defined them. That is what the
   swap will do, and the proof that ``pg_dump`` will not tell a swapped table from a fresh one;
3. alter files, on an empty copy of the live table, which must then have the columns of the table file;
4. in the view schema, the files under suffixed names, beside the tables that serve: names that are taken show here.

The live tables are only read. A file that names a live table without a suffix (a foreign key) locks it for these milliseconds.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.config import NAME_LIMIT_BYTES
from sequent_py.errors import DefinitionError, TableFileError
from sequent_py.persistors.tables import ReflectedColumn, column_mismatches, reflect_columns
from sequent_py.records import RecordShape
from sequent_py.view_schema import catalog, table_files
from sequent_py.view_schema.blueprints import (
    ON_TABLE_KINDS,
    SHARABLE_KINDS,
    CatalogObject,
    Key,
    Pair,
    TableBlueprint,
    object_names,
    pair,
)
from sequent_py.view_schema.renames import Rename, rename_all
from sequent_py.view_schema.script import run_script, searching
from sequent_py.view_schema.table_files import TableFiles, with_suffix

Connection = psycopg.Connection[Any]
Created = dict[str, list[CatalogObject]]
"""What the files of each table created, by plain table name."""


@dataclass(frozen=True, slots=True)
class AlterScript:
    """One alter file of a plan."""

    shape: RecordShape
    version: int
    sql: str
    files: TableFiles
    """The table's own files, which have the shape that the alter must lead to."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial found out."""

    blueprints: Mapping[str, TableBlueprint]
    """Of each table to replay, by plain name, keys and indexes included."""
    columns: Mapping[str, tuple[ReflectedColumn, ...]]
    """Of each table to replay or alter."""
    fingerprint: str
    """Of all definitions under plain names."""


def trial(
    connection: Connection,
    *,
    view_schema: str,
    replays: Sequence[tuple[RecordShape, TableFiles]],
    alters: Sequence[AlterScript],
    target_version: int,
    live: Mapping[str, TableBlueprint],
    lock_timeout_seconds: float = 5.0,
) -> TrialResult:
    """Run a plan's files and roll everything back.

    ``live`` are the tables that serve, by plain name.

    Raises
    ------
    TableFileError
        A file does not work, or does something that the swap could not follow; names the file.
    DefinitionError
        An alter file leads to other columns than the table file.
    psycopg.errors.LockNotAvailable
        A file refers to a table that somebody holds.
    """
    suffix = f"_{target_version}"
    files = [item for _, item in replays]
    altered = {
        item.files.table: item.files for item in alters if item.files.table not in {f.table for f in files}
    }
    for item in files:
        _refuse_long_name(item.table, suffix)
    with connection.transaction(force_rollback=True):
        connection.execute(
            "SELECT set_config('lock_timeout', %s, true)", (f"{round(lock_timeout_seconds * 1000)}ms",)
        )
        scratch = f"sequent_trial_{uuid.uuid4().hex}"
        catalog.ensure_schema(connection, scratch)
        catalog.ensure_schema(connection, view_schema)
        attempt = _Scratch(connection, scratch, view_schema)
        attempt.choose_search_path(files, suffix)
        with rolled_back(connection):
            plain = attempt.run([*files, *altered.values()], "")
            defined = {
                table: catalog.definitions(connection, scratch, objects) for table, objects in plain.items()
            }
            columns = {table: reflect_columns(connection, scratch, table) for table in plain}
            compared = {table: _columns(connection, attempt.schemas, scratch, table) for table in altered}
            attempt.prove_renames(files, suffix, plain, defined)
        _refuse_mismatches([*replays, *((item.shape, item.files) for item in alters)], columns)
        for table in altered:
            scripts = sorted(
                (item for item in alters if item.files.table == table), key=lambda item: item.version
            )
            if catalog.attached_objects(connection, view_schema, [table]):
                attempt.prove_alters(table, scripts, compared[table])
        pairs = _in_view_schema(connection, view_schema, files, suffix, plain, attempt.shared)
        blueprints = {
            item.table: TableBlueprint(
                table=item.table,
                physical_name=item.table + suffix,
                names=object_names(pairs[item.table]),
                fingerprint=catalog.fingerprint(defined[item.table]),
            )
            for item in files
        }
        _refuse_taken_names(connection, view_schema, blueprints, live)
    overall = {key: value for table in defined.values() for key, value in table.items()}
    return TrialResult(blueprints, columns, catalog.fingerprint(overall))


class _Scratch:
    """The scratch schema of one trial."""

    def __init__(self, connection: Connection, schema: str, view_schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._view_schema = view_schema
        self.schemas: tuple[str, ...] = (schema, "public")
        self.shared: frozenset[tuple[str, str]] = frozenset()
        """Kind and name of what the files create without a suffix on purpose, for all generations."""

    def choose_search_path(self, files: Sequence[TableFiles], suffix: str) -> None:
        """Put the view schema on the search path only if the files need it: then a plain name in a file could mean a live table."""
        try:
            self._find_shared(files, suffix)
        except TableFileError as error:
            if not isinstance(error.__cause__, _UNDEFINED):
                raise
            self.schemas = (self._schema, self._view_schema, "public")
            self._find_shared(files, suffix)

    def _find_shared(self, files: Sequence[TableFiles], suffix: str) -> None:
        with rolled_back(self._connection):
            plain = _sharable(self.run(files, ""))
        with rolled_back(self._connection):
            self.shared = plain & _sharable(self.run(files, suffix))

    def run(self, files: Sequence[TableFiles], suffix: str) -> Created:
        """Run table files in the scratch schema."""
        return run_files(
            self._connection,
            files,
            suffix,
            schema=self._schema,
            view_schema=self._view_schema,
            search_path=self.schemas,
        )

    def prove_renames(
        self,
        files: Sequence[TableFiles],
        suffix: str,
        plain: Created,
        defined: Mapping[str, Mapping[Key, str]],
    ) -> None:
        """Run the files again beside the plain objects, put those away, rename, and compare.

        Raises
        ------
        TableFileError
            A name has no suffix, or something refers to a table without one.
        """
        try:
            suffixed = self.run(files, suffix)
        except TableFileError as error:
            if not isinstance(error.__cause__, _DUPLICATE):
                raise
            raise TableFileError(
                f"{error.message} The name has no {table_files.PLACEHOLDER}, so the new table cannot stand beside the one that serves.",
                remedy=f"Put {table_files.PLACEHOLDER} after it.",
            ) from error
        pairs = {
            item.table: _pairs(item, plain[item.table], suffixed[item.table], self.shared) for item in files
        }
        flat = [pair for item in pairs.values() for pair in item]
        parked = [
            Rename(left.kind, left.table, left.name, f"sequent_parked_{number}")
            for number, (left, _) in enumerate(flat)
            if left.kind not in ON_TABLE_KINDS or left.kind == "key"
        ]
        rename_all(self._connection, self._schema, [*parked, *plain_renames(flat)])
        for item in files:
            renamed = [replace(right, name=left.name, table=left.table) for left, right in pairs[item.table]]
            found = catalog.definitions(self._connection, self._schema, renamed)
            for key, definition in found.items():
                if definition != defined[item.table][key]:
                    kind, table, name = key
                    on = f" on {table}" if table else ""
                    raise TableFileError(
                        f"The files of {item.table}: the {kind} {name}{on} would differ after the swap from a freshly created one: "
                        f"{_first_difference(definition, defined[item.table][key])}.",
                        remedy=f"Put {table_files.PLACEHOLDER} after every name of a managed table that it mentions.",
                    )

    def prove_alters(self, table: str, scripts: Sequence[AlterScript], wanted: Mapping[str, str]) -> None:
        """Run a table's alter files on an empty copy of it, and compare its columns with the table file's.

        Raises
        ------
        DefinitionError
            They differ.
        """
        try:
            found = self._altered_columns(table, scripts)
        except TableFileError as error:
            if not isinstance(error.__cause__, _UNDEFINED) or self._view_schema in self.schemas:
                raise
            self.schemas = (self._schema, self._view_schema, "public")
            found = self._altered_columns(table, scripts)
        if found == wanted:
            return
        names = ", ".join(table_files.alter_file_name(table, item.version) for item in scripts)
        differences = "; ".join(
            f"{name}: {found.get(name, 'none')} after {names}, {wanted.get(name, 'none')} in {table_files.create_file_name(table)}"
            for name in dict.fromkeys((*wanted, *found))
            if found.get(name) != wanted.get(name)
        )
        raise DefinitionError(
            f"{names} and {table_files.create_file_name(table)} lead to different columns of {table}: {differences}.",
            remedy="A table file always describes the newest shape: make them agree.",
        )

    def _altered_columns(self, table: str, scripts: Sequence[AlterScript]) -> dict[str, str]:
        connection = self._connection
        with rolled_back(connection):
            before = catalog.take_inventory(connection, self._view_schema)
            self._copy(table)
            for item in scripts:
                source = table_files.alter_file_name(table, item.version)
                run_script(connection, item.sql, source=source, search_path=self.schemas)
                catalog.created_since(
                    connection, before, schema=self._schema, view_schema=self._view_schema, source=source
                )
            return _columns(connection, (self._schema, self._view_schema), self._schema, table)

    def _copy(self, table: str) -> None:
        """Create an empty copy of a live table, with the names that an alter file may mention."""
        connection = self._connection
        copy, live = sql.Identifier(self._schema, table), sql.Identifier(self._view_schema, table)
        connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(copy, live))
        originals = catalog.attached_objects(connection, self._view_schema, [table])
        copies = catalog.attached_objects(connection, self._schema, [table])
        renames = [
            Rename(kind, table if kind == "key" else "", right.name, left.name)
            for kind in ("key", "index", "statistics")
            for left, right in zip(_of_kind(originals, kind), _of_kind(copies, kind), strict=False)
        ]
        rename_all(connection, self._schema, renames)
        # LIKE leaves out foreign keys and triggers, and real ones would lock other tables: stand-ins that a file can drop do as well.
        for item in originals:
            if item.kind == "constraint" and item.detail == "f":
                statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK (true)")
                connection.execute(statement.format(copy, sql.Identifier(item.name)))
            if item.kind == "trigger":
                statement = sql.SQL(
                    "CREATE TRIGGER {} BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()"
                )
                connection.execute(statement.format(sql.Identifier(item.name), copy))


_UNDEFINED = (
    errors.UndefinedTable,
    errors.UndefinedObject,
    errors.UndefinedFunction,
    errors.InvalidForeignKey,
)
_DUPLICATE = (errors.DuplicateTable, errors.DuplicateObject, errors.DuplicateFunction)


def run_files(
    connection: Connection,
    files: Sequence[TableFiles],
    suffix: str,
    *,
    schema: str,
    view_schema: str,
    search_path: Sequence[str],
    with_indexes: bool = True,
) -> Created:
    """Run the create files and then the indexes files of tables, and return what each table's files created.

    Raises
    ------
    TableFileError
        A file fails, or does not create its table, or creates what a table file may not.
    """
    before = catalog.take_inventory(connection, view_schema)
    created: Created = {item.table: [] for item in files}
    seen: set[tuple[str, int]] = set()
    steps = [(item, table_files.create_file_name(item.table), item.create_sql) for item in files]
    if with_indexes:
        steps += [
            (item, table_files.indexes_file_name(item.table), item.indexes_sql)
            for item in files
            if item.indexes_sql is not None
        ]
    for item, source, text in steps:
        run_script(connection, with_suffix(text, suffix), source=source, search_path=search_path)
        found = catalog.created_since(
            connection, before, schema=schema, view_schema=view_schema, source=source
        )
        created[item.table] += [entry for entry in found if (entry.kind, entry.oid) not in seen]
        seen.update((entry.kind, entry.oid) for entry in found)
        _refuse_missing_table(created[item.table], item.table, suffix, source)
    return created


def plain_renames(pairs: Iterable[Pair]) -> list[Rename]:
    """Return what gives suffixed objects their plain names."""
    return [
        Rename(
            right.kind,
            right.table,
            right.name,
            left.name,
            source=left.source if left.source != right.source else None,
        )
        for left, right in pairs
    ]


@contextmanager
def rolled_back(connection: Connection) -> Iterator[None]:
    """Undo whatever happens inside."""
    with connection.transaction(force_rollback=True):
        yield


def _in_view_schema(
    connection: Connection,
    view_schema: str,
    files: Sequence[TableFiles],
    suffix: str,
    plain: Created,
    shared: Collection[tuple[str, str]],
) -> dict[str, list[Pair]]:
    """Run the suffixed files where they will be run in earnest, and pair what they create with the plain run's objects."""
    before = catalog.definitions(
        connection, view_schema, catalog.standing_objects(connection, view_schema, shared)
    )
    with rolled_back(connection):
        try:
            created = run_files(
                connection,
                files,
                suffix,
                schema=view_schema,
                view_schema=view_schema,
                search_path=(view_schema, "public"),
            )
        except TableFileError as error:
            if not isinstance(error.__cause__, _DUPLICATE):
                raise
            raise TableFileError(
                f"{error.message} What has that name in the schema {view_schema} is no part of a view migration.",
                remedy="Rename or drop it.",
            ) from error
        after = catalog.definitions(
            connection, view_schema, catalog.standing_objects(connection, view_schema, shared)
        )
        for (kind, _, name), definition in before.items():
            if after[kind, "", name] != definition:
                raise TableFileError(
                    f"The table files change the {kind} {name}, which the tables that serve use too: "
                    f"{_first_difference(after[kind, '', name], definition)}.",
                    remedy=f"Put {table_files.PLACEHOLDER} after its name.",
                )
        return {item.table: _pairs(item, plain[item.table], created[item.table], shared) for item in files}


def _pairs(
    files: TableFiles,
    plain: Sequence[CatalogObject],
    suffixed: Sequence[CatalogObject],
    shared: Collection[tuple[str, str]],
) -> list[Pair]:
    lefts = [item for item in plain if (item.kind, item.name) not in shared]
    rights = [item for item in suffixed if (item.kind, item.name) not in shared]
    pairs = pair(lefts, rights, f"The SQL of {files.table}")
    for left, right in pairs:
        if left.kind == "function" and [item.name for item in lefts].count(left.name) > 1:
            raise TableFileError(
                f"The SQL of {files.table} overloads the function {right.name}.", remedy="Rename one."
            )
    return pairs


def _sharable(created: Created) -> frozenset[tuple[str, str]]:
    return frozenset(
        (item.kind, item.name) for items in created.values() for item in items if item.kind in SHARABLE_KINDS
    )


def _of_kind(objects: Iterable[CatalogObject], kind: str) -> list[CatalogObject]:
    return [item for item in objects if item.kind == kind]


def _columns(connection: Connection, search_path: Sequence[str], schema: str, table: str) -> dict[str, str]:
    """Return a table's columns as one would write them; what is compared after an alter."""
    query = """
        SELECT a.attname, concat_ws(' ', pg_catalog.format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> y.typcollation THEN 'COLLATE ' || a.attcollation::regcollation::text END,
            CASE WHEN a.attnotnull THEN 'NOT NULL' END,
            CASE a.attgenerated WHEN '' THEN 'DEFAULT ' WHEN 's' THEN 'GENERATED STORED ' ELSE 'GENERATED VIRTUAL ' END
                || pg_catalog.pg_get_expr(e.adbin, e.adrelid),
            CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END)
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
        JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
        WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum"""
    with searching(connection, search_path):
        return dict(connection.execute(query, (schema, table)).fetchall())


def _first_difference(found: str, wanted: str) -> str:
    left, right = json.loads(found), json.loads(wanted)
    for key in right:
        if left.get(key) != right[key]:
            return f"{key}: {left.get(key)!r} instead of {right[key]!r}"
    return "it has more"


def _refuse_long_name(table: str, suffix: str) -> None:
    size = len((table + suffix).encode())
    if size > NAME_LIMIT_BYTES:
        raise TableFileError(
            f"The name {table}{suffix} is {size} bytes long; PostgreSQL cuts names at {NAME_LIMIT_BYTES}.",
            remedy=f"Shorten the name of {table}.",
        )


def _refuse_missing_table(created: Sequence[CatalogObject], table: str, suffix: str, source: str) -> None:
    if any(item.kind == "table" and item.name == table + suffix for item in created):
        return
    names = ", ".join(f"{item.kind} {item.name}" for item in created if item.table == "") or "nothing"
    raise TableFileError(
        f"{source} does not create the table {table}{suffix}; it creates {names}.",
        remedy=f"Write: CREATE TABLE {table}{table_files.PLACEHOLDER} (…)",
    )


def _refuse_mismatches(
    shapes: Iterable[tuple[RecordShape, TableFiles]], columns: Mapping[str, Sequence[ReflectedColumn]]
) -> None:
    by_table = {files.table: shape for shape, files in shapes}
    problems = [
        f"{table_files.create_file_name(table)}: {problem}"
        for table, shape in by_table.items()
        for problem in column_mismatches(shape, columns[table])
    ]
    if problems:
        raise TableFileError(
            f"Tables and records do not agree: {'; '.join(problems)}.",
            remedy="Correct the file or the record.",
        )


def _refuse_taken_names(
    connection: Connection,
    view_schema: str,
    blueprints: Mapping[str, TableBlueprint],
    live: Mapping[str, TableBlueprint],
) -> None:
    """Refuse plain names that belong to anything but the live table that gives them up."""
    for table in blueprints:
        if table not in live and catalog.attached_objects(connection, view_schema, [table]):
            raise TableFileError(
                f"The schema {view_schema} has a table {table} that no view migration made.",
                remedy="Rename or drop it.",
            )
    serving = [blueprint for table, blueprint in live.items() if table in blueprints]
    tables = [item.plain for blueprint in serving for item in blueprint.names if item.kind == "table"]
    given_up = {item.plain for blueprint in serving for item in blueprint.names}
    given_up |= {item.name for item in catalog.attached_objects(connection, view_schema, tables)}
    taken = catalog.taken_names(connection, view_schema) - given_up
    for blueprint in blueprints.values():
        for item in blueprint.names:
            if item.plain in taken and (
                item.kind not in (ON_TABLE_KINDS - {"key"}) and item.kind != "function"
            ):
                raise TableFileError(
                    f"The {item.kind} {item.name} of {blueprint.table} will be called {item.plain} once it serves, "
                    f"and something else in the schema {view_schema} has that name.",
                    remedy="Rename one of them.",
                )
