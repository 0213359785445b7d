"""What an application declares about its view schema: one class with a version and, per version, what changed.

::

    class BankMigrations(Migrations):
        version = 3
        versions = {
            1: [AccountProjector],
            2: [StatementProjector],
            3: [alter_table(AccountRecord)],  # runs sql/account_records_3.sql in place, no replay
        }

A projector under a version means: its tables are rebuilt from the events on the way to that version. The projectors named anywhere in
``versions`` are the registered ones: they project live events. :func:`definition` turns the class into a frozen value and refuses
everything odd, so that no later code meets a malformed declaration. Pure: no database, no files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from sequent_py.errors import DefinitionError
from sequent_py.events import aliases_of, event_type_of
from sequent_py.projectors import Projector, ProjectorDefinition, projector_definition
from sequent_py.records import Record, record_shape


@dataclass(frozen=True, slots=True)
class AlterTable:
    """An in-place change of one table, by the file ``<table>_<version>.sql``; made by :func:`alter_table`."""

    record: type[Record]

    @property
    def table_name(self) -> str:
        """The plain name of the table."""
        return record_shape(self.record).table_name


def alter_table(record: type[Record]) -> AlterTable:
    """Say that a version changes the record's table in place, without a replay.

    Raises
    ------
    DefinitionError
        ``record`` is not a :class:`~sequent_py.Record` class.
    """
    if not (isinstance(record, type) and issubclass(record, Record)) or record is Record:
        raise DefinitionError(f"alter_table(...) takes a Record class, not {_shown(record)}.")
    return AlterTable(record)


class Migrations:
    """Base of the application's declaration. Subclasses set both attributes; nothing is ever instantiated."""

    version: ClassVar[int | str]
    """The view-schema version that this code needs: an integer from 1, or its digits."""
    versions: ClassVar[Mapping[Any, Sequence[type[Projector] | AlterTable]]]
    """What changed under each version: lists of projector classes and ``alter_table(...)``; ``[]`` where only the number changes."""
    also_serves: ClassVar[Sequence[type[Migrations]]] = ()
    """Declarations of other versions, with their projectors, whose code this process carries as well: while one of them is live it
    appends and projects as that one. Put the version before here, deploy, migrate: no process has to stop or restart for the cut-over."""
    ignored_event_types: ClassVar[Sequence[str]] = ()
    """Stored event types that no class of the application knows any more, and that replays may pass over."""


@dataclass(frozen=True, slots=True)
class MigrationsDefinition:
    """A checked declaration."""

    name: str
    """The class's name, for messages."""
    version: int
    versions: Mapping[int, tuple[ProjectorDefinition | AlterTable, ...]]
    """Ascending by version; entries in the order of their list."""
    projectors: tuple[ProjectorDefinition, ...]
    """Every registered projector once, in order of first mention."""
    records: Mapping[str, type[Record]]
    """By plain table name: the records of all projectors, then those that are only altered."""
    _by_name: Mapping[str, ProjectorDefinition] = field(repr=False, compare=False)
    ignored_event_types: frozenset[str] = frozenset()

    def projector(self, name: str) -> ProjectorDefinition | None:
        """Return the registered projector of that name; None when there is none."""
        return self._by_name.get(name)

    def projectors_of(self, table_name: str) -> tuple[ProjectorDefinition, ...]:
        """Return the registered projectors that manage the table."""
        return tuple(projector for projector in self.projectors if table_name in tables_of(projector))


def tables_of(projector: ProjectorDefinition) -> tuple[str, ...]:
    """Return the plain names of the projector's tables, in the order of ``manages_tables``."""
    return tuple(record_shape(record).table_name for record in projector.records)


def definition(migrations: type[Migrations]) -> MigrationsDefinition:
    """Check a declaration and return it as a value.

    Raises
    ------
    DefinitionError
        Anything about it cannot work; names the class, the version and the entry.
    """
    if not (isinstance(migrations, type) and issubclass(migrations, Migrations)):
        raise DefinitionError(
            f"The migrations class must be a subclass of Migrations, not {_shown(migrations)}."
        )
    name = migrations.__name__
    version = _version(getattr(migrations, "version", None), f"{name}.version")
    entries = _entries(name, version, getattr(migrations, "versions", None))
    versions = {
        number: tuple(_entry(name, number, entry) for entry in listed) for number, listed in entries.items()
    }
    by_name = _projectors(name, versions)
    _refuse_mixed_orderings(name, by_name.values())
    return MigrationsDefinition(
        name=name,
        version=version,
        versions=MappingProxyType(versions),
        projectors=tuple(by_name.values()),
        records=MappingProxyType(_records(name, versions)),
        _by_name=MappingProxyType(by_name),
        ignored_event_types=_ignored(name, getattr(migrations, "ignored_event_types", ()), by_name.values()),
    )


def served_definitions(migrations: type[Migrations]) -> tuple[MigrationsDefinition, ...]:
    """Return the checked declarations of every version that a process with this code serves, its own first.

    Raises
    ------
    DefinitionError
        One of them cannot work, or two are of the same version.
    """
    own = definition(migrations)
    declared = migrations.also_serves
    if not isinstance(declared, list | tuple):
        raise DefinitionError(
            f"{own.name}.also_serves must be a list of Migrations classes, not {_shown(declared)}."
        )
    served = {own.version: own}
    for other in map(definition, declared):
        if other.version in served:
            raise DefinitionError(
                f"{own.name}.also_serves names {other.name} for version {other.version}, which {served[other.version].name} serves already.",
                remedy="Name declarations of other versions only.",
            )
        served[other.version] = other
    return tuple(served.values())


