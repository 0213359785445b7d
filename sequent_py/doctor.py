"""What is wrong with an installation, and what to do about each finding. Reads only; waits for no lock that a backup could block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg

from sequent_py import database
from sequent_py.app import Sequent
from sequent_py.gate import Gate
from sequent_py.schema_migrations.event_store import event_store_version, latest_event_store_version
from sequent_py.store import foreign_transaction_ids
from sequent_py.view_schema.dependents import missing_tables
from sequent_py.view_schema.migrations import definition
from sequent_py.view_schema.versions import Versions

NEWEST_TRIED_SERVER_VERSION = 18
"""The newest major version of PostgreSQL that the tests run on."""


class Verdict(StrEnum):
    """What a finding asks for."""

    OK = "ok"
    """Nothing."""
    PENDING = "pending"
    """Something has not been run yet."""
    PROBLEM = "problem"
    """Something is wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """Everything that was looked at, in the order of dependence."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings' verdicts."""
        verdicts = {finding.verdict for finding in self.findings}
        return next((it for it in (Verdict.PROBLEM, Verdict.PENDING) if it in verdicts), Verdict.OK)


def examine(sequent: Sequent) -> DoctorReport:
    """Look at server, event store, transaction ids, gate, versions and live tables.

    Raises
    ------
    DatabaseUnavailable
        No server answers, or it is too old: nothing else can be looked at.
    """
    if not sequent.has_database:
        missing = "There is no embedded PostgreSQL yet, and no database_url is set."
        return DoctorReport((Finding("server", Verdict.PENDING, missing, "Run: sequent init"),))
    with sequent.engine.connect() as pooled:
        connection = database.raw_connection(pooled)
        connection.execute("SET TRANSACTION READ ONLY")
        findings = [_server(connection)]
        store = _event_store(connection, sequent.config.event_store_schema)
        findings.append(store)
        if store.verdict is Verdict.OK:
            findings += _installed(connection, sequent)
        pooled.rollback()
    return DoctorReport(tuple(findings))


def _installed(connection: psycopg.Connection[Any], sequent: Sequent) -> Iterator[Finding]:
    yield _transaction_ids(connection, sequent.config.event_store_schema)
    gate = Gate(sequent.config.event_store_schema).read(connection)
    if gate.maintenance:
        why = gate.reason or "no reason given"
        yield Finding(
            "gate",
            Verdict.PROBLEM,
            f"Maintenance mode is on ({why}): nothing can be appended.",
            "Run: sequent maintenance off",
        )
    else:
        yield Finding("gate", Verdict.OK, "Events can be appended.")
    yield _version(sequent, gate.live_version)
    yield _live_tables(connection, sequent)


def _server(connection: psycopg.Connection[Any]) -> Finding:
    major, minor = divmod(connection.info.server_version, 10_000)
    message = f"PostgreSQL {major}.{minor}"
    if major > NEWEST_TRIED_SERVER_VERSION:
        message += f"; newer than this library has been tried on ({NEWEST_TRIED_SERVER_VERSION})"
    return Finding("server", Verdict.OK, message)


def _event_store(connection: psycopg.Connection[Any], schema: str) -> Finding:
    found, latest = event_store_version(connection, schema), latest_event_store_version()
    if found is None:
        return Finding(
            "event store", Verdict.PENDING, f"Not installed in schema {schema!r}.", "Run: sequent init"
        )
    if found < latest:
        message = f"At version {found} in schema {schema!r}; this library brings version {latest}."
        return Finding("event store", Verdict.PENDING, message, "Run: sequent init")
    if found > latest:
        message = f"At version {found} in schema {schema!r}; this library knows only version {latest}."
        return Finding("event store", Verdict.PROBLEM, message, "Upgrade: pip install -U sequent-py")
    return Finding("event store", Verdict.OK, f"Installed in schema {schema!r}, version {found}.")


def _transaction_ids(connection: psycopg.Connection[Any], schema: str) -> Finding:
    newest = foreign_transaction_ids(connection, schema)
    if newest is None:
        return Finding("transaction ids", Verdict.OK, "All events were written by this server.")
    return Finding(
        "transaction ids",
        Verdict.PROBLEM,
        f"Events carry transaction ids up to {newest}, which lie in this server's future: the store was restored from another one.",
        "Run: sequent doctor --repair",
    )


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
        return Finding("version", Verdict.OK, f"Code and database are at version {live_version}.")
    message = f"The code is at version {code_version}, the database at {live_version}."
    if code_version > live_version:
        return Finding("version", Verdict.PENDING, message, "Run: sequent migrate plan")
    return Finding("version", Verdict.PROBLEM, message, f"Deploy the code of version {live_version}.")


def _live_tables(connection: psycopg.Connection[Any], sequent: Sequent) -> Finding:
    names = sorted(Versions(sequent.config.event_store_schema).live_tables(connection))
    missing = missing_tables(connection, sequent.config.view_schema, names)
    if missing:
        return Finding(
            "live tables",
            Verdict.PROBLEM,
            " ".join(missing),
            "Restore them, or build them anew in a new version.",
        )
    return Finding("live tables", Verdict.OK, f"All there: {', '.join(names)}." if names else "None yet.")
