"""The statements that give a table one property, or take it away. Pure: values in, composed SQL out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

from psycopg import sql

_FIRE: dict[str, LiteralString] = {
    "D": "ALTER TABLE {table} DISABLE {kind} {name}",
    "R": "ALTER TABLE {table} ENABLE REPLICA {kind} {name}",
    "A": "ALTER TABLE {table} ENABLE ALWAYS {kind} {name}",
}
_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"": "DEFAULT", "p": "PGLZ", "l": "LZ4"}
_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}


def statements(schema: str, key: tuple[str, ...], present: Any, wanted: Any) -> Iterator[sql.Composed]:
    """Yield what takes a property from its present value to the wanted one; None is no such property."""
    kind, table_name, *rest = key
    table = sql.Identifier(schema, table_name)
    match kind, *rest:
        case (("routine owner" | "type owner" | "routine comment" | "type comment"),):
            yield _of_standing(kind, table, wanted)
        case (("routine grant" | "type grant"), grantee_kind, grantee, privilege):
            on = sql.SQL("{} {}").format(_standing(kind), table)
            yield from _grant(_privilege(privilege), on, (grantee_kind, grantee), present, wanted)
        case "grant", *_:
            yield from _grants(schema, key, present, wanted)
        case "comment", of, name:
            yield sql.SQL("COMMENT ON {} IS {}").format(
                _commented(schema, table, of, name), sql.Literal(wanted)
            )
        case "sequence option", name, option:
            yield sql.SQL("ALTER SEQUENCE {} {}").format(
                sql.Identifier(schema, name), _sequence_option(option, wanted)
            )
        case "option", of, name, option:
            target = sql.SQL("ALTER {} {}").format(sql.SQL(of.upper()), sql.Identifier(schema, name))
            yield sql.SQL("{} {}").format(target, _option(option, wanted))
        case (("column option" | "statistics target" | "storage" | "compression"), column, *option):
            yield sql.SQL("ALTER TABLE ONLY {} ALTER COLUMN {} {}").format(
                table, sql.Identifier(column), _column_setting(kind, option, wanted)
            )
        case (("owner" | "replica identity" | "clustered" | "row security" | "forced row security"),):
            yield sql.SQL("ALTER TABLE {} {}").format(table, _table_setting(kind, wanted))
        case "statistics", name:
            yield from _extended_statistics(schema, name, present, wanted)
        case "publication", name:
            yield from _publication(table, name, present, wanted)
        case (("policy" | "trigger" | "rule"), name):
            yield from _on_table(kind, table, name, present, wanted)
        case _:
            raise ValueError(f"unknown property {key}")


def _of_standing(kind: str, name: sql.Identifier, wanted: Any) -> sql.Composed:
    """Return what gives a function or type its owner or comment."""
    if kind.endswith(" owner"):
        return sql.SQL("ALTER {} {} OWNER TO {}").format(_standing(kind), name, sql.Identifier(wanted))
    return sql.SQL("COMMENT ON {} {} IS {}").format(_standing(kind), name, sql.Literal(wanted))


def _table_setting(kind: str, wanted: Any) -> sql.Composable:
    match kind:
        case "owner":
            return sql.SQL("OWNER TO {}").format(sql.Identifier(wanted))
        case "replica identity":
            return sql.SQL("REPLICA IDENTITY {}").format(_replica_identity(*wanted))
        case "clustered" if wanted is None:
            return sql.SQL("SET WITHOUT CLUSTER")
        case "clustered":
            return sql.SQL("CLUSTER ON {}").format(sql.Identifier(wanted))
        case "row security":
            return sql.SQL("ENABLE ROW LEVEL SECURITY" if wanted else "DISABLE ROW LEVEL SECURITY")
    return sql.SQL("FORCE ROW LEVEL SECURITY" if wanted else "NO FORCE ROW LEVEL SECURITY")


def _column_setting(kind: str, option: Sequence[str], wanted: Any) -> sql.Composable:
    match kind:
        case "column option":
            return _option(option[0], wanted)
        case "statistics target":
            return sql.SQL("SET STATISTICS {}").format(sql.Literal(wanted))
        case "storage":
            return sql.SQL("SET STORAGE {}").format(sql.SQL(_STORAGE[wanted]))
    return sql.SQL("SET COMPRESSION {}").format(sql.SQL(_COMPRESSION[wanted]))


def _on_table(
    kind: str, table: sql.Identifier, name: str, present: Any, wanted: Any
) -> Iterator[sql.Composed]:
    """Yield what replaces a policy, trigger or rule."""
    if present is not None:
        yield sql.SQL("DROP {} {} ON {}").format(sql.SQL(kind.upper()), sql.Identifier(name), table)
    if wanted is not None and kind == "policy":
        yield _policy(table, name, wanted)
    elif wanted is not None:
        definition, fires = wanted
        yield sql.SQL("{}").format(sql.SQL(definition))
        if fires != "O":
            yield sql.SQL(_FIRE[fires]).format(
                table=table, kind=sql.SQL(kind.upper()), name=sql.Identifier(name)
            )


def _grants(schema: str, key: tuple[str, ...], present: Any, wanted: Any) -> Iterator[sql.Composed]:
    """Yield grants; the value is whether the grantee may grant it on."""
    _, _, of, name, column, grantee_kind, grantee, privilege = key
    right: sql.Composable = _privilege(privilege)
    if column:
        right = sql.SQL("{} ({})").format(right, sql.Identifier(column))
    # Views are tables to GRANT.
    what = sql.SQL("SEQUENCE" if of == "sequence" else "TABLE")
    on = sql.SQL("{} {}").format(what, sql.Identifier(schema, name))
    yield from _grant(right, on, (grantee_kind, grantee), present, wanted)


def _grant(
    right: sql.Composable, on: sql.Composable, grantee: tuple[str, str], present: Any, wanted: Any
) -> Iterator[sql.Composed]:
    kind, name = grantee
    role = sql.SQL("PUBLIC") if kind == "public" else sql.Identifier(name)
    if wanted is None:
        yield sql.SQL("REVOKE {} ON {} FROM {}").format(right, on, role)
        return
    if present and not wanted:
        yield sql.SQL("REVOKE GRANT OPTION FOR {} ON {} FROM {}").format(right, on, role)
    option = sql.SQL(" WITH GRANT OPTION" if wanted else "")
    yield sql.SQL("GRANT {} ON {} TO {}{}").format(right, on, role, option)


def _privilege(privilege: str) -> sql.SQL:
    if not privilege.isalpha():
        raise ValueError(f"unknown privilege {privilege!r}")
    return sql.SQL(privilege)


def _standing(kind: str) -> sql.SQL:
    # By name alone: table files do not overload functions. A domain is a type here.
    return sql.SQL("ROUTINE" if kind.startswith("routine ") else "TYPE")


def _sequence_option(option: str, wanted: Any) -> sql.Composable:
    match option:
        case "increment":
            return sql.SQL("INCREMENT BY {}").format(sql.Literal(wanted))
        case "cache":
            return sql.SQL("CACHE {}").format(sql.Literal(wanted))
        case "cycle":
            return sql.SQL("CYCLE" if wanted else "NO CYCLE")
    raise ValueError(f"unknown option {option!r}")


def _commented(schema: str, table: sql.Identifier, of: str, name: str) -> sql.Composed:
    match of:
        case "table":
            return sql.SQL("TABLE {}").format(table)
        case "column":
            return sql.SQL("COLUMN {}.{}").format(table, sql.Identifier(name))
        case "index" | "sequence" | "statistics" | "view" | "materialized view":
            return sql.SQL("{} {}").format(sql.SQL(of.upper()), sql.Identifier(schema, name))
        case "constraint" | "trigger" | "policy" | "rule":
            return sql.SQL("{} {} ON {}").format(sql.SQL(of.upper()), sql.Identifier(name), table)
    raise ValueError(f"unknown kind {of!r}")


def _option(option: str, wanted: Any) -> sql.Composed:
    name = sql.SQL(".").join(sql.Identifier(part) for part in option.split("."))
    if wanted is None:
        return sql.SQL("RESET ({})").format(name)
    return sql.SQL("SET ({} = {})").format(name, sql.Literal(wanted))


def _replica_identity(setting: str, index: str | None) -> sql.Composable:
    match setting:
        case "f":
            return sql.SQL("FULL")
        case "n":
            return sql.SQL("NOTHING")
        case "i" if index is not None:
            return sql.SQL("USING INDEX {}").format(sql.Identifier(index))
    return sql.SQL("DEFAULT")


def _policy(table: sql.Identifier, name: str, value: Any) -> sql.Composed:
    roles = sql.SQL(", ").join(
        sql.SQL("PUBLIC") if role is None else sql.Identifier(role) for role in value["roles"]
    )
    using = sql.SQL(f" USING ({value['using']})") if value["using"] is not None else sql.SQL("")
    check = sql.SQL(f" WITH CHECK ({value['check']})") if value["check"] is not None else sql.SQL("")
    return sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}{}{}").format(
        sql.Identifier(name),
        table,
        sql.SQL("PERMISSIVE" if value["permissive"] else "RESTRICTIVE"),
        sql.SQL(_COMMANDS[value["command"]]),
        roles,
        using,
        check,
    )


def _extended_statistics(schema: str, name: str, present: Any, wanted: Any) -> Iterator[sql.Composed]:
    if present is not None and (wanted is None or wanted[0] != present[0]):
        yield sql.SQL("DROP STATISTICS {}").format(sql.Identifier(schema, name))
        present = None
    if wanted is not None:
        definition, target = wanted
        if present is None:
            yield sql.SQL("{}").format(sql.SQL(definition))
        if target != (-1 if present is None else present[1]):
            yield sql.SQL("ALTER STATISTICS {} SET STATISTICS {}").format(
                sql.Identifier(schema, name), sql.Literal(target)
            )


def _publication(table: sql.Identifier, name: str, present: Any, wanted: Any) -> Iterator[sql.Composed]:
    publication = sql.Identifier(name)
    if present is not None:
        yield sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(publication, table)
    if wanted is not None:
        columns = (
            sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, wanted["columns"])))
            if wanted["columns"]
            else sql.SQL("")
        )
        where = sql.SQL(f" WHERE ({wanted['where']})") if wanted["where"] is not None else sql.SQL("")
        yield sql.SQL("ALTER PUBLICATION {} ADD TABLE {}{}{}").format(publication, table, columns, where)
