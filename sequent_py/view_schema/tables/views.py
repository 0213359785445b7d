"""Views from outside that read managed tables: they are re-pointed, so that after a swap they read the tables that serve.

PostgreSQL keeps a view's query by the identity of what it reads. So the query is printed under plain, qualified names before anything is
renamed, and read again afterwards by ``CREATE OR REPLACE VIEW``: the view stays the one it was, with its owner, grants, comments, column
defaults and ``INSTEAD OF`` triggers, and so does whatever reads the view; its options are given again. PostgreSQL refuses that if the columns would
come out with other names or types; then nothing is swapped. :mod:`sequent_py.view_schema.ddl.view_trial` finds it out before any work is done.

Replacing takes ACCESS EXCLUSIVE on the view. Its readers lock the view first and then the tables, so a swap does the same: see
:mod:`sequent_py.view_schema.ddl.locks`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.errors import DependentObjects
from sequent_py.view_schema.tables.blueprints import TableBlueprint
from sequent_py.view_schema.tables.script import SERVER_STATE, searching

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class View:
    """A view as it is to be created again."""

    oid: int
    schema: str
    name: str
    query: str
    """Printed for some search path, under which it must be read again."""
    options: Mapping[str, str]

    @property
    def described(self) -> str:
        """The name for messages."""
        return f"{self.schema}.{self.name}"


_OUTERMOST_FIRST = """
    WITH RECURSIVE readers AS (
        SELECT v.oid AS view, v.oid AS reader FROM unnest(%(views)s::oid[]) v (oid)
        UNION
        SELECT x.view, r.ev_class
        FROM readers x
        JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = x.reader
            AND d.classid = 'pg_catalog.pg_rewrite'::regclass
        JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
    )
    SELECT n.nspname, c.relname
    FROM readers x JOIN pg_catalog.pg_class c ON c.oid = x.view JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    GROUP BY c.oid, n.nspname, c.relname ORDER BY count(*), n.nspname, c.relname
"""

_VIEWS = """
    SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_get_viewdef(c.oid),
           (SELECT coalesce(jsonb_object_agg(o.option_name, o.option_value), '{}') FROM pg_catalog.pg_options_to_table(c.reloptions) o)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY (%s) ORDER BY n.nspname, c.relname
"""

_FOREIGN = """
    SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), pg_catalog.pg_get_userbyid(c.relowner), pg_catalog.quote_ident(n.nspname),
           pg_catalog.quote_ident(current_user), pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.has_schema_privilege(n.oid, 'CREATE')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY (%s) ORDER BY 1