def _ignored(name: str, declared: object, projectors: Iterable[ProjectorDefinition]) -> frozenset[str]:
    where = f"{name}.ignored_event_types"
    if not isinstance(declared, list | tuple) or not all(isinstance(item, str) for item in declared):
        raise DefinitionError(f"{where} must be a tuple of stored names, not {_shown(declared)}.")
    for projector in projectors:
        for cls in projector.event_classes:
            for stored in (event_type_of(cls), *aliases_of(cls)):
                if stored in declared:
                    raise DefinitionError(
                        f"{where} has {stored!r}, which {projector.name} handles.",
                        remedy=f"Take it out of {where}.",
                    )
    return frozenset(declared)


def _version(value: object, where: str) -> int:
    """Read an integer from 1, or ASCII digits that mean one."""
    number: int | None = None
    # bool is an int in Python, and `version = True` is a slip of the pen.
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and value.isascii() and value.isdigit():
        number = int(value)
    if number is None or number < 1:
        raise DefinitionError(f"{where} must be an integer from 1 (or its digits), not {_shown(value)}.")
    return number


def _entries(name: str, version: int, declared: object) -> dict[int, Sequence[object]]:
    """Return the lists by version, ascending."""
    if not isinstance(declared, Mapping):
        raise DefinitionError(
            f"{name}.versions must be a dict from version to a list of what changed, not {_shown(declared)}."
        )
    if not declared:
        raise DefinitionError(
            f"{name}.versions is empty: at least one version must be declared.",
            remedy="List every projector under the version that introduces it.",
        )
    entries: dict[int, Sequence[object]] = {}
    for key, listed in declared.items():
        number = _version(key, f"A key of {name}.versions")
        if number in entries:
            raise DefinitionError(
                f"{name}.versions declares version {number} twice ({key!r} means {number})."
            )
        if number > version:
            raise DefinitionError(
                f"{name}.versions declares version {number}, but {name}.version is {version}.",
                remedy=f"Set {name}.version = {number}, or remove the entry.",
            )
        if not isinstance(listed, list | tuple):
            raise DefinitionError(
                f"Version {number} of {name}.versions must be a list, not {_shown(listed)}."
            )
        entries[number] = listed
    return dict(sorted(entries.items()))


def _entry(name: str, number: int, entry: object) -> ProjectorDefinition | AlterTable:
    if isinstance(entry, AlterTable):
        return entry
    if isinstance(entry, type) and issubclass(entry, Projector):
        return projector_definition(entry)
    raise DefinitionError(
        f"Version {number} of {name}.versions lists {_shown(entry)}, which is neither a Projector class nor alter_table(...)."
    )


def _projectors(
    name: str, versions: Mapping[int, Sequence[ProjectorDefinition | AlterTable]]
) -> dict[str, ProjectorDefinition]:
    by_name: dict[str, ProjectorDefinition] = {}
    for entry in (entry for listed in versions.values() for entry in listed):
        if isinstance(entry, AlterTable):
            continue
        known = by_name.setdefault(entry.name, entry)
        if known.projector is not entry.projector:
            raise DefinitionError(
                f"{name}.versions lists two projectors named {entry.name}: "
                f"{_path(known.projector)} and {_path(entry.projector)}.",
                remedy="Rename one of them: plans and errors tell projectors apart by name.",
            )
    return by_name


def _refuse_mixed_orderings(name: str, projectors: Collection[ProjectorDefinition]) -> None:
    """Projectors of a table see each other's rows, so they must meet the events in one order; each ordering is replayed on its own."""
    for table_name in dict.fromkeys(table for projector in projectors for table in tables_of(projector)):
        sharing = [projector for projector in projectors if table_name in tables_of(projector)]
        if len({projector.ordering for projector in sharing}) > 1:
            declared = " and ".join(f"{projector.name} ({projector.ordering})" for projector in sharing)
            raise DefinitionError(
                f"{name}: the projectors of {table_name} declare different orderings: {declared}.",
                remedy="Declare the same in all of them, the widest that one of them needs.",
            )


def _records(
    name: str, versions: Mapping[int, Sequence[ProjectorDefinition | AlterTable]]
) -> dict[str, type[Record]]:
    entries = [entry for listed in versions.values() for entry in listed]
    managed = [record for entry in entries if not isinstance(entry, AlterTable) for record in entry.records]
    altered = [entry.record for entry in entries if isinstance(entry, AlterTable)]
    records: dict[str, type[Record]] = {}
    for record in (*managed, *altered):
        table_name = record_shape(record).table_name
        known = records.setdefault(table_name, record)
        if known is not record:
            raise DefinitionError(
                f"{name}.versions uses two records for the table {table_name}: {_path(known)} and {_path(record)}."
            )
    return records


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _shown(value: object) -> str:
    """Name a wrong value by kind and text, so that class, instance and string can be told apart."""
    if value is None:
        return "nothing"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{type(value).__name__} {value!r:.80}"
