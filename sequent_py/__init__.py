"""sequent_py: rebuild the projections of event-sourced applications on PostgreSQL while they run.

The public names are those below; everything else is inside. The package's layout, from values to effects::

    errors, config                      what goes wrong, what is set
    events, upcasting, records,         pure: what a user writes, as values
    projectors, declared
    database                            the only place that connects
    store, gate, persistors,            one owner per table
    replay, view_schema, schema_migrations
    verification                        shadow rows against a fresh fold
    app                                 one object that holds all of it
    cli                                 parse, one call, render

A public name is imported when it is asked for: processes that replay, and commands, load what they use, and Sequent loads everything.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sequent_py.app import Sequent
    from sequent_py.config import Config
    from sequent_py.declared import TableProjection
    from sequent_py.errors import SequentError
    from sequent_py.events import Event
    from sequent_py.projectors import Projector, on
    from sequent_py.records import Record
    from sequent_py.upcasting import upcaster
    from sequent_py.view_schema.migrations import Migrations, alter_table

__all__ = [
    "Config",
    "Event",
    "Migrations",
    "Projector",
    "Record",
    "Sequent",
    "SequentError",
    "TableProjection",
    "alter_table",
    "on",
    "upcaster",
]

_MODULES = {
    "Config": "config",
    "Event": "events",
    "Migrations": "view_schema.migrations",
    "Projector": "projectors",
    "Record": "records",
    "Sequent": "app",
    "SequentError": "errors",
    "TableProjection": "declared",
    "alter_table": "view_schema.migrations",
    "on": "projectors",
    "upcaster": "upcasting",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
