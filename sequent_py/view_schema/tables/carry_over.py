"""What was done to a serving table by hand, and follows it to the one that takes its place.

Properties are read as one flat mapping, under plain names. Three of them are merged: what the live table's files gave it when it was
built (kept in its blueprint), what it has now, and what the new files give. Whatever the live table has as built follows the new files;
whatever differs was done by hand, and is done to the new table too, whether that adds, changes or takes away. So a comment that the files
no longer have goes, and a grant that an administrator made stays.

Carried over: owner, grants on tables, columns, sequences, views, functions and types, comments, storage options, statistics targets,
replica identity, clustering, row security and its policies, triggers, rules, extended statistics, publications, options of sequences. What is in
:data:`REPORTED` is not: building columns, constraints and indexes would take time under the swap's lock, and they belong in the table file.
It is reported, and so is what was dropped by hand and comes back with the new table; ``docs/swap.md`` has the whole list.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.errors import MigrationError
from sequent_py.view_schema.tables import prepared
from sequent_py.view_schema.tables.blueprints import TableBlueprint
from sequent_py.view_schema.tables.property_queries import PROPERTIES
from sequent_py.view_schema.tables.property_statements import statements
from sequent_py.view_schema.tables.script import SERVER_STATE, searching

Connection = psycopg.Connection[Any]

Property = tuple[str, ...]
"""A kind, and what it is of."""
Properties = dict[Property, Any]
Holder = tuple[str, str]
"""What a property's name is the name of, and the name: ``routine``, ``type``, or nothing for tables, views and sequences."""

_CLASSES = {"function": "routine", "type": "type", "domain": "type", "composite type": "type"}

REPORTED = frozenset(
    {
        "access method",
        "column",
        "constraint",
        "disabled foreign key",
        "extension",
        "index",
        "partition bound",
        "persistence",
        "security label",
        "sequence limits",
        "tablespace",
    }
)
"""Kinds that are compared but never carried over."""


def read_properties(connection: Connection, schema: str, holders: Collection[Holder]) -> Properties:
    """Return all properties of what has its plain name."""
    # An empty search path: the definitions are run again later, and must mean the same then.
    with connection.transaction(), searching(connection, []):
        names = {
            parameter: [name for kind, name in holders if kind == of]
            for parameter, of in (("relations", ""), ("routines", "routine"), ("types", "type"))
        }
        rows = prepared.execute(connection, PROPERTIES, {"schema": schema, **names}).fetchall()
    return {tuple(key): value for key, value in rows}


def to_json(properties: Properties) -> dict[str, Any]:
    """Return properties as a JSON object."""
    return {json.dumps(list(key), ensure_ascii=False): value for key, value in properties.items()}


def from_json(document: Mapping[str, Any]) -> Properties:
    """Read what :func:`to_json` wrote."""
    return {tuple(json.loads(key)): value for key, value in document.items()}


def merge(as_built: Properties, live: Properties, new: Properties) -> Properties:
    """Return what the new table should have: the new files' properties, with everything done by hand done to it too."""
    merged = dict(new)
    holders = {_holder(key) for key in live}
    for key in as_built.keys() | live.keys():
        subjects = _subjects(key)
        if _holder(key) not in holders or (subjects and subjects.isdisjoint(live)):
            # What was on a partition, column or index that is gone cannot follow; what comes back is as the new files make it.
            continue
        # The owner stays whoever runs the migration: a table that changes hands with a deployment is nobody's intention.
        if not key[0].endswith("owner") and key in live and key in as_built and live[key] == as_built[key]:
            continue
        if key in live:
            merged[key] = live[key]
        else:
            merged.pop(key, None)
    return merged


def carry_over(connection: Connection, schema: str, present: Properties, wanted: Properties) -> list[str]:
    """Change tables from the properties they have to those they should have; return warnings of what cannot be changed.

    Requires ACCESS EXCLUSIVE on the tables.

    Raises
    ------
    MigrationError
        PostgreSQL refuses one: a trigger on a column that is gone, or no right to a publication.
    """
    warnings: list[str] = []
    changed = [key for key in present.keys() | wanted.keys() if present.get(key) != wanted.get(key)]
    # The owner first, for grants are told apart by it; comments last, for what they are on must exist.
    order = {"owner": 0, "comment": 2}
    for key in sorted(changed, key=lambda key: (order.get(key[0].split()[-1], 1), key)):
        if key[0] in REPORTED:
            warnings.append(_warning(key, wanted[key]) if key in wanted else _returning(key))
            continue
        if not _is_applicable(key, present, wanted):
            warnings.append(f"{_described(key)} is not carried over: the new table has no such object.")
            continue
        for statement in statements(schema, _with_owner(key, wanted), present.get(key), wanted.get(key)):
            _execute(connection, statement, key)
    return warnings


