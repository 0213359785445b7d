"""The trial: proves that a plan's files work before anything is written.

Everything happens in one transaction that is always rolled back, under a short lock timeout, and tried again where that passes:

1. in a scratch schema, the files under plain names, and beside them under suffixed ones: a name without ``%SUFFIX%`` clashes here;
2. the suffixed objects are renamed to the plain names, and must then be defined exactly as the plain run defined them. That is what the
   swap will do, and the proof that ``pg_dump`` will not tell a swapped table from a fresh one;
3. alter files, on an empty copy of the live table, which must then have the columns, constraints and indexes of the table's own files;
4. in the view schema, the files under suffixed names, beside the tables that serve: names that are taken show here.

The live tables are only read. A file that names a live table without a suffix (a foreign key) locks it for these milliseconds.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import errors

from sequent_py.errors import TableFileError
from sequent_py.names import NAME_LIMIT_BYTES
from sequent_py.persistors.tables import ReflectedColumn, column_mismatches, reflect_columns
from sequent_py.records import RecordShape
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.ddl.alter_trial import UNDEFINED, AlterScript, prove_alters
from sequent_py.view_schema.ddl.file_runs import (
    Created,
    pairs_of,
    plain_renames,
    rolled_back,
    run_files,
    sharable,
)
from sequent_py.view_schema.ddl.outlines import read_outline
from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.tables import catalog, prepared
from sequent_py.view_schema.tables.blueprints import (
    ON_TABLE_KINDS,
    Key,
    Pair,
    TableBlueprint,
    object_names,
)
from sequent_py.view_schema.tables.outside_tables import OutsideTable, outside_tables
from sequent_py.view_schema.tables.renames import Rename, rename_all
from sequent_py.view_schema.tables.script import lock_timeout
from sequent_py.view_schema.tables.short_tries import in_short_tries

__all__ = ["AlterScript", "TrialResult", "trial"]

Connection = psycopg.Connection[Any]

DUPLICATE = (errors.DuplicateTable, errors.DuplicateObject, errors.DuplicateFunction)
"""What a file runs into when a name is taken."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial found out."""

    blueprints: Mapping[str, TableBlueprint]
    """Of each table to replay, by plain name, keys and indexes included."""
    columns: Mapping[str, tuple[ReflectedColumn, ...]]
    """Of each table to replay or alter."""
    fingerprint: str
    """Of all definitions under plain names."""
    outside: tuple[OutsideTable, ...] = ()
    """What the tables to replay refer to and that stays."""


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
        An alter file leads to other columns, constraints or indexes than the table's own files.
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

    def attempt(lock_timeout_seconds: float) -> TrialResult:
        return _attempt(connection, view_schema, replays, alters, suffix, altered, live, lock_timeout_seconds)

    # It looks into the catalog after each of some twenty runs of files.
    with prepared.keeping_plans(connection):
        return in_short_tries(connection, attempt, seconds=lock_timeout_seconds)


def _attempt(
    connection: Connection,
    view_schema: str,
    replays: Sequence[tuple[RecordShape, TableFiles]],
    alters: Sequence[AlterScript],
    suffix: str,
    altered: Mapping[str, TableFiles],
    live: Mapping[str, TableBlueprint],
    lock_timeout_seconds: float,
) -> TrialResult:
    files = [item for _, item in replays]
    with connection.transaction(force_rollback=True), lock_timeout(connection, lock_timeout_seconds):
        scratch = f"sequent_trial_{uuid.uuid4().hex}"
        catalog.ensure_schema(connection, scratch)
        catalog.ensure_schema(connection, view_schema)
        attempt = Scratch(connection, scratch, view_schema)
        attempt.choose_search_path(files, suffix)
        with rolled_back(connection):
            plain = attempt.run([*files, *altered.values()], "")
            defined = {
                table: catalog.definitions(connection, scratch, objects) for table, objects in plain.items()
            }
            columns = {table: reflect_columns(connection, scratch, table) for table in plain}
            newest = {table: read_outline(connection, scratch, view_schema, table) for table in altered}
            attempt.prove_renames(files, suffix, plain, defined)
            tables = {
                table: [item.name for item in objects if item.kind == "table"]
                for table, objects in plain.items()
            }
            outside = outside_tables(
                connection,
                scratch,
                leaving=[name for item in files for name in tables[item.table]],
                replaced=[name for names in tables.values() for name in names],
                managed=(),
                suspended=(),
            )
        _refuse_mismatches([*replays, *((item.shape, item.files) for item in alters)], columns)
        for table in altered:
            if catalog.attached_objects(connection, view_schema, [table]):
                scripts = [item for item in alters if item.files.table == table]
                blueprint = live.get(table, TableBlueprint(table, table, ()))
                prove_alters(
                    connection, blueprint, scripts, newest[table], scratch=scratch, view_schema=view_schema
                )
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
    return TrialResult(blueprints, columns, catalog.fingerprint(overall), tuple(outside))


class Scratch:
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
            if not isinstance(error.__cause__, UNDEFINED):
                raise
            self.schemas = (self._schema, self._view_schema, "public")
            self._find_shared(files, suffix)

    def _find_shared(self, files: Sequence[TableFiles], suffix: str) -> None:
        with rolled_back(self._connection):
            plain = sharable(self.run(files, ""))
        with rolled_back(self._connection):
            self.shared = plain & sharable(self.run(files, suffix))

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
            if not isinstance(error.__cause__, DUPLICATE):
                raise
            raise TableFileError(
                f"{error.message} The name has no {table_files.PLACEHOLDER}, so the new table cannot stand beside the one that serves.",
                remedy=f"Put {table_files.PLACEHOLDER} after it.",
            ) from error
        pairs = {
            item.table: pairs_of(item, plain[item.table], suffixed[item.table], self.shared) for item in files
        }
        flat = [pair for item in pairs.values() for pair in item]
        parked = [
            Rename(left.kind, left.table, left.name, f"sequent_parked_{number}")
            for number, (left, _) in enumerate(flat)
            if left.kind not in ON_TABLE_KINDS or left.kind == "key"
        ]
        try:
            rename_all(self._connection, self._schema, [*parked, *plain_renames(flat)])
        except (errors.ProgrammingError, errors.NotSupportedError) as error:
            tables = ", ".join(item.table for item in files)
            raise TableFileError(
                f"What the files of {tables} create cannot be renamed: {error.diag.message_primary}.",
                remedy="Name it as PostgreSQL would, or create it otherwise: partitions with PARTITION OF, for example.",
            ) from error
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
            if not isinstance(error.__cause__, DUPLICATE):
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
        return {item.table: pairs_of(item, plain[item.table], created[item.table], shared) for item in files}


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
