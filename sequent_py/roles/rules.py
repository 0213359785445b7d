"""What each role may do, as values: the one place that says so. Pure.

Objects that are not named here are bookkeeping: the migrator reads and writes such tables and calls such functions, nobody else does. So a table
that a later release adds is closed until somebody decides otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sequent_py.errors import DefinitionError
from sequent_py.names import NAME_LIMIT_BYTES

DEFAULT_PREFIX = "sequent"
STATISTICS_ROLE = "pg_read_all_stats"
"""The server's role that lets the migrator see other logins' sessions: since when the transactions are open that it waits for, what they do, and replicas."""


class RoleKind(StrEnum):
    """The four roles."""

    OWNER = "owner"
    MIGRATOR = "migrator"
    APPLICATION = "application"
    READER = "reader"


class ObjectKind(StrEnum):
    """What rights can be on."""

    DATABASE = "database"
    SCHEMA = "schema"
    TABLE = "table"
    SEQUENCE = "sequence"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class RoleNames:
    """The roles of one store."""

    owner: str
    migrator: str
    application: str
    reader: str

    def of(self, kind: RoleKind) -> str:
        """Return the name of one of them."""
        name: str = getattr(self, kind.value)
        return name

    def by_kind(self) -> Iterator[tuple[RoleKind, str]]:
        """Yield all of them."""
        return ((kind, self.of(kind)) for kind in RoleKind)


def role_names(prefix: str) -> RoleNames:
    """Return the names that a prefix makes.

    Raises
    ------
    DefinitionError
        PostgreSQL would cut or refuse them.
    """
    names = {kind.value: f"{prefix}_{kind.value}" for kind in RoleKind}
    longest = max(names.values(), key=lambda name: len(name.encode()))
    if not prefix or "\0" in prefix:
        raise DefinitionError(f"{prefix!r} cannot be the prefix of role names.")
    if len(longest.encode()) > NAME_LIMIT_BYTES:
        raise DefinitionError(
            f"The role {longest} would have {len(longest.encode())} bytes; PostgreSQL cuts names at {NAME_LIMIT_BYTES}.",
            remedy="Give a shorter --role-prefix.",
        )
    if prefix.startswith("pg_"):
        raise DefinitionError(
            f"PostgreSQL keeps role names that begin with pg_ for itself: {prefix!r}.",
            remedy="Give another --role-prefix.",
        )
    return RoleNames(**names)


READ = frozenset({"SELECT"})
WRITE = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
EXECUTE = frozenset({"EXECUTE"})
NOTHING: frozenset[str] = frozenset()

_EVENTS = re.compile(r"events(_[0-9]+)?")
_APPLICATION_READS = re.compile(
    # What load, append, status and check look at.
    r"events(_[0-9]+)?|event_types|(aggregate_)?partitions|gate|schema_info|store_roles|view_migrations|view_tables|replay_passes|replay_groups"
    r"|quarantined_aggregates|special_aggregates|replay_control|home"
)
_ONLY_READ = re.compile(
    r"events(_[0-9]+)?|event_types|event_edits|(aggregate_)?partitions|schema_info|store_roles"
)
"""Nobody but the owner changes these. The gate's row, and the one that serial appends queue for, are the migrator's to update, not to add or delete."""
_APPLICATION_CALLS = re.compile(
    r"append_events_v[0-9]+|register_event_types_v[0-9]+|(gate|migration|worker)_key"
)
_OWNERS_ONLY = re.compile(r"append_events_v[0-9]+|register_event_types_v[0-9]+|(guard|note)_\w+")
"""Functions that the migrator does not call."""
_DEFINER = re.compile(r"append_events_v[0-9]+|register_event_types_v[0-9]+|lock_events_v[0-9]+")


def is_definer(function: str) -> bool:
    """Whether a function runs with the owner's rights."""
    return _DEFINER.fullmatch(function) is not None


def store_rights(kind: ObjectKind, name: str, role: RoleKind, *, reader_events: bool) -> frozenset[str]:
    """Return what a role other than the owner may do to an object of the event store's schema; functions by their bare name."""
    match kind, role:
        case ObjectKind.SCHEMA, RoleKind.READER:
            return frozenset({"USAGE"}) if reader_events else NOTHING
        case ObjectKind.SCHEMA, _:
            return frozenset({"USAGE"})
        case ObjectKind.TABLE, RoleKind.MIGRATOR:
            if _ONLY_READ.fullmatch(name):
                return READ
            return READ | {"UPDATE"} if name in ("gate", "append_order") else WRITE
        case ObjectKind.TABLE, RoleKind.APPLICATION:
            return READ if _APPLICATION_READS.fullmatch(name) else NOTHING
        case ObjectKind.TABLE, RoleKind.READER:
            return READ if reader_events and (_EVENTS.fullmatch(name) or name == "event_types") else NOTHING
        case ObjectKind.SEQUENCE, RoleKind.MIGRATOR:
            return READ if name.startswith("event_") else READ | {"USAGE"}
        case ObjectKind.FUNCTION, RoleKind.APPLICATION:
            return EXECUTE if _APPLICATION_CALLS.fullmatch(name) else NOTHING
        case ObjectKind.FUNCTION, RoleKind.MIGRATOR:
            return NOTHING if _OWNERS_ONLY.fullmatch(name) else EXECUTE
    return NOTHING


def view_rights(kind: ObjectKind, role: RoleKind) -> frozenset[str]:
    """Return what a role that does not own them may do to the view schema, managed tables and their sequences."""
    match kind, role:
        case ObjectKind.SCHEMA, RoleKind.APPLICATION | RoleKind.READER:
            return frozenset({"USAGE"})
        case ObjectKind.TABLE, RoleKind.APPLICATION:
            return WRITE
        case ObjectKind.TABLE, RoleKind.READER:
            return READ
        case ObjectKind.SEQUENCE, RoleKind.APPLICATION:
            return frozenset({"USAGE", "SELECT"})
    return NOTHING


def database_rights(role: RoleKind) -> frozenset[str]:
    """Return what a role may do to the database: trials and dry runs need a scratch schema and temporary tables."""
    if role is RoleKind.MIGRATOR:
        return frozenset({"CONNECT", "CREATE", "TEMPORARY"})
    return frozenset({"CONNECT"})


def listed(names: Iterable[str], most: int = 8) -> str:
    """Join names, the first few of many."""
    found = sorted(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
