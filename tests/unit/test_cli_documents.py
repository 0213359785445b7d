"""What programs read: one JSON document per command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sequent_py.cli.documents import as_json, document, error_document
from sequent_py.progress import ReplayProgress
from sequent_py.view_schema.reports import CheckReport


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    colour: Colour

    @property
    def doubled(self) -> int:
        return self.x * 2

    @property
    def _hidden(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Point(1, Colour.RED), {"x": 1, "colour": "red", "doubled": 2}),
        ({"a": (1, 2.5, None, True)}, {"a": [1, 2.5, None, True]}),
        (frozenset({"b", "a"}), ["a", "b"]),
        (datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC), "2026-03-04T05:06:07.000089+00:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("/tmp/x"), "/tmp/x"),
        (float("inf"), None),
    ],
)
def test_values_become_json(value: Any, expected: Any) -> None:
    assert as_json(value) == expected


def test_what_is_computed_for_people_can_be_read_by_programs() -> None:
    progress = as_json(ReplayProgress(50, 100, 1, 2, 4, seconds=2.0))
    assert (progress["events_per_second"], progress["eta_seconds"]) == (25.0, 2.0)
    assert as_json(CheckReport(1, 1, ()))["is_current"] is True


def test_a_document_is_readable_json() -> None:
    assert json.loads(document({"owner": "Zoë"})) == {"owner": "Zoë"}
    assert "Zoë" in document({"owner": "Zoë"})


def test_an_error_has_type_message_and_remedy() -> None:
    assert json.loads(error_document("Odd", "it is odd", "make it even")) == {
        "error": {"type": "Odd", "message": "it is odd", "remedy": "make it even"}
    }
