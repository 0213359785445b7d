"""What is wrong with an installation, and what to do about each finding: all checks of :mod:`sequent_py.health`, in the order of dependence.

Writes nothing that stays, and waits for no lock that a backup could block. How things stand is read as of one moment: a cut-over that commits meanwhile is no finding. A check that the present role may not make says so, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from sequent_py import database
from sequent_py.app import Sequent
from sequent_py.errors import LostTable, SequentError
from sequent_py.event_store.gate import Gate
from sequent_py.health import (
    code,
    coverage,
    coverage_findings,
    left_behind,
    lineage,
    privileges,
    server,
    store_objects,
    store_rows,
    tables,
)
from sequent_py.health.findings import Finding, Verdict, notice, ok, problem, worst
from sequent_py.health.store_tables import lost_tables
from sequent_py.progress import SILENT, Progress
from sequent_py.schema_migrations.event_store import event_store_version, latest_event_store_version
from sequent_py.view_schema.bookkeeping.moment import settled_moment
from sequent_py.view_schema.bookkeeping.versions import Versions
from sequent_py.view_schema.migrations import MigrationsDefinition, definition

__all__ = ["DoctorReport", "Finding", "Verdict", "examine"]

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class DoctorReport:
    """Everything that was looked at, in the order of dependence."""

    findings: tuple[Finding, ...]
    repaired: tuple[str, ...] = ()
    """What was mended before; empty where that was not asked for."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings' verdicts."""
        return worst(self.findings)


def examine(
    sequent: Sequent,
    *,
    reads_all_events: bool = False,
    repaired: tuple[str, ...] = (),
    progress: Progress = SILENT,
) -> DoctorReport:
    """Look at everything; ``reads_all_events`` decodes the whole log instead of a sample.

    Raises
    ------
    DatabaseUnavailable
        No server answers, or it is too old: nothing else can be looked at.
    """
    if not sequent.has_database:
        missing = "There is no embedded PostgreSQL yet, and no database_url is set."
        return DoctorReport((Finding("server", Verdict.PENDING, missing, "Run: sequent init"),))
    with database.connect_for_migration(
        sequent.database_url, application_name="sequent doctor"
    ) as connection:
        connection.execute("SET default_transaction_read_only = on")
        findings = [*server.check_server(connection)]
        store = _event_store(connection, sequent.config.event_store_schema)
        findings.append(store)
        if store.verdict is Verdict.OK:
            findings += _installed(connection, sequent, reads_all_events, progress)
    return DoctorReport(tuple(findings), repaired)


def _installed(
    connection: Connection, sequent: Sequent, reads_all_events: bool, progress: Progress
) -> Iterator[Finding]:
    declared = definition(sequent.migrations) if sequent.has_migrations else None
    yield from _attempted("store objects", lambda: _objects(connection, sequent))
    # The rest depends on the version that serves, and the answers on each other; what takes long does not belong among them.
    yield from settled_moment(
        connection,
        sequent.config.event_store_schema,
        lambda: list(_standing(connection, sequent, declared)),
    )
    if declared is not None:
        yield from _attempted(
            "coverage",
            lambda: coverage_findings.describe(
                _coverage(connection, sequent, declared, reads_all_events, progress)
            ),
        )