def left_behind(connection: Connection, schema: str, blueprint: TableBlueprint) -> list[str]:
    """Return warnings of what was made by hand on a serving table and will stay with it when it retires."""
    if not blueprint.as_built:
        return []
    as_built = from_json(blueprint.as_built)
    live = read_properties(connection, schema, holders_of(blueprint))
    holders = {_holder(key) for key in live}
    made = [
        _warning(key, value)
        for key, value in sorted(live.items())
        if key[0] in REPORTED and as_built.get(key) != value
    ]
    undone = [
        _returning(key)
        for key in sorted(as_built)
        if key[0] in REPORTED and key not in live and _holder(key) in holders
    ]
    gone = [
        f"{' '.join(holder).strip()} of {blueprint.table} was dropped by hand and comes back, if the files still create it."
        for holder in sorted({_holder(key) for key in as_built} - holders)
    ]
    return [*made, *undone, *gone]


def of_holders(properties: Properties, holders: Collection[Holder]) -> Properties:
    """Return the properties of some of what was read."""
    return {key: value for key, value in properties.items() if _holder(key) in holders}


def holders_of(blueprint: TableBlueprint) -> set[Holder]:
    """Return what of a blueprint has properties: tables, views and whatever else stands by itself."""
    return {(_CLASSES.get(item.kind, ""), item.plain) for item in blueprint.names if item.table == ""}


def tables_of(blueprint: TableBlueprint) -> list[str]:
    """Return the plain names of a blueprint's tables."""
    return [item.plain for item in blueprint.names if item.kind == "table"]


def _holder(key: Property) -> Holder:
    first, _, rest = key[0].partition(" ")
    return (first if rest and first in _CLASSES.values() else "", key[1])


def _subjects(key: Property) -> set[Property]:
    """Return the properties of which a table has one if it has what the given one is of; none where that is the table itself."""
    kind, table, *rest = key
    match kind, *rest:
        case (("statistics target" | "storage" | "compression" | "column option"), column, *_):
            return {("column", table, column)}
        case "grant", _, _, column, *_ if column:
            return {("column", table, column)}
        case "comment", ("column" | "constraint") as of, name:
            return {(of, table, name)}
        case (("comment" | "option"), "index", name, *_):
            return _index(table, name)
        case (
            ("sequence option", sequence, _)
            | ("comment", "sequence", sequence)
            | ("grant", "sequence", sequence, *_)
        ):
            return {("sequence limits", table, sequence)}
    return set()


def _is_applicable(key: Property, present: Properties, wanted: Properties) -> bool:
    """Whether what the property is of exists on the new table."""
    if key not in wanted:
        return True
    if subjects := _subjects(key):
        return not subjects.isdisjoint(present)
    kind, table, *rest = key
    match kind, *rest:
        case "comment", ("table" | "view" | "materialized view"), _:
            return ("owner", table) in present
        case "comment", of, name:
            return (of, table, name) in wanted
        case ("clustered",):
            return not _index(table, wanted[key]).isdisjoint(present)
        case ("replica identity",):
            name = wanted[key][1]
            return name is None or not _index(table, name).isdisjoint(present)
    return True


def _index(table: str, name: str) -> set[Property]:
    return {("index", table, name), ("constraint", table, name)}


def _with_owner(key: Property, wanted: Properties) -> Property:
    """Name the owner, who is kept nameless so that a table's grants compare alike whoever owns it."""
    if key[0] == "grant" and key[5] == "owner":
        return (*key[:6], wanted["owner", key[1]], key[7])
    if key[0].endswith(" grant") and key[2] == "owner":
        return (*key[:3], wanted[f"{_holder(key)[0]} owner", key[1]], key[4])
    return key


def _execute(connection: Connection, statement: sql.Composed, key: Property) -> None:
    try:
        connection.execute(statement, prepare=False)
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(SERVER_STATE):
            raise
        raise MigrationError(
            f"{_described(key)} cannot be carried over to the new table: {error.diag.message_primary}.",
            remedy="Remove it from the table that serves, or put it into the table file.",
        ) from error


def _described(key: Property) -> str:
    kind, table, *rest = key
    kind = "clustering" if kind == "clustered" else kind
    return f"The {kind} {' '.join(part for part in rest if part)}".rstrip() + f" of {table}"


def _warning(key: Property, value: Any) -> str:
    kind, table, *rest = key
    return (
        f"The {kind} {' '.join(rest)}".rstrip()
        + f" of {table} ({value}) was made by hand and is not carried over: put it into the files of {table}."
    )


def _returning(key: Property) -> str:
    kind, table, *rest = key
    return (
        f"The {kind} {' '.join(rest)}".rstrip()
        + f" of {table} was dropped by hand and comes back: take it out of the files of {table}."
    )