"""


def outermost_first(connection: Connection, views: Collection[int]) -> list[tuple[str, str]]:
    """Return schema and name of views, each before those that it reads, itself or through others.

    A view that reads another is read by fewer views than that one, because whoever reads the reader reads both.
    """
    return connection.execute(_OUTERMOST_FIRST, {"views": list(views)}).fetchall()


def read_views(connection: Connection, views: Collection[int], *, search_path: Sequence[str]) -> list[View]:
    """Return views with their queries, in which what is on the search path has no schema."""
    with searching(connection, search_path):
        rows = connection.execute(_VIEWS, (list(views),)).fetchall()
    return [
        View(oid, schema, name, query.rstrip().removesuffix(";"), options)
        for oid, schema, name, query, options in rows
    ]


def repoint(connection: Connection, views: Sequence[View]) -> None:
    """Let views, read for an empty search path, read what has the names in their queries now.

    Raises
    ------
    DependentObjects
        A view would have other columns, or reads something that is gone; names both.
    """
    for view in views:
        with searching(connection, []):
            create(connection, view, sql.Identifier(view.schema, view.name), replace=True)


def create(connection: Connection, view: View, name: sql.Identifier, *, replace: bool = False) -> None:
    """Create a view from another's query and options, in the search path for which that was read.

    Raises
    ------
    DependentObjects
        PostgreSQL refuses it.
    """
    options = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(option), sql.Literal(value))
        for option, value in view.options.items()
    )
    statement = sql.SQL("CREATE {} {}{} AS {}").format(
        sql.SQL("OR REPLACE VIEW" if replace else "VIEW"),
        name,
        sql.SQL(" WITH ({})").format(options) if view.options else sql.SQL(""),
        sql.SQL(view.query),
    )
    try:
        connection.execute(statement, prepare=False)
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(SERVER_STATE):
            raise
        raise unreadable(view, error.diag.message_primary or str(error)) from error


def unreadable(view: View, reason: str) -> DependentObjects:
    """Return the error for a view that cannot read the new tables as it reads the old ones."""
    return DependentObjects(
        f"The view {view.described} cannot read the new tables: {reason.rstrip('.')}.",
        remedy="Drop the view before the migration and create it anew after it, or keep what it needs.",
    )


def refuse_foreign(connection: Connection, views: Collection[int]) -> None:
    """Refuse views that this role may not replace.

    Raises
    ------
    DependentObjects
        With all of them and what is missing.
    """
    if not views:
        return
    rows = connection.execute(_FOREIGN, (list(views),)).fetchall()
    missing = [
        f"{name} ({what})"
        for name, owner, schema, role, is_owner, may_create in rows
        for what in [
            f"it belongs to {owner}, of which {role} is no member"
            if not is_owner
            else f"{role} has no CREATE on the schema {schema}"
            if not may_create
            else ""
        ]
        if what
    ]
    if missing:
        # All that is missing at once: who is given a view needs CREATE on its schema as well.
        grants = dict.fromkeys(
            f"GRANT CREATE ON SCHEMA {schema} TO {role};"
            for _, _, schema, role, _, may_create in rows
            if not may_create
        )
        owners = [
            f"ALTER VIEW {name} OWNER TO {role};" for name, _, _, role, is_owner, _ in rows if not is_owner
        ]
        raise DependentObjects(
            f"These views read tables that will be replaced, and this role may not re-point them: {'; '.join(missing)}.",
            remedy=f"Run, as a superuser: {' '.join((*grants, *owners))}",
        )


_NAME = r'(?:"(?:[^"]|"")+"|[^\s"(),]+)'

_COLUMNS = """
    SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


def refuse_moved_columns(
    connection: Connection, views: Sequence[View], *, plain: str, old: tuple[str, str], new: tuple[str, str]
) -> None:
    """Refuse views that rename a table's columns by their order (``FROM lines l(a, b)``) where that order is another in the new table.

    Such a query would be read without complaint, and mean something else. The table is called ``plain`` in the queries; ``old``
    and ``new`` are schema and present name of the two.

    Raises
    ------
    DependentObjects
        Names the first such view.
    """
    row = connection.execute("SELECT pg_catalog.quote_ident(%s)", (plain,)).fetchone()
    assert row is not None, "quote_ident answers"
    # More than is meant may match, inside a literal perhaps: then orders are compared for nothing.
    pattern = re.compile(rf"(?<![\w\"$]){re.escape(row[0])}\*? {_NAME}\(")
    positional = [view for view in views if pattern.search(view.query)]
    if not positional:
        return
    before, after = (connection.execute(_COLUMNS, place).fetchone() for place in (old, new))
    if before is None or after is None or (after[0] or [])[: len(before[0] or [])] != (before[0] or []):
        raise unreadable(
            positional[0],
            f"it gives the columns of {plain} names of its own by their order, which is another one now",
        )


def own_views(connection: Connection, schema: str, blueprints: Iterable[TableBlueprint]) -> set[int]:
    """Return the views that serving tables' own files created: they have readers, too."""
    names = [
        item.plain for each in blueprints for item in each.names if item.kind in ("view", "materialized view")
    ]
    rows = connection.execute(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('v', 'm')",
        (schema, names),
    ).fetchall()
    return {oid for (oid,) in rows}
