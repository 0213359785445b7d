"""Declared projections: what events do to the rows of a table, as values instead of handlers.

A :class:`~sequent_py.declared.projection.TableProjection` makes a handler of every rule, so that it is a projector: registry, live projection, replay,
verification, quarantine and every other part of the library meets nothing new.

::

    rules        Field, Change, Rule: values, and the functions that users write
    declaration  rules checked against record and events
    projection   TableProjection, and a handler per rule
"""

from __future__ import annotations

from sequent_py.declared.projection import TableProjection
from sequent_py.declared.rules import (
    Field,
    Rule,
    count,
    delete,
    delete_all,
    field,
    first,
    increment,
    insert,
    last,
    running,
    update,
    upsert,
)

__all__ = [
    "Field",
    "Rule",
    "TableProjection",
    "count",
    "delete",
    "delete_all",
    "field",
    "first",
    "increment",
    "insert",
    "last",
    "running",
    "update",
    "upsert",
]
