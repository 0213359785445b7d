"""What was done to a serving table by hand, and follows it to the one that takes its place.

Properties are read as one flat mapping, under plain names. Three of them are merged: what the live table's files gave it when it was
built (kept in its blueprint), what it has now, and what the new files give. Whatever the live table has as built follows the new files;
whatever differs was done by hand, and is done to the new table too, whether that adds, changes or takes away. So a comment that the files
no longer have goes, and a grant that an administrator made stays.

Carried over: owner, grants on tables, columns and owned sequences, comments, storage options, statistics targets, replica identity,
clustering, row security and its policies, triggers, rules, extended statistics, publications. Columns, constraints and indexes made by
hand are not: building them would take time under the swap's lock, and they belong in the table file; they are reported.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.errors import MigrationError
from sequent_py.view_schema import prepared
from sequent_py.view_schema.blueprints import TableBlueprint
from sequent_py.view_schema.property_queries import PROPERTIES
from sequent_py.view_schema.property_statements import statements
from sequent_py.view_schema.script import SERVER_STATE, searching

Connection = psycopg.Connection[Any]

Property = tuple[str, ...]
"""A kind, and what it is of."""
Properties = dict[Property, Any]

REPORTED = frozenset({"column", "constraint", "index", "tablespace", "persistence"})
"""Kinds that are compared but never carried over."""


def read_properties(connection: Connection, schema: str, tables: Collection[str]) -> Properties:
    """Return all properties of tables that have their plain names."""
    # An empty search path: the definitions are run again later, and must mean the same then.
    with connection.transaction(), searching(connection, []):
        parameters = {"schema": schema, "tables": list(tables)}
        rows = prepared.execute(connection, PROPERTIES, parameters).fetchall()
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
    tables = {key[1] for key in live}
    for key in as_built.keys() | live.keys():
        if key[1] not in tables:
            # A partition that is gone has nothing that could follow; the new one is as its files made it.
            continue
        # The owner stays whoever runs the migration: a table that changes hands with a deployment is nobody's intention.
        if key[0] != "owner" and key in live and key in as_built and live[key] == as_built[key]:
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
    for key in sorted(changed, key=lambda key: (order.get(key[0], 1), key)):
        if key[0] in REPORTED:
            if key in wanted:
                warnings.append(_warning(key, wanted[key]))
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
    live = read_properties(connection, schema, tables_of(blueprint))
    return [
        _warning(key, value)
        for key, value in sorted(live.items())
        if key[0] in REPORTED and as_built.get(key) != value
    ]


def of_tables(properties: Properties, tables: Collection[str]) -> Properties:
    """Return the properties of some of the tables."""
    return {key: value for key, value in properties.items() if key[1] in tables}


def tables_of(blueprint: TableBlueprint) -> list[str]:
    """Return the plain names of a blueprint's tables."""
    return [item.plain for item in blueprint.names if item.kind == "table"]


def _is_applicable(key: Property, present: Properties, wanted: Properties) -> bool:
    """Whether what the property is of exists on the new table."""
    if key not in wanted:
        return True
    kind, table, *rest = key
    match kind, *rest:
        case (("statistics target" | "storage" | "compression" | "column option"), column, *_):
            return ("column", table, column) in present
        case "grant", "sequence", sequence, *_:
            return _has_sequence(present, table, sequence)
        case "grant", _, _, column, *_:
            return column == "" or ("column", table, column) in present
        case "comment", "table", _:
            return True
        case "comment", "sequence", name:
            return _has_sequence(present, table, name)
        case "comment", "index", name:
            return ("index", table, name) in present or ("constraint", table, name) in present
        case "comment", ("column" | "constraint") as of, name:
            return (of, table, name) in present
        case "comment", of, name:
            return (of, table, name) in wanted
        case "option", "index", name, _:
            return ("index", table, name) in present or ("constraint", table, name) in present
        case "clustered":
            name = wanted[key]
            return ("index", table, name) in present or ("constraint", table, name) in present
        case "replica identity":
            name = wanted[key][1]
            return name is None or ("index", table, name) in present or ("constraint", table, name) in present
    return True


def _with_owner(key: Property, wanted: Properties) -> Property:
    """Name the owner, who is kept nameless so that a table's grants compare alike whoever owns it."""
    if key[0] == "grant" and key[5] == "owner":
        return (*key[:6], wanted["owner", key[1]], key[7])
    return key


def _has_sequence(present: Properties, table: str, sequence: str) -> bool:
    # A sequence always has grants: its owner's, unless somebody took even those.
    return any(key[:4] == ("grant", table, "sequence", sequence) for key in present)


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
    return f"The {kind} {' '.join(part for part in rest if part)}".rstrip() + f" of {table}"


def _warning(key: Property, value: Any) -> str:
    kind, table, *rest = key
    return (
        f"The {kind} {' '.join(rest)}".rstrip()
        + f" of {table} ({value}) was made by hand and is not carried over: put it into the files of {table}."
    )
