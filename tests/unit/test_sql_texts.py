"""What no SQL of the library may say, wherever it is written: in string constants, and in files that are shipped."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sequent_py

PACKAGE = Path(sequent_py.__file__).parent
ROOT = PACKAGE.parent
_CASCADE = re.compile(r"\bCASCADE\b", re.IGNORECASE)


def sql_texts(path: Path) -> Iterator[str]:
    """Yield a file's string constants, docstrings aside; of an SQL file, what is no comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sql":
        yield re.sub(r"--[^\n]*", "", text)
        return
    tree = ast.parse(text)
    # Docstrings and the notes below constants are statements of their own.
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def shipped() -> list[Path]:
    folders = (PACKAGE, ROOT / "migrations", ROOT / "examples")
    return sorted(path for folder in folders for suffix in ("*.py", "*.sql") for path in folder.rglob(suffix))


def test_nothing_is_dropped_with_cascade() -> None:
    assert len(shipped()) > 100
    found = [
        str(path.relative_to(ROOT)) for path in shipped() for text in sql_texts(path) if _CASCADE.search(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("name", "text", "is_found"),
    [
        ("a.py", 'drop = "DROP TABLE x cascade"', True),
        ("a.py", 'drop = f"DROP TABLE {x} CASCADE"', True),
        ("a.py", '"""Never with CASCADE."""\nx = 1\n"""Nor CASCADE."""', False),
        ("a.sql", "DROP TABLE x CASCADE; -- all", True),
        ("a.sql", "-- no CASCADE\nDROP TABLE x;", False),
    ],
)
def test_the_search_finds_it(tmp_path: Path, name: str, text: str, is_found: bool) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert any(_CASCADE.search(found) for found in sql_texts(path)) is is_found
