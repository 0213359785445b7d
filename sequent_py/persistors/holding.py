"""Held updates: what one append writes to the same row several times reaches the server once.

Each update leaves a version of the row behind, which nothing can clear away before the transaction ends, and which everything that looks for the row walks past: thousands
of events of one append, with a row that each of them changes, would cost the square of their number. So, as long as more events come, a table may hold the update of the row that was locked last
(:class:`OwnRow`), and whoever looks up the same row is answered from it. Whatever else is asked of the table or written to it goes behind.

That is sound because nobody else sees the row in between: it is locked, and only handlers read within the transaction. It is done only where the server has nothing to say against one
state that it would not say against the next (:func:`holdable_columns`): no triggers, rules or policies, nothing that is to be unique, no foreign keys, no CHECK. Only a generated column
whose expression fails for a state between two events would have been refused; as in a replay, it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from sequent_py.cursors import OwnCursor
from sequent_py.persistors.generators import Values
from sequent_py.persistors.lookups import LookUp
from sequent_py.persistors.operations import RowOperations
from sequent_py.persistors.tables import TableShape
from sequent_py.row_classes import Row

Holdable = Mapping[str, frozenset[str]]
"""By the names of tables whose rows may be remembered, the names of the columns whose updates may be held."""


class OwnRow:
    """The row of a table that the append has locked or inserted last, as it is with what is held."""

    __slots__ = ("_look_up", "_values", "changed", "held_for", "key", "row")

    def __init__(
        self, operations: RowOperations, row: Row, look_up: LookUp | None = None, values: Sequence[Any] = ()
    ) -> None:
        self.row = row
        self.changed: Values = {}
        """What the server does not know yet, by attribute."""
        self.held_for: Any = None
        """The handler that changed it last, and the event."""
        self._look_up, self._values = look_up, values
        self.key = operations.key_values(row)
        """As the server has it."""

    def is_found_by(self, look_up: LookUp, values: Sequence[Any]) -> bool:
        """Whether the look-up, by converted values, finds this row and no other."""
        if look_up is self._look_up and values == self._values:
            return True
        key = self.key
        return len(values) == len(key) and all(
            column.attribute in key and key[column.attribute] == value
            for column, value in zip(look_up.columns, values, strict=True)
        )

    def stays_found(self, changed: Values) -> bool:
        """Whether it will be found as it was, with these columns changed."""
        return changed.keys().isdisjoint(self.key) and (
            self._look_up is None or not any(column.attribute in changed for column in self._look_up.columns)
        )


_HOLDABLE = """
SELECT c.relname::text, array_agg(a.attname::text) FILTER (WHERE a.atttypmod = -1 AND t.typtype IN ('b', 'e') AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY (k.conkey)
    ) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion) AND a.attnum = ANY (i.indkey::int2[])
    )),
    bool_or(c.relkind <> 'r' OR c.relhassubclass OR EXISTS (
        SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid
    ) OR EXISTS (
        SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'
    ) OR EXISTS (
        SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
    )),
    bool_or(c.relkind NOT IN ('r', 'p') OR c.relrowsecurity OR EXISTS (
        SELECT FROM pg_catalog.pg_attrdef d
        JOIN pg_catalog.pg_depend x ON x.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND x.objid = d.oid
        WHERE d.adrelid = c.oid AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    ))
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE n.nspname = %s AND c.relname = ANY (%s)
GROUP BY c.relname
"""
# A foreign key of the table's own could delete its rows from elsewhere; one that refers to it sees its key only, which is not held. An index by an expression may fail.
# Where a policy or a default could look at any table, no table's updates are held; nor are those of a table that two records share, whose statements would not meet.


def holdable_columns(
    connection: psycopg.Connection[Any], schema: str, tables: Sequence[TableShape]
) -> Holdable:
    """Return what may be remembered and held of tables none of which has effects on others."""
    names = Counter(table.name for table in tables)
    with OwnCursor(connection) as cursor:
        found = cursor.execute(_HOLDABLE, (schema, list(names))).fetchall()
    if any(may_look_elsewhere for *_, may_look_elsewhere in found):
        return {}
    return {
        name: frozenset(columns or ())
        for name, columns, is_special, _ in found
        if not is_special and names[name] == 1
    }
