"""What a worker is told: a line of JSON each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from sequent_py.errors import SequentError
from sequent_py.replay.loading import load_migrations


@dataclass(frozen=True)
class ReplayTask:
    """What a worker process needs to know; travels as JSON over a pipe, never on a command line, for it holds the password."""

    database_url: str
    event_store_schema: str
    view_schema: str
    migrations_class: str
    sys_path: tuple[str, ...]
    migration_id: int
    epoch: int
    projectors: tuple[str, ...]
    physical_tables: Mapping[str, str]
    max_rows_in_memory: int
    quarantine_limit: int | None = None
    """How many aggregates the migration may set aside; None: it stops at the first event that cannot be projected."""
    may_quarantine: bool = True
    """Whether it could have been given a quarantine."""
    is_governed: bool = True
    """Whether it waits for pauses and limits between groups; not where writers wait for it."""
    standby_url: str | None = field(default=None, repr=False)
    """Where events are read; None: where rows are written."""
    is_elsewhere: bool = False
    """Whether the worker is started by somebody else than the coordinator, perhaps on another host: its code is compared, and its paths are its own."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ReplayTask:
        """Read :meth:`to_json`'s line."""
        values = json.loads(text)
        return cls(
            **{**values, "sys_path": tuple(values["sys_path"]), "projectors": tuple(values["projectors"])}
        )


@dataclass(frozen=True)
class EarlyStart:
    """What a worker can do before there is a task: import the application. One line of JSON that may precede the task's."""

    import_early: str
    """The migrations class, as in :class:`ReplayTask`."""
    sys_path: tuple[str, ...]

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EarlyStart | None:
        """Read :meth:`to_json`'s line; None if it is a task's."""
        values = json.loads(text)
        return cls(values["import_early"], tuple(values["sys_path"])) if "import_early" in values else None

    def run(self) -> None:
        """Import; what is wrong with that is said when the task needs it."""
        sys.path[:0] = [entry for entry in self.sys_path if entry not in sys.path]
        with suppress(SequentError):
            load_migrations(self.import_early)
