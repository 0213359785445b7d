"""Every case of the list is tested, or said not to apply."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1] / "integration" / "schema_migrations"
DOCUMENT = Path(__file__).parents[2] / "docs" / "schema_migrations_cases.md"
CASES = {number for number in range(1, 366) if number % 6}
"""The list leaves out every sixth number."""


def covered() -> set[int]:
    """Return the numbers in ``pytest.mark.rows(…)``, ``rows(…)`` and ``case(name, body, …)``."""
    found: set[int] = set()
    for path in TESTS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("rows", "case"):
                found |= {
                    item.value
                    for item in node.args
                    if isinstance(item, ast.Constant) and isinstance(item.value, int)
                }
    return found


def not_applicable() -> set[int]:
    section = DOCUMENT.read_text(encoding="utf-8").split("## Not applicable")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ([0-9, ]+) \|", section, re.MULTILINE)
    return {int(number) for cell in cells for number in cell.split(",")}


def test_every_case_is_tested_or_does_not_apply():
    assert covered() | not_applicable() == CASES
    assert covered() & not_applicable() == set()
