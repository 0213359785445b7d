"""Recorded rows: what one of our own tables says, by name; a row that must be there and is not is an error of its own.

Nothing of ours deletes such a row while it is needed. Somebody did, by hand, or restored a part of a backup.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeVar

from sequent_py.errors import LostRow

T = TypeVar("T")


class Recorded(dict[str, T]):
    """Rows of ``table`` by name. To look whether one is there, use ``in`` or ``get``."""

    def __init__(self, table: str, kind: str, rows: Mapping[str, T]) -> None:
        """``kind``: what a row is about, as the error says it, "live table" for example."""
        super().__init__(rows)
        self._table, self._kind = table, kind

    def __missing__(self, name: str) -> NoReturn:
        raise LostRow(self._table, f"the {self._kind} {name}")
