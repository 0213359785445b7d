"""Statements: SQL on one relation with a record's columns, composed once per relation and shape of filter.

Names are composed by psycopg.sql; parameters are cast to the column's type, so that what the driver guesses from a Python value does not
matter. No statement locks more than the rows it names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from psycopg import sql
from psycopg.types.json import Json, Jsonb

from sequent_py.conversions import dumper, json_text
from sequent_py.persistors.operations import Filter
from sequent_py.persistors.tables import TableShape, identifier, selected, trusted
from sequent_py.records import ColumnShape

Query = bytes


class ValuesQuery:
    """A query whose parameters are a value for each of certain columns, in their order."""

    def __init__(self, query: Query, dumpers: Iterable[Any]) -> None:
        self.query = query
        found = tuple(dumpers)
        self._dumpers = found if any(found) else None

    def parameters(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return the parameters for values that were converted to their columns' types."""
        if self._dumpers is None:
            return values
        return [
            value if value is None or dump is None else dump(value)
            for dump, value in zip(self._dumpers, values, strict=True)
        ]


class Statements:
    """Statements on the relation ``relation`` (schema and name, or a temporary table's name alone) of a table's shape."""

    def __init__(self, table: TableShape, relation: Sequence[str]) -> None:
        self.table, self.shape = table, table.record_shape
        self.relation = identifier(*relation)
        self.columns = self.shape.columns
        self.dumpers = {column.attribute: dump_parameter(column) for column in self.columns}
        self._composed: dict[Any, Query] = {}
        self._selected = sql.SQL(", ").join(
            selected(table, column, identifier(column.name)) for column in self.columns
        )
        self._selected_of_t = [
            selected(table, column, identifier("t", column.name)) for column in self.columns
        ]

    def dump(self, attribute: str, value: Any) -> Any:
        """Return a row's value as a parameter."""
        dump = self.dumpers[attribute]
        return value if value is None or dump is None else dump(value)

    def select(
        self,
        filters: Sequence[Filter],
        *,
        order: str = "",
        limit: bool = False,
        is_first: bool = False,
        lock: bool = False,
    ) -> tuple[Query, list[Any]]:
        """Select matching rows, or the first of them; ``order`` is "ASC", "DESC" or none, ``limit`` appends parameters for LIMIT and OFFSET."""
        return self._select(filters, order, limit, is_first, lock), self.parameters(filters)

    def first(self, columns: Sequence[ColumnShape], *, order: str, lock: bool) -> Query:
        """Select the first row that has given values, none of them NULL, in these columns; the values are parameters in this order."""
        return self._select([Filter(column, (...,), True) for column in columns], order, False, True, lock)

    def _select(
        self, filters: Sequence[Filter], order: str, limit: bool, is_first: bool, lock: bool
    ) -> Query:
        def compose() -> sql.Composable:
            parts: list[sql.Composable] = [
                sql.SQL("SELECT {} FROM {}").format(self._selected, self.relation),
                self.condition(filters),
            ]
            constant = [item.column for item in filters if item.is_scalar]
            terms = self._order(constant, order) if order else []
            if terms:
                parts.append(sql.SQL("ORDER BY {}").format(sql.SQL(", ").join(terms)))
            if limit:
                parts.append(sql.SQL("LIMIT %s OFFSET %s"))
            if is_first:
                # Not a parameter: the server would guess that a tenth of the rows is wanted, and plan anew every time.
                parts.append(sql.SQL("LIMIT 1"))
            if lock:
                # Two appends that update one row must not both start from the same values. No key: foreign keys may be checked meanwhile.
                parts.append(sql.SQL("FOR NO KEY UPDATE"))
            return sql.SQL(" ").join(parts)

        return self._once(("select", _shape_of(filters), order, limit, is_first, lock), compose)

    def select_keys(
        self,
        columns: Sequence[ColumnShape],
        keys: Sequence[Sequence[Any]],
        *,
        order: str = "",
        most_each: int = 1,
        by_index: bool = True,
    ) -> tuple[Query, list[Any]]:
        """Select the rows that have one of ``keys`` in ``columns``, none of them NULL.

        With an ``order``, "ASC" or "DESC", at most ``most_each`` of every key: looked for key by key, or, without an index to do it by,
        in one go through the relation.
        """
        template = sql.SQL(
            # The server goes through the index once for all of them, and through the table page by page.
            "SELECT {selected} FROM {relation} AS t WHERE {column} = ANY ({array})"
            if not order and len(columns) == 1
            else "SELECT {selected} FROM {relation} AS t JOIN {keys} ON {matches}"
            if not order
            else "SELECT f.* FROM {keys} CROSS JOIN LATERAL"
            " (SELECT {selected} FROM {relation} AS t WHERE {matches} ORDER BY {order} LIMIT %s) AS f"
            if by_index
            else "SELECT {numbered} FROM (SELECT {aliased}, row_number() OVER (PARTITION BY {parts} ORDER BY {order}) AS place"
            " FROM {relation} AS t JOIN {keys} ON {matches}) AS f WHERE f.place <= %s"
        )

        def compose() -> sql.Composable:
            names = [sql.Identifier("k", f"k{number}") for number in range(len(columns))]
            aliases = [sql.Identifier(f"c{number}") for number in range(len(self.columns))]
            comma = sql.SQL(", ")
            return template.format(
                selected=comma.join(self._selected_of_t),
                numbered=comma.join(aliases),
                aliased=comma.join(
                    sql.SQL("{} AS {}").format(value, alias)
                    for value, alias in zip(self._selected_of_t, aliases, strict=True)
                ),
                relation=self.relation,
                column=identifier("t", columns[0].name),
                array=self._array_of(columns[0]),
                keys=self._keys(columns),
                matches=_matches(columns, names),
                parts=comma.join(names),
                # Of a whole key there is one row: any order will do.
                order=comma.join(self._order(columns, order, "t") or self._order((), order, "t")),
            )

        parameters: list[Any] = [
            self._array(column, [key[number] for key in keys]) for number, column in enumerate(columns)
        ]
        named = tuple(column.attribute for column in columns)
        query = self._once(("select_keys", named, order, by_index), compose)
        return query, [*parameters, most_each] if order else parameters

    def _array(self, column: ColumnShape, values: Sequence[Any]) -> Any:
        """Return values, none of them None, as the parameter of an array."""
        # The driver looks at every element for what has to be quoted: half the cost of a statement with thousands of them.
        if column.type.family == "uuid":
            return f"{{{','.join([f'{value.int:032x}' for value in values])}}}"
        if column.type.family == "integer" and column.type.members is None:
            return f"{{{','.join(map(str, values))}}}"
        return [self.dump(column.attribute, value) for value in values]

    def _keys(self, columns: Sequence[ColumnShape]) -> sql.Composable:
        """Return the relation ``k`` of an array of parameters for each column."""
        arrays = sql.SQL(", ").join(map(self._array_of, columns))
        names = sql.SQL(", ").join(sql.Identifier(f"k{number}") for number in range(len(columns)))
        return sql.SQL("unnest({}) AS k({})").format(arrays, names)

    def _array_of(self, column: ColumnShape) -> sql.Composable:
        return sql.SQL("%s::{}[]").format(self.cast(column))

    def insert(self, given: Sequence[str], rows: int, *, returning: bool) -> Query:
        """Insert ``rows`` rows of parameters in the order of ``given``; other columns get the table's defaults."""

        def compose() -> sql.Composable:
            named = [column for column in self.columns if column.attribute in given]
            by_attribute = {column.attribute: column for column in named}
            values = sql.SQL("({})").format(
                sql.SQL(", ").join(self._parameter(by_attribute[name]) for name in given)
            )
            parts: list[sql.Composable] = [sql.SQL("INSERT INTO {}").format(self.relation)]
            if given:
                names = sql.SQL(", ").join(identifier(by_attribute[name].name) for name in given)
                # Keys that are always generated are drawn ahead, or given by the handler; without identities this says nothing.
                parts.append(sql.SQL("({}) OVERRIDING SYSTEM VALUE VALUES").format(names))
                parts.append(sql.SQL(", ").join([values] * rows))
            else:
                parts.append(sql.SQL("DEFAULT VALUES"))
            if returning:
                parts.append(sql.SQL("RETURNING {}").format(self._selected))
            return sql.SQL(" ").join(parts)

        return self._once(("insert", tuple(given), rows, returning), compose)

    def update(self, changed: Sequence[str], filters: Sequence[Filter]) -> tuple[Query, list[Any]]:
        """Set columns of matching rows; parameters of ``changed`` go before those returned."""

        def compose() -> sql.Composable:
            by_attribute = {column.attribute: column for column in self.columns}
            sets = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(
                    identifier(by_attribute[name].name), self._parameter(by_attribute[name])
                )
                for name in changed
            )
            return sql.SQL("UPDATE {} SET {} {}").format(self.relation, sets, self.condition(filters))

        return self._once(("update", tuple(changed), _shape_of(filters)), compose), self.parameters(filters)

    def delete(self, filters: Sequence[Filter], *, returning: bool = False) -> tuple[Query, list[Any]]:
        """Delete matching rows."""
        end = sql.SQL(" RETURNING {}").format(self._selected) if returning else sql.SQL("")
        return self._once(
            ("delete", _shape_of(filters), returning),
            lambda: sql.SQL("DELETE FROM {} {}{}").format(self.relation, self.condition(filters), end),
        ), self.parameters(filters)

    def delete_keys(self, keys: Sequence[Mapping[str, Any]]) -> tuple[Query, list[Any]]:
        """Delete rows by primary key; ``keys`` by attribute."""
        columns = self.shape.key_columns

        def compose() -> sql.Composable:
            names = [sql.Identifier("k", f"k{number}") for number in range(len(columns))]
            return sql.SQL("DELETE FROM {} AS t USING {} WHERE {}").format(
                self.relation, self._keys(columns), _matches(columns, names)
            )

        parameters = [[self.dump(c.attribute, key[c.attribute]) for key in keys] for c in columns]
        return self._once("delete_keys", compose), parameters

    def count(self, filters: Sequence[Filter]) -> tuple[Query, list[Any]]:
        """Count matching rows."""
        return self._once(
            ("count", _shape_of(filters)),
            lambda: sql.SQL("SELECT count(*) FROM {} {}").format(self.relation, self.condition(filters)),
        ), self.parameters(filters)

    def parameters(self, filters: Sequence[Filter]) -> list[Any]:
        """Return the parameters of the filters' WHERE clause."""
        parameters: list[Any] = []
        for item in filters:
            present = [self.dump(item.column.attribute, value) for value in item.values if value is not None]
            if not item.is_scalar:
                parameters.append(present)
            elif present:
                parameters.append(present[0])
        return parameters

    def condition(self, filters: Sequence[Filter]) -> sql.Composable:
        """Return the WHERE clause."""
        clauses = [self._clause(item) for item in filters]
        return sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(clauses)) if clauses else sql.SQL("")

    def _clause(self, item: Filter) -> sql.Composable:
        name, cast_to = identifier(item.column.name), self.cast(item.column)
        has_null = None in item.values
        if item.is_scalar:
            if has_null:
                return sql.SQL("{} IS NULL").format(name)
            return sql.SQL("{} = %s::{}").format(name, cast_to)
        template = "({} = ANY(%s::{}[]) OR {} IS NULL)" if has_null else "{} = ANY(%s::{}[])"
        return (
            sql.SQL(template).format(name, cast_to, name)
            if has_null
            else sql.SQL(template).format(name, cast_to)
        )

    def cast(self, column: ColumnShape) -> sql.Composable:
        """Return the type that parameters of a column are cast to."""
        return trusted(self.table.type_texts[column.attribute])

    def _parameter(self, column: ColumnShape) -> sql.Composable:
        return sql.SQL("%s::{}").format(self.cast(column))

    def _order(
        self, constant: Collection[ColumnShape], direction: str, *qualifier: str
    ) -> list[sql.Composable]:
        """Return the terms of the primary key's order, but for columns that the filters make ``constant``.

        The server sees that only where the collations agree, and would sort all rows of an owner, say, to find the newest one that
        the key's index has at its end: each append would cost more than the one before.
        """
        terms: list[sql.Composable] = []
        alike = {column.attribute for column in constant if _is_identity(column)}
        for column in self.shape.key_columns:
            if column.attribute in alike:
                continue
            name: sql.Composable = identifier(*qualifier, column.name)
            if column.type.family == "text":
                # By code point, as Python sorts; enums and citext are cast because they have orders of their own.
                is_plain = column.type.name in ("text", "varchar", "bpchar")
                name = sql.SQL('{} COLLATE "C"' if is_plain else '{}::text COLLATE "C"').format(name)
            terms.append(sql.SQL("{} DESC" if direction == "DESC" else "{} ASC").format(name))
        return terms

    def _once(self, key: Any, compose: Any) -> Query:
        query = self._composed.get(key)
        if query is None:
            query = self._composed[key] = compose().as_bytes(None)
        return query


def _is_identity(column: ColumnShape) -> bool:
    """Whether values that are equal to the server sort alike: not those of citext."""
    return column.type.family != "text" or column.type.name in ("text", "varchar", "bpchar")


def _matches(columns: Sequence[ColumnShape], keys: Sequence[sql.Composable]) -> sql.Composable:
    """Return the condition that a row of ``t`` has the values ``keys`` in these columns."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(identifier("t", column.name), key)
        for column, key in zip(columns, keys, strict=True)
    )


def dump_parameter(column: ColumnShape) -> Any:
    """Return what makes a row's value (not None) a parameter; None where it is one. One spelling of JSON for every way into a table."""
    if column.type.family == "json":
        return partial(Jsonb if column.type.name == "jsonb" else Json, dumps=json_text)
    return dumper(column.type)


def _shape_of(filters: Iterable[Filter]) -> tuple[Any, ...]:
    """Return what of the filters shows in the SQL text."""
    return tuple((item.column.attribute, item.is_scalar, None in item.values) for item in filters)


def statements_of(table: TableShape) -> Statements:
    """Return the statements on the table itself, composed at first use."""
    return table.derived(_composed)


def _composed(table: TableShape) -> Statements:
    return Statements(table, (table.schema, table.name))
