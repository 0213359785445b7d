"""Code: projectors, records, events or table files that changed since the tables were built, without a new version."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psycopg

from sequent_py.health.findings import Finding, notice, ok, problem
from sequent_py.view_schema.bookkeeping.code_records import changed_tables, current_codes, live_codes
from sequent_py.view_schema.fingerprints import PYTHON, affected_projectors
from sequent_py.view_schema.migrations import MigrationsDefinition

Connection = psycopg.Connection[Any]

REMEDY = "List {} under a new version, so that their tables are built anew; if the change makes the same rows, run: sequent migrate accept-code"


def check_code(
    connection: Connection,
    schema: str,
    definition: MigrationsDefinition,
    sql_directory: Path,
    *,
    except_tables: Collection[str] = (),
) -> Iterator[Finding]:
    """Compare the code with the fingerprints of what built the live tables, but for tables that a plan builds or alters anyway."""
    recorded = {
        table: entry
        for table, entry in live_codes(connection, schema).items()
        if table not in except_tables and definition.projectors_of(table)
    }
    current = current_codes(definition, recorded, sql_directory)
    changes = changed_tables(recorded, current)
    for table, parts in changes.items():
        version, built_by = recorded[table]
        python = built_by.python if built_by is not None else PYTHON
        hint = (
            f" (it was built by Python {python}, which reads some code otherwise than {PYTHON})"
            if python != PYTHON
            else ""
        )
        names = affected_projectors(definition, [table])
        yield problem(
            "code",
            f"{' and '.join(names)} changed since {table} was built or altered for version {version}: {', '.join(parts)}{hint}. Rows that were made"
            " before the change are as the earlier code made them.",
            REMEDY.format(" and ".join(names)),
        )
    unknown = [table for table, (_, built_by) in recorded.items() if built_by is None]
    if unknown:
        yield notice(
            "code",
            f"No fingerprint is recorded of the code that built {', '.join(unknown)}: an earlier release did.",
            "Record that of the present code: sequent migrate accept-code",
        )
    if not changes and not unknown and recorded:
        yield ok("code", f"The code of {', '.join(recorded)} is what built them.")
