"""Declared projections: one definition, two executions.

A :class:`~sequent_py.declared.projection.TableProjection` says what each event does to a row: create it from fields, add to a column, keep the
first or the last value, delete it. From that follow

* **handlers** (:mod:`.projection`), one per rule. A declared projection is a projector: registry, live projection, verification, quarantine,
  fingerprints and every other part of the library meets nothing new. The handlers are what the declaration *means*.
* **SQL** (:mod:`.compiler`), which a worker runs instead of the handlers for a group of a replay: one statement that reads the group's window of events
  and writes all tables. No event leaves the server.
* **a program** (:mod:`.program`) for the C module, where there is one and the rules are simple: SQL reads and checks the events, C folds them, COPY writes the rows.

The second and the third are optimizations, and no more than that: they give the rows that the handlers give, or nothing at all. Two things see to it.

*What SQL cannot express is not compiled* (:func:`.compiler.compile_table` raises ``Inexpressible`` with the reason, which the plan shows): event classes with
upcasters, validators of their own or fields that SQL cannot check; columns without an exact counterpart of a field's values; changes whose
result depends on an order that no aggregate function has (adding to a column that another rule assigns); tables that other projectors write to.

*What SQL finds odd in a group makes it give the group back.* The statement checks every event and every row's life on its way: a payload that
is not spelt as the library spells it, an update without a row, a second insert, a sum that could have left the column's range on the way.
Checks are stricter than Python's, so nothing is accepted that Python would refuse. On any doubt, and on any error of data or of a constraint, what was
written is taken back to a savepoint and the group is folded by handlers, which then raise the exact error, or show that all was well.

::

    rules        Field, Change, Rule: values, and the functions that users write
    declaration  rules checked against record and events                                 pure
    projection   TableProjection, and a handler per rule
    ----------------------------------------------------------------------------------
    payloads     what of an event class's payload SQL can check and read
    columns      from a field's SQL to exactly the value that the column's converter gives
    life         how the changes of a column come together over the events of a row      SQL
    compiler     the statement of a group
    program      what the C module is told, and the SELECT that it is given
    transfer     running a program: from COPY to COPY
    groups       running one or the other for a group, or giving it back

Windows after the first pass (catch-up) are folded by handlers: they cost in proportion to what is new, and rows that exist take part.
"""

from __future__ import annotations

from sequent_py.declared.projection import TableProjection
from sequent_py.declared.rules import (
    Field,
    Rule,
    count,
    delete,
    delete_all,
    field,
    first,
    increment,
    insert,
    last,
    running,
    update,
    upsert,
)

__all__ = [
    "Field",
    "Rule",
    "TableProjection",
    "count",
    "delete",
    "delete_all",
    "field",
    "first",
    "increment",
    "insert",
    "last",
    "running",
    "update",
    "upsert",
]
