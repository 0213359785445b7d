"""Tables: what the database knows of a record's table.

Reads the catalogue only; takes no lock but that of reading. A :class:`TableShape` is a value made once per table and shared by every
persistor on it: the record's shape refined to the table's exact types, and what its column defaults are.

Defaults that are literals are evaluated once. All others (sequences, identities, ``gen_random_uuid()``, ``now()``) are *drawn*: evaluated
by the server in blocks, ahead of need, by :class:`DefaultSource`. Drawn values that are never used leave gaps, as rollbacks do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar, cast

import psycopg
from psycopg import sql

from sequent_py.column_types import ColumnType, array_type, simple_type, text_type
from sequent_py.conversions import loader
from sequent_py.cursors import OwnCursor
from sequent_py.errors import TableFileError
from sequent_py.records import ColumnShape, RecordShape

D = TypeVar("D")

_LITERAL = re.compile(
    r"""(?x) ^ (?: '(?:[^']|'')*' (?: :: [^'():]+ (?:\(\d+(?:,\s*-?\d+)?\))? (?:\[\])? )?   # 'text'::type, as a folded constant is printed
               | \(? -? \d+ (?: \.\d+ )? \)? (?: ::[\w .]+ (?:\(\d+(?:,\s*-?\d+)?\))? )?
               | true | false | NULL (?: ::[^'():]+ (?:\(\d+\))? (?:\[\])? )? ) $"""
)
"""Expressions that are plainly constant. Anything else is drawn, which is right for every expression, only slower.
``('now'::text)::date`` must not match: it is printed with parentheses because it is not folded."""


@dataclass(frozen=True)
class ReflectedColumn:
    """A column as the catalogue has it. ``type`` is None where records cannot have such a column."""

    name: str
    type: ColumnType | None
    type_text: str
    """The type in SQL, domains resolved, without length or precision; qualified unless it is in pg_catalog."""
    not_null: bool
    default: str | None
    identity: str
    """``a`` always, ``d`` by default, empty for none."""
    is_generated: bool
    primary_key: int | None
    """The place in the primary key, from 1."""


@dataclass(frozen=True, eq=False)
class TableShape:
    """A record's table. ``record_shape.columns`` have the table's exact types; other mappings are by attribute."""

    record_shape: RecordShape
    schema: str
    name: str
    constant_defaults: Mapping[str, Any]
    drawn_defaults: Mapping[str, str]
    type_texts: Mapping[str, str]
    """What a parameter is cast to, as SQL text."""
    always_identities: frozenset[str]
    """Attributes that no UPDATE may set (GENERATED ALWAYS AS IDENTITY)."""
    key_constraints: frozenset[str]
    """Names under which the server reports a violated primary key; partitions have names of their own."""
    _derived: dict[Callable[[TableShape], Any], Any] = field(default_factory=dict, repr=False)

    def derived(self, make: Callable[[TableShape], D]) -> D:
        """Return composed statements or compiled functions, which depend on nothing but this value: made at first use, the same every time."""
        found = self._derived.get(make)
        if found is None:
            found = self._derived[make] = make(self)
        made: D = found
        return made


def identifier(*names: str) -> sql.SQL:
    """Quote a name for statements that are executed with parameters, where psycopg reads ``%`` as a placeholder even inside quotes."""
    return trusted(sql.Identifier(*names).as_string(None))


def trusted(text: str) -> sql.SQL:
    """Take text that the server itself wrote (types, default expressions) as SQL for statements with parameters."""
    return sql.SQL(text.replace("%", "%%"))


_COLUMNS = """
WITH RECURSIVE base AS (
    -- Domains are followed down to what they are made of; a length may be given at any level.
    SELECT a.attnum, a.atttypid AS oid, a.atttypmod AS modifier, a.attnotnull AS not_null, NULL::text COLLATE "C" AS default_text
    FROM pg_attribute a
    WHERE a.attrelid = %(relation)s AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum, t.typbasetype, t.typtypmod, b.not_null OR t.typnotnull,
           coalesce(b.default_text, pg_get_expr(t.typdefaultbin, 0))
    FROM base b JOIN pg_type t ON t.oid = b.oid
    WHERE t.typtype = 'd'
)
SELECT a.attname, b.modifier, b.not_null, a.attidentity::text, a.attgenerated::text <> '',
       coalesce(pg_get_expr(d.adbin, d.adrelid), b.default_text),
       format_type(t.oid, -1), t.typname, t.typtype::text, t.typcategory::text, t.typnamespace = 'pg_catalog'::regnamespace,
       coalesce(c.collisdeterministic, true),
       (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = coalesce(el.oid, t.oid)),
       (SELECT array_position(i.indkey::int2[], a.attnum) + 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary),
       el.typname, el.typtype::text, el.typcategory::text, el.typnamespace = 'pg_catalog'::regnamespace,
       CASE WHEN a.attidentity <> '' THEN
           format('nextval(%%L::regclass)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname))
       END
FROM base b
JOIN pg_attribute a ON a.attrelid = %(relation)s AND a.attnum = b.attnum
JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
LEFT JOIN pg_type el ON t.typcategory = 'A' AND el.oid = t.typelem
LEFT JOIN pg_collation c ON c.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''
ORDER BY a.attnum
"""


def reflect_columns(
    connection: psycopg.Connection[Any], schema: str, name: str
) -> tuple[ReflectedColumn, ...]:
    """Return the columns of a table in their order.

    Raises
    ------
    TableFileError
        There is no such table.
    """
    with connection.transaction(), OwnCursor(connection) as cursor:
        cursor.execute(
            "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
            (schema, name),
        )
        found = cursor.fetchone()
        if found is None:
            raise TableFileError(f"There is no table {schema}.{name}.")
        # Expressions and types are printed for an empty search path, so that they mean the same wherever they are run.
        cursor.execute("SELECT current_setting('search_path'), set_config('search_path', '', true)")
        (search_path, _) = cast(tuple[str, str], cursor.fetchone())
        cursor.execute(_COLUMNS, {"relation": found[0]})
        rows = cursor.fetchall()
        cursor.execute("SELECT set_config('search_path', %s, true)", (search_path,))
    return tuple(_reflected(row) for row in rows)


def _reflected(row: tuple[Any, ...]) -> ReflectedColumn:
    (name, modifier, not_null, identity, is_generated, default, type_text, *rest) = row
    (type_name, kind, category, is_own, is_deterministic, labels, key_place, *element, sequence) = rest
    if element[0] is not None:
        inner = _known_type(element[0], element[1], element[2], element[3], modifier, labels, True)
        column_type = None if inner is None or inner.is_mutable else array_type(inner)
    else:
        column_type = _known_type(type_name, kind, category, is_own, modifier, labels, is_deterministic)
    if sequence is not None:
        default = sequence
    return ReflectedColumn(name, column_type, type_text, not_null, default, identity, is_generated, key_place)


def _known_type(
    name: str,
    kind: str,
    category: str,
    is_own: bool,
    modifier: int,
    labels: list[str] | None,
    is_deterministic: bool,
) -> ColumnType | None:
    """Return the type as far as values go; None for one that records cannot have."""
    details: dict[str, Any] = {}
    if not is_deterministic:
        details["unfilterable"] = (
            "its collation is not deterministic; only the server knows which texts are equal"
        )
    if kind == "d":
        # Only as an array's element: nothing says what a domain's array is made of.
        return None
    if kind == "e":
        return text_type("enum", labels=tuple(labels or ()))
    if not is_own:
        if category != "S":
            return None
        return text_type(name, unfilterable=f"only the server knows which {name} values are equal")
    if modifier >= 0:
        match name:
            case "varchar" | "bpchar":
                details["length"] = modifier - 4
            case "numeric":
                # Eleven bits of two's complement: negative scales came with PostgreSQL 15.
                scale = ((modifier - 4) & 0x7FF ^ 0x400) - 0x400
                details.update(precision=(modifier - 4) >> 16 & 0xFFFF, scale=scale)
            case "timestamptz" | "timestamp" | "time":
                details["precision"] = modifier
            case "interval":
                return None
    try:
        return simple_type(name, **details)
    except KeyError:
        return None


def column_mismatches(shape: RecordShape, columns: Sequence[ReflectedColumn]) -> list[str]:
    """Say in which ways a table does not fit its record; an empty list when it does.

    A table column that the record lacks is fine unless it is NOT NULL without a default: then no row could be inserted.
    """
    reflected = {column.name: column for column in columns}
    wanted = {column.name: column for column in (*shape.columns, *shape.readers_only)}
    found = [
        problem
        for column in wanted.values()
        for problem in _column_problems(shape, column, reflected.get(column.name))
    ]
    for column in columns:
        is_filled = column.default is not None or column.is_generated
        if column.name not in wanted and column.not_null and not is_filled:
            found.append(
                f"the table's column {column.name} is NOT NULL without a default, and {shape.name} does not have it"
            )
    keys = sorted((column.primary_key, column.name) for column in columns if column.primary_key is not None)
    table_key = tuple(name for _, name in keys)
    # A table that is being loaded may not have its key yet; it is the record's then.
    if table_key and table_key != shape.primary_key:
        found.append(
            f"the table's primary key is ({', '.join(table_key)}), {shape.name}'s is ({', '.join(shape.primary_key)})"
        )
    return found


def _column_problems(shape: RecordShape, column: ColumnShape, found: ReflectedColumn | None) -> Iterator[str]:
    named = f"{shape.name}.{column.attribute}"
    if found is None:
        yield f"the table has no column {column.name}, which {named} is mapped to"
        return
    if found.type is None:
        yield f"the table's column {column.name} is {found.type_text}, which records cannot have"
    elif _family(found.type) != _family(column.type):
        yield f"the table's column {column.name} is {found.type}, {named} is {column.type}"
    elif column.primary_key and found.type.unfilterable:
        yield f"the table's column {column.name} cannot be part of the primary key: {found.type.unfilterable}"
    if found.is_generated and not column.generated:
        yield f"the table's column {column.name} is generated; declare {named} with mapped_column(Computed(…))"
    if column.generated and not found.is_generated:
        yield f"{named} is declared as computed, the table's column {column.name} is not generated"


def _family(column_type: ColumnType) -> tuple[str, str | None]:
    return column_type.family, column_type.element.family if column_type.element is not None else None


def read_table_shape(
    connection: psycopg.Connection[Any], shape: RecordShape, schema: str, name: str
) -> TableShape:
    """Return what the database knows of a record's table.

    Raises
    ------
    TableFileError
        There is no such table, or it does not fit the record; names every difference.
    """
    reflected = reflect_columns(connection, schema, name)
    problems = column_mismatches(shape, reflected)
    if problems:
        raise TableFileError(f"{schema}.{name} does not fit {shape.name}: {'; '.join(problems)}.")
    by_name = {column.name: column for column in reflected}
    columns = [_refine(column, by_name[column.name]) for column in shape.columns]
    defaults = {
        column.attribute: default
        for column in columns
        if column.attribute not in shape.python_defaults
        and (default := by_name[column.name].default) is not None
    }
    drawn = {name: text for name, text in defaults.items() if not is_constant(text)}
    table = TableShape(
        record_shape=shape.with_columns(columns),
        schema=schema,
        name=name,
        constant_defaults=MappingProxyType({}),
        drawn_defaults=MappingProxyType(drawn),
        type_texts=MappingProxyType({c.attribute: by_name[c.name].type_text for c in columns}),
        always_identities=frozenset(c.attribute for c in columns if by_name[c.name].identity == "a"),
        key_constraints=_key_constraints(connection, schema, name),
    )
    constants = {
        attribute: evaluate(connection, table, attribute, text, 1)[0]
        for attribute, text in defaults.items()
        if attribute not in drawn
    }
    return replace(table, constant_defaults=MappingProxyType(constants))


def is_constant(expression: str) -> bool:
    """Whether a default, as the server prints it, is plainly the same for every row."""
    return _LITERAL.match(expression) is not None


def _key_constraints(connection: psycopg.Connection[Any], schema: str, name: str) -> frozenset[str]:
    with OwnCursor(connection) as cursor:
        cursor.execute(
            "SELECT k.conname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_constraint k ON k.contype = 'p'"
            " AND (k.conrelid = c.oid OR k.conrelid IN (SELECT relid FROM pg_partition_tree(c.oid)))"
            " WHERE n.nspname = %s AND c.relname = %s",
            (schema, name),
        )
        return frozenset(constraint for (constraint,) in cursor)


def _refine(column: ColumnShape, found: ReflectedColumn) -> ColumnShape:
    """Take the table's exact type and NOT NULL; an enum's Python members are the record's to say."""
    assert found.type is not None
    column_type = found.type
    if column.type.members is not None:
        column_type = replace(column_type, members=column.type.members)
    elif column_type.element is not None and column.type.element is not None and column.type.element.members:
        column_type = array_type(replace(column_type.element, members=column.type.element.members))
    return replace(column, type=column_type, nullable=not (found.not_null or column.primary_key))


def selected(table: TableShape, column: ColumnShape, expression: sql.Composable) -> sql.Composable:
    """Return what to select so that the driver gives a value it knows: text for types that came with an extension or an application."""
    plain = column.type.element or column.type
    if plain.family == "text" and plain.name not in ("text", "varchar", "bpchar"):
        return sql.SQL("{}::{}").format(expression, sql.SQL("text[]" if column.type.element else "text"))
    return expression


def evaluate(
    connection: psycopg.Connection[Any], table: TableShape, attribute: str, expression: str, count: int
) -> list[Any]:
    """Return ``count`` values of a default expression as rows have them."""
    column = table.record_shape.by_attribute[attribute]
    cast_to = sql.SQL("({})::{}").format(trusted(expression), trusted(table.type_texts[attribute]))
    query = sql.SQL("SELECT {} FROM generate_series(1, %s)").format(selected(table, column, cast_to))
    with OwnCursor(connection) as cursor:
        values = [value for (value,) in cursor.execute(query, (count,))]
    load = loader(column.type)
    return [value if value is None or load is None else load(value) for value in values]


class DefaultSource:
    """Draws the defaults of a table's columns in blocks of ``block_size``, one statement per block.

    Sequences are shared with everybody else who inserts; drawing is not undone by a rollback.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], table: TableShape, block_size: int = 1000
    ) -> None:
        self._connection, self._table, self._block_size = connection, table, block_size
        self._drawers: dict[str, Callable[[], Any]] = {}

    def draw(self, column: str) -> Any:
        """Return the next default of an attribute that has a drawn one."""
        return self.drawer(column)()

    def drawer(self, attribute: str) -> Callable[[], Any]:
        """Return the function that draws one attribute's defaults; it outlives failures of the connection."""
        if attribute not in self._drawers:
            self._drawers[attribute] = self._build_drawer(attribute)
        return self._drawers[attribute]

    def _build_drawer(self, attribute: str) -> Callable[[], Any]:
        expression = self._table.drawn_defaults[attribute]
        block: list[Any] = []
        pop = block.pop

        def draw() -> Any:
            try:
                return pop()
            except IndexError:
                values = evaluate(self._connection, self._table, attribute, expression, self._block_size)
            block.extend(reversed(values))
            return pop()

        return draw
