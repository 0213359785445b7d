"""The same scenarios through Sequel itself: the same schema and the same tracking rows after every step.

Needs Ruby with the gems sequel and pg (Debian: ruby-sequel, ruby-pg); skipped where they are missing.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from sequent_py.schema_migrations import choice

SCENARIOS = Path(__file__).parent / "sequel"


def has_sequel() -> bool:
    if shutil.which("sequel") is None or shutil.which("ruby") is None:
        return False
    return (
        subprocess.run(["ruby", "-rsequel", "-rpg", "-e", ""], capture_output=True, check=False).returncode
        == 0
    )


pytestmark = pytest.mark.skipif(not has_sequel(), reason="Ruby's sequel and pg are not installed")


def ruby_url(url: str) -> str:
    """Return the URL in Sequel's words, which takes a socket's directory as a parameter of its own."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "localhost"])[0]
    port = f"&port={parts.port}" if parts.port else ""
    return f"postgres:///{parts.path.lstrip('/')}?host={host}&user={parts.username or 'postgres'}{port}"


def sequel(url: str, directory: Path, target: int | None) -> None:
    version = [] if target is None else ["-M", str(target)]
    done = subprocess.run(
        ["sequel", "-m", str(directory), *version, ruby_url(url)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def tracking(database) -> dict[str, list[tuple[object, ...]]]:
    rows = {
        table: database.sql(f"SELECT * FROM {table} ORDER BY 1")  # noqa: S608
        for table in sorted(database.all_tables & {"schema_info", "schema_migrations"})
    }
    return {table: [(str(row[0]).replace(".rb", ".py"),) for row in found] for table, found in rows.items()}


@pytest.mark.parametrize(
    ("scenario", "targets"),
    [
        ("integers", [None, 0, None]),
        ("integers", [1, 2, 3, 4, 5, 4, 3, 2, 1, 0]),
        ("integers", [2, 99, -5]),
        ("timestamps", [None, 0, None]),
        ("timestamps", [20200101000000, None, 20200101000001, 99999999999999, 1]),
    ],
)
def test_sequel_agrees_after_every_step(db, other_db, directory_of, scenario, targets):
    ruby, python = directory_of("ruby").path, directory_of("python").path
    for file in (SCENARIOS / scenario).iterdir():
        shutil.copy(file, ruby if file.suffix == ".rb" else python)
    for target in targets:
        sequel(db.url, ruby, target)
        choice.run(other_db.engine, python, target)
        assert other_db.dump() == db.dump()
        assert tracking(other_db) == tracking(db)


def test_either_tool_goes_on_where_the_other_stopped(db, directory_of):
    ruby, python = directory_of("ruby").path, directory_of("python").path
    for file in (SCENARIOS / "integers").iterdir():
        shutil.copy(file, ruby if file.suffix == ".rb" else python)
    sequel(db.url, ruby, 2)
    assert choice.run(db.engine, python, 3) == 3
    sequel(db.url, ruby, None)
    assert db.version == 5
    assert choice.is_current(db.engine, python)
    choice.run(db.engine, python, 2)
    sequel(db.url, ruby, 0)
    assert (db.version, db.tables) == (0, set())