def _standing(
    connection: Connection, sequent: Sequent, declared: MigrationsDefinition | None
) -> Iterator[Finding]:
    """Look at how things stand, in the caller's transaction."""
    config = sequent.config
    schema, view_schema = config.event_store_schema, config.view_schema
    managed = (
        None if declared is None else {name for name in declared.records if declared.projectors_of(name)}
    )

    def attempt(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
        # In a savepoint each: one that fails must not keep the others from being made.
        return _attempted(subject, lambda: _apart(connection, check))

    yield from attempt("privileges", lambda: [_privileges(connection, schema, view_schema)])
    yield from attempt("roles", lambda: privileges.check_roles(connection, schema, view_schema))
    yield from attempt("transaction ids", lambda: [lineage.check_transaction_ids(connection, schema)])
    yield from attempt("subscriptions", lambda: lineage.check_subscriptions(connection, schema))
    yield from attempt("snapshots", lambda: lineage.check_snapshots(connection, schema))
    yield from attempt("view schema", lambda: lineage.check_view_schema(connection, schema, view_schema))
    yield from attempt("gate", lambda: _gate(connection, sequent))
    yield from attempt("append order", lambda: store_rows.check_append_order(connection, schema))
    if declared is not None:
        yield from attempt(
            "connections", lambda: server.check_connections(connection, workers=config.workers)
        )
    yield from attempt(
        "live tables", lambda: tables.check_tables(connection, schema, view_schema, managed=managed)
    )
    if declared is not None and managed is not None:
        yield from attempt(
            "recorded tables",
            lambda: tables.check_recorded(connection, schema, version=declared.version, managed=managed),
        )
    yield from attempt("left behind", lambda: left_behind.check_left_behind(connection, schema))
    yield from attempt("migration", lambda: _unfinished(connection, schema))
    if declared is not None:
        yield from attempt("code", lambda: _code(connection, sequent, declared))


def _apart(connection: Connection, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    with connection.transaction():
        return list(check())


def _attempted(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Make one check; what keeps it from being made is a finding as well."""
    try:
        yield from list(check())
    except psycopg.errors.InsufficientPrivilege as error:
        yield notice(
            subject,
            f"Could not be looked at: {error.diag.message_primary}.",
            "Run sequent doctor as the migrator or the owner.",
        )
    except SequentError as error:
        yield problem(subject, error.message, error.remedy)
    except psycopg.errors.ProgrammingError as error:
        yield problem(
            subject,
            f"Could not be looked at: {error.diag.message_primary}.",
            "Mend what the other findings name first.",
        )


def _objects(connection: Connection, sequent: Sequent) -> Iterator[Finding]:
    schema = sequent.config.event_store_schema
    essential = list(store_objects.check_guards(connection, schema))
    # The comparison with a fresh installation says all of that again, and more, where it can be made.
    yield from (it for it in essential if it.subject != "store objects")
    with database.connect_for_migration(
        sequent.database_url, application_name="sequent doctor (comparing)"
    ) as comparing:
        found = list(store_objects.check_objects(comparing, schema))
    if any(it.verdict is Verdict.NOTICE for it in found):
        yield from (it for it in essential if it.subject == "store objects")
    yield from found


def _privileges(connection: Connection, schema: str, view_schema: str) -> Finding:
    """For a login that is no migrator it is no trouble that it cannot migrate."""
    found = privileges.check_privileges(connection, schema, view_schema)
    return found if found.verdict is Verdict.OK else notice(found.subject, found.message, found.remedy)


def _gate(connection: Connection, sequent: Sequent) -> Iterator[Finding]:
    gate = Gate(sequent.config.event_store_schema).read(connection)
    if gate.maintenance:
        why = gate.reason or "no reason given"
        yield problem(
            "gate",
            f"Maintenance mode is on ({why}): nothing can be appended.",
            "Run: sequent maintenance off",
        )
    else:
        yield ok("gate", "Events can be appended.")
    yield _version(sequent, gate.live_version)


def _code(connection: Connection, sequent: Sequent, declared: MigrationsDefinition) -> Iterator[Finding]:
    """Code of another version differs by right; the plan says what it leaves unbuilt."""
    schema = sequent.config.event_store_schema
    if Gate(schema).read(connection).live_version == declared.version:
        yield from code.check_code(connection, schema, declared, sequent.config.sql_path)


def _coverage(
    connection: Connection,
    sequent: Sequent,
    declared: MigrationsDefinition,
    reads_all_events: bool,
    progress: Progress,
) -> coverage.Coverage:
    schema, ignored = sequent.config.event_store_schema, declared.ignored_event_types
    if reads_all_events:
        return coverage.read_all(connection, schema, sequent.event_types, ignored=ignored, progress=progress)
    return coverage.sample(connection, schema, sequent.event_types, ignored=ignored)


def _unfinished(connection: Connection, schema: str) -> Iterator[Finding]:
    unfinished = Versions(schema).unfinished(connection)
    if unfinished is None:
        return
    message = f"The view migration to version {unfinished.target_version} is {unfinished.state}."
    if unfinished.error:
        message += f" Its last command failed: {unfinished.error}"
    yield notice("migration", message, "See: sequent migrate status")


def _event_store(connection: Connection, schema: str) -> Finding:
    row = connection.execute(
        "SELECT current_user, has_schema_privilege(oid, 'USAGE') FROM pg_catalog.pg_namespace WHERE nspname = %s",
        (schema,),
    ).fetchone()
    if row is not None and not row[1]:
        message = f"{row[0]} may not look into schema {schema!r}."
        return problem("event store", message, "Run sequent doctor as the migrator or the owner.")
    found, latest = event_store_version(connection, schema), latest_event_store_version()
    lost = lost_tables(connection, schema) if found is None else ()
    if lost:
        error = LostTable(schema, lost)
        return problem("event store", error.message, "Restore it from a backup.")
    if found is None:
        return Finding(
            "event store", Verdict.PENDING, f"Not installed in schema {schema!r}.", "Run: sequent init"
        )
    if found < latest:
        message = f"At version {found} in schema {schema!r}; this library brings version {latest}."
        return Finding("event store", Verdict.PENDING, message, "Run: sequent init")
    if found > latest:
        message = f"At version {found} in schema {schema!r}; this library knows only version {latest}."
        return problem("event store", message, "Upgrade: pip install -U sequent-py")
    return ok("event store", f"Installed in schema {schema!r}, version {found}.")


def _version(sequent: Sequent, live_version: int) -> Finding:
    if not sequent.has_migrations:
        return Finding(
            "version",
            Verdict.PENDING,
            f"No migrations class is set; the database is at version {live_version}.",
            'Put migrations_class = "your_package.migrations:YourMigrations" under [tool.sequent] of pyproject.toml.',
        )
    code_version = definition(sequent.migrations).version
    if code_version == live_version:
        return ok("version", f"Code and database are at version {live_version}.")
    message = f"The code is at version {code_version}, the database at {live_version}."
    if code_version > live_version:
        return Finding("version", Verdict.PENDING, message, "Run: sequent migrate plan")
    return problem("version", message, f"Deploy the code of version {live_version}.")
