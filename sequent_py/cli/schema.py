"""``sequent schema``: the migrations of ordinary tables, from numbered files.

What succeeds and has nothing to say prints nothing. The log of ``-E`` goes to standard output, as it is what was asked for; with ``--json``, where that holds
one document, to standard error.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psycopg
import sqlalchemy as sa
import sqlalchemy.exc
import typer
from sqlalchemy.pool import NullPool

from sequent_py.cli.blocks import Block, Facts, Items, Line, Tone
from sequent_py.cli.cut_over_options import LONGEST_SECONDS
from sequent_py.cli.invocation import Invocation, command
from sequent_py.config import Config
from sequent_py.database import connect_plainly
from sequent_py.roles.lacking import lacking_for_tables
from sequent_py.schema_migrations.connections import LOCK_TIMEOUT_SECONDS
from sequent_py.schema_migrations.files import list_names, near_misses
from sequent_py.schema_migrations.new_file import create_migration
from sequent_py.schema_migrations.plans import Plan
from sequent_py.schema_migrations.sql_log import SqlLog, Write

if TYPE_CHECKING:
    from sequent_py.schema_migrations.choice import Status

# The commands import what needs Alembic themselves: it takes a fifth of a second, which the other groups of commands need not wait.

NOT_CURRENT = 3

app = typer.Typer(help="Migrate ordinary tables, from numbered files.", rich_markup_mode=None)

DirectoryOption = Annotated[
    Path | None,
    typer.Option("--dir", "-m", help="Where the files are. Default: migrations, in the project's directory."),
]
DatabaseOption = Annotated[
    str | None, typer.Option("--database-url", help="Another database than the project's.")
]
VersionOption = Annotated[
    int | None,
    typer.Option("--target", "-M", help="The version to go to; 0 undoes all. Default: the latest."),
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="Go on although files are missing.")
]


@dataclass(frozen=True)
class _Place:
    """What a command works on."""

    engine: sa.Engine
    database_url: str
    directory: Path
    config: Config


@app.command("migrate")
@command
def migrate(
    invocation: Invocation,
    version: VersionOption = None,
    directory: DirectoryOption = None,
    echo: Annotated[bool, typer.Option("--echo", "-E", help="Print every statement, with its time.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log", "-l", help="Append every statement to this file, with its time.")
    ] = None,
    allow_missing: AllowMissingOption = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and run nothing.")] = False,
    lock_timeout: Annotated[
        float,
        typer.Option(
            min=0, max=LONGEST_SECONDS, help="Seconds that a statement may wait for a lock; 0 for no limit."
        ),
    ] = LOCK_TIMEOUT_SECONDS,
    database_url: DatabaseOption = None,
) -> None:
    """Apply the migrations that are pending, or go to a version.

    Each migration and the record of it are one transaction, unless its file says transaction = False. If one fails, those before it stay
    applied, and the next run goes on from there. Prints nothing if all is well.

    \b
    Undo everything: sequent schema migrate -M 0
    See first:       sequent schema migrate --plan
    """
    from sequent_py.schema_migrations.choice import migrator_for

    with _place(invocation, database_url, directory) as place, _log(invocation, echo, log_file) as log:
        migrator = migrator_for(
            place.engine,
            place.directory,
            allow_missing_migration_files=allow_missing,
            lock_timeout_seconds=lock_timeout,
            log=log,
        )
        _warn_of_near_misses(invocation, place.directory)
        if plan:
            invocation.report(migrator.plan(version), _describe_plan)
            return
        with _naming_the_file(invocation, place.directory):
            done = migrator.migrate(version)
    if invocation.output.is_json:
        invocation.report(done, _describe_plan)


@app.command("status")
@command
def status(
    invocation: Invocation,
    directory: DirectoryOption = None,
    allow_missing: AllowMissingOption = False,
    database_url: DatabaseOption = None,
) -> None:
    """Show which migrations are applied and which are pending. Writes nothing."""
    from sequent_py.schema_migrations.choice import status as read_status

    with _place(invocation, database_url, directory) as place:
        found = read_status(place.engine, place.directory, allow_missing_migration_files=allow_missing)
    invocation.report(found, _describe_status)


@app.command("check")
@command
def check(
    invocation: Invocation,
    version: VersionOption = None,
    directory: DirectoryOption = None,
    allow_missing: AllowMissingOption = False,
    database_url: DatabaseOption = None,
) -> None:
    """Exit with 3 unless every migration is applied. Writes nothing; prints nothing if the database is current."""
    from sequent_py.schema_migrations.choice import migrator_for

    with _place(invocation, database_url, directory) as place:
        _warn_of_near_misses(invocation, place.directory)
        migrator = migrator_for(place.engine, place.directory, allow_missing_migration_files=allow_missing)
        is_current, plan = migrator.is_current(version), migrator.plan(version)
    if invocation.output.is_json or not is_current:
        invocation.report(plan, _describe_plan)
    if not is_current:
        raise typer.Exit(NOT_CURRENT)


@app.command("dump")
@command
def dump(
    invocation: Invocation,
    portable: Annotated[
        bool, typer.Option("-d", help="With the nearest types that other databases know.")
    ] = False,
    exact: Annotated[bool, typer.Option("-D", help="With PostgreSQL's own types.")] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Everything, as SQL from pg_dump; it has no way back.")
    ] = False,
    schema: Annotated[
        str | None, typer.Option(help="Another schema than the first of the search path (-d, -D).")
    ] = None,
    pg_dump: Annotated[Path | None, typer.Option(help="Which pg_dump to use (--sql).")] = None,
    database_url: DatabaseOption = None,
) -> None:
    """Print the database's tables as a migration.

    -d and -D write a reversible change, and name on standard error whatever they left out: views, functions, triggers and the like. To copy a
    schema within PostgreSQL prefer --sql, which leaves out nothing but the tracking tables and the schemas that sequent itself maintains.

    \b
    Start from an existing database: sequent schema dump -D > migrations/001_start.py
    """
    from sequent_py.schema_migrations.dumper import Dump, dump_tables
    from sequent_py.schema_migrations.sql_dump import dump_sql

    if [portable, exact, sql].count(True) != 1:
        raise typer.BadParameter("give one of -d, -D and --sql")
    with _place(invocation, database_url, None) as place:
        own = (place.config.event_store_schema, place.config.view_schema)
        if sql:
            text = dump_sql(place.database_url, pg_dump=pg_dump, skip_schemas=own)
            found = Dump(
                text, tuple(f"schema {name}: sequent maintains it" for name in _existing(place, own))
            )
        else:
            with place.engine.connect() as connection:
                found = dump_tables(
                    connection, types="exact" if exact else "portable", schema=schema, silent_schemas=own
                )
    if invocation.output.is_json:
        invocation.report(found, lambda _: ())
        return
    for line in found.left_out:
        invocation.output.note(f"left out: {line}")
    sys.stdout.write(found.text)


@app.command("new")
@command
def new(
    invocation: Invocation,
    name: Annotated[str, typer.Argument(help="What it does, in small letters: create_artists.")],
    directory: DirectoryOption = None,
    timestamp: Annotated[
        bool, typer.Option("--timestamp", help="Number it by the time, as all later ones will be.")
    ] = False,
) -> None:
    """Create the next migration file, and print its path."""
    target = directory or Config.load(invocation.project).project_directory / "migrations"
    path = create_migration(target, name, datetime.now(UTC), timestamp=timestamp)
    invocation.report(_New(path), lambda made: [Line(str(made.path))])


@dataclass(frozen=True)
class _New:
    """The file that was made."""

    path: Path


@contextmanager
def _place(invocation: Invocation, database_url: str | None, directory: Path | None) -> Iterator[_Place]:
    """Open the project's database, or the one that was named; migrations can import the project's modules."""
    with ExitStack() as resources:
        if database_url is None:
            sequent = resources.enter_context(invocation.application())
            config, database_url = sequent.config, sequent.database_url
        else:
            invocation.output.keep_secret(database_url)
            config = Config.load(invocation.project)
            if str(config.project_directory) not in sys.path:
                sys.path.insert(0, str(config.project_directory))
        url = database_url
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: _connect(url),
            poolclass=NullPool,
            use_native_hstore=False,
        )
        with _naming_the_role(url, config.event_store_schema):
            yield _Place(engine, url, directory or config.project_directory / "migrations", config)


def _connect(url: str) -> psycopg.Connection:
    """Open a connection as the login has it set up: search path, role and time limits are its own."""
    connection = connect_plainly(url, application_name="sequent schema")
    connection.autocommit = False
    return connection


@contextmanager
def _naming_the_role(url: str, event_store_schema: str) -> Iterator[None]:
    """Say of a login that may not change ordinary tables, or not read the record of their migrations, whom it has to work as."""
    try:
        yield
    except sqlalchemy.exc.DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        with connect_plainly(url, application_name="sequent schema") as connection:
            raise lacking_for_tables(connection, event_store_schema, error.orig) from error


def _existing(place: _Place, schemas: Sequence[str]) -> list[str]:
    with place.engine.connect() as connection:
        return [name for name in schemas if sa.inspect(connection).has_schema(name)]


@contextmanager
def _log(invocation: Invocation, echo: bool, log_file: Path | None) -> Iterator[SqlLog]:
    with ExitStack() as resources:
        writers: list[Write] = []
        if echo:
            writers.append((sys.stderr if invocation.output.is_json else sys.stdout).write)
        if log_file is not None:
            # Opened before anything is applied, and a line is there when the next statement runs.
            file = resources.enter_context(log_file.open("a", encoding="utf-8", buffering=1))
            writers.append(file.write)
        yield SqlLog(writers)


def _warn_of_near_misses(invocation: Invocation, directory: Path) -> None:
    if others := near_misses(list_names(directory)):
        invocation.output.note(
            f"Ignored, as they are not named like 001_create_artists.py: {', '.join(others)}"
        )


@contextmanager
def _naming_the_file(invocation: Invocation, directory: Path) -> Iterator[None]:
    """Say which line of which migration failed: the error itself is the database's, or whatever the migration raised."""
    try:
        yield
    except Exception as error:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if Path(frame.filename).resolve().parent == directory.resolve():
                invocation.output.note(f"Failed in {frame.filename}, line {frame.lineno}.")
                break
        raise


def _describe_plan(plan: Plan) -> Iterator[Block]:
    if not plan.steps:
        yield Line("Nothing to do.", Tone.GOOD)
    yield from _items("To be recorded as applied:", [file.name for file in plan.converted])
    yield from _items("To be run:", [f"{step.file.name} {step.direction}" for step in plan.steps])


def _describe_status(found: Status) -> Iterator[Block]:
    version = None if found.version is None else f"{found.version} of {found.latest}"
    yield Facts({"directory": str(found.directory), "version": version})
    yield from _items("Applied:", found.applied)
    yield from _items("Pending:", found.pending, Tone.WARNING)
    yield from _items(
        "Ignored, as they are not named like 001_create_artists.py:", found.ignored, Tone.WARNING
    )
    if found.is_current:
        yield Line("Current.", Tone.GOOD)
    else:
        yield Items("Next:", ("sequent schema migrate",))


def _items(title: str, items: Sequence[str], tone: Tone = Tone.PLAIN) -> Iterator[Block]:
    if items:
        yield Items(title, items, tone)
