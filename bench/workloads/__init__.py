"""Workloads: a history, the application whose projectors read it, and the same tables as plain SQL computes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

History = Iterator[tuple[UUID, Any, datetime | None]]


@dataclass(frozen=True, slots=True)
class ReadTable:
    """A table of the read side, in plain SQL."""

    name: str
    columns: tuple[str, ...]
    """Those that follow from the events; the database fills the others."""
    select: LiteralString
    """Computes them from ``{events}`` and ``{event_types}``."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is replayed, and into which tables."""

    name: str
    describes: str
    migrations: str
    """``module:Class`` of the view schema, handlers."""
    sql_directory: Path
    history: Callable[[int], History]
    """Makes a history of that many events, the same every time."""
    tables: tuple[ReadTable, ...]
    declared: str | None = None
    """``module:Class`` of the same view schema as declared projections, where those exist."""
    increments: tuple[LiteralString, ...] = ()
    """Statements that bring the tables, found on the search path, up to date with ``{events}`` that came since; one transaction."""


def workloads() -> dict[str, Workload]:
    """Return all workloads by name."""
    from bench.workloads.bank import BANK, LONG_STREAMS, ONE_STREAM
    from bench.workloads.shop import SHOP
    from bench.workloads.wide import WIDE

    return {item.name: item for item in (BANK, SHOP, WIDE, LONG_STREAMS, ONE_STREAM)}


def workload(name: str) -> Workload:
    """Return the workload of that name, or the one that ``module:NAME`` is.

    Raises
    ------
    LookupError
        There is none.
    """
    module_name, has_colon, attribute = name.partition(":")
    if not has_colon:
        known = workloads()
        if name not in known:
            raise LookupError(f"{name!r} is none of {', '.join(known)}, nor of the form module:NAME")
        return known[name]
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{name!r} cannot be imported: {error}") from error
    if not isinstance(found, Workload):
        raise LookupError(f"{name!r} is no bench.workloads.Workload")
    return found
