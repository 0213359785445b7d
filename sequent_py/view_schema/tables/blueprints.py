"""What the objects of a managed table are called: while it is built or retired, and while it serves.

A :class:`TableBlueprint` is written when the table is built and stays with it for life. Auto-generated names cannot be derived from each
other (``account_records_3_pkey`` and ``account_records_pkey``, and anything that PostgreSQL shortened), so the names of two runs of the
same file are paired by the order in which the objects came into being, and the pairing is proved by renaming, never by text. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sequent_py.errors import PlanChanged, TableFileError

Key = tuple[str, str, str]
"""Kind, table and name of an object."""

RELATION_KINDS = frozenset(
    {"table", "index", "key", "sequence", "view", "materialized view", "composite type", "foreign table"}
)
"""Kinds that share one namespace in a schema. A key is a primary key, unique or exclusion constraint: it has its index's name."""
ON_TABLE_KINDS = frozenset({"key", "constraint", "trigger", "policy", "rule"})
"""Kinds that are renamed by way of their table."""
HOLDER_KINDS = frozenset({"table", "view", "materialized view"})
"""Kinds that others are on: triggers and rules of a view, indexes of a materialized one."""
SHARABLE_KINDS = frozenset({"function", "type", "domain"})
"""Kinds that a table file may leave without a suffix, to be shared by all generations."""


@dataclass(frozen=True, slots=True)
class ObjectName:
    """One object of a managed table."""

    kind: str
    name: str
    """Its name while the table does not serve."""
    plain: str
    """Its name while the table serves."""
    table: str
    """The plain name of the table that it is on; empty for what stands by itself."""
    source: str | None = None
    """The body of a function that names suffixed objects in its text; None for all others."""
    plain_source: str | None = None


@dataclass(frozen=True, slots=True)
class SuspendedConstraint:
    """A foreign key that a retired table gave up, because its old rows would keep others from being deleted."""

    table: str
    """The plain name of its table."""
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class TableBlueprint:
    """A managed table and everything that its files created."""

    table: str
    """The plain name."""
    physical_name: str
    """The name as of now."""
    names: tuple[ObjectName, ...]
    """In order of creation, the table itself included."""
    fingerprint: str = ""
    """Of the definitions under plain names, as a fresh run of the files gives them."""
    as_built: Mapping[str, Any] = field(default_factory=dict)
    """The properties (owner, grants, comments…) that the files gave it; what the live table has beyond them was done by hand."""
    suspended: tuple[SuspendedConstraint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the blueprint as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TableBlueprint:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        PlanChanged
            It was written by a release whose blueprints look different.
        """
        try:
            values = dict(document)
            values["names"] = tuple(ObjectName(**item) for item in values["names"])
            values["suspended"] = tuple(SuspendedConstraint(**item) for item in values["suspended"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise PlanChanged(
                f"The recorded names of a table cannot be read by this release: {error}.",
                remedy="Use the release that recorded them.",
            ) from error

    @property
    def tables(self) -> list[str]:
        """The names of its tables as of now: itself, and partitions."""
        return [item.name for item in self.names if item.kind == "table"]

    def named_as(self, created: Sequence[CatalogObject]) -> TableBlueprint:
        """Take over the names that objects got in earnest.

        They are those of the trial unless a name that the server chose has been taken meanwhile; then the next free one was chosen, and
        what the trial had at its place in the order of creation is meant.

        Raises
        ------
        TableFileError
            The files created something that they did not create in the trial.
        """
        plain_tables = {item.name: item.plain for item in self.names if item.kind in HOLDER_KINDS}
        expected = {(item.kind, item.table, item.name): item for item in self.names}
        found = {(item.kind, plain_tables.get(item.table, item.table), item.name) for item in created}
        renamed: dict[Key, str] = {}
        for kind, table, name in sorted(found - expected.keys()):
            if kind in SHARABLE_KINDS:
                continue
            missing = [
                key
                for key in expected
                if key[:2] == (kind, table) and key not in found and key not in renamed
            ]
            if not missing:
                raise TableFileError(
                    f"The files of {self.table} create the {kind} {name}, which they did not in the trial.",
                    remedy="Begin anew: sequent migrate abort, then sequent migrate online",
                )
            renamed[missing[0]] = name
        names = tuple(
            replace(item, name=renamed.get((item.kind, item.table, item.name), item.name))
            for item in self.names
        )
        return replace(self, names=names)

    def without(self, suspended: Iterable[SuspendedConstraint]) -> TableBlueprint:
        """Move suspended foreign keys from the names to where the swap finds them, under their plain names."""
        plain_tables = {item.name: item.plain for item in self.names if item.kind == "table"}
        moved: dict[Key, SuspendedConstraint] = {}
        for item in suspended:
            if item.table in plain_tables:
                table = plain_tables[item.table]
                plain = {known.name: known.plain for known in self.names if known.table == table}
                moved["constraint", table, item.name] = replace(
                    item, table=table, name=plain.get(item.name, item.name)
                )
        names = tuple(item for item in self.names if (item.kind, item.table, item.name) not in moved)
        return replace(self, names=names, suspended=(*self.suspended, *moved.values()))


@dataclass(frozen=True, slots=True)
class CatalogObject:
    """An object as the system catalogs have it."""

    kind: str
    oid: int
    name: str
    table: str
    """The current name of the table that it is on; empty for what stands by itself."""
    detail: str = ""
    """A finer kind where objects of one kind must not be taken for each other: the constraint's type."""
    source: str | None = None
    """A function's body."""


Pair = tuple[CatalogObject, CatalogObject]


def pair(plain: Sequence[CatalogObject], suffixed: Sequence[CatalogObject], describe: str) -> list[Pair]:
    """Pair the objects of two runs of the same files, each in order of creation.

    Raises
    ------
    TableFileError
        The runs created different things; says which.
    """
    pairs: list[Pair] = []
    for standing in (True, False):
        names = {right.name: left.name for left, right in pairs}
        lefts, rights = _grouped(plain, standing, {}), _grouped(suffixed, standing, names)
        for key in dict.fromkeys((*lefts, *rights)):
            left, right = lefts.get(key, []), rights.get(key, [])
            if len(left) != len(right):
                raise TableFileError(
                    _difference(describe, key[0], left, right),
                    remedy="Put %SUFFIX% after every name that they create.",
                )
            pairs += zip(left, right, strict=True)
    return pairs


def object_names(pairs: Iterable[Pair]) -> tuple[ObjectName, ...]:
    """Return what a blueprint records of paired objects."""
    return tuple(
        ObjectName(
            kind=left.kind,
            name=right.name,
            plain=left.name,
            table=left.table,
            source=right.source if right.source != left.source else None,
            plain_source=left.source if right.source != left.source else None,
        )
        for left, right in pairs
    )


def _grouped(
    objects: Sequence[CatalogObject], standing: bool, plain_tables: Mapping[str, str]
) -> dict[Key, list[CatalogObject]]:
    """Group what may be taken for each other; tables and their like first, because the others are told apart by them."""
    groups: dict[Key, list[CatalogObject]] = {}
    for item in sorted(objects, key=lambda item: item.oid):
        if (item.table == "") is standing:
            groups.setdefault((item.kind, item.detail, plain_tables.get(item.table, item.table)), []).append(
                item
            )
    return groups


def _difference(
    describe: str, kind: str, left: Sequence[CatalogObject], right: Sequence[CatalogObject]
) -> str:
    def listed(items: Sequence[CatalogObject]) -> str:
        return ", ".join(item.name for item in items) or "none"

    return f"{describe} creates, of kind {kind}, {listed(left)} under plain names and {listed(right)} beside them."
