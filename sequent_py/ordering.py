"""Orderings: across which events a projector's order matters, and why every snapshot window keeps it. Pure.

A handler of event *e* may use whatever the earlier events of its scope have written:

============= ============================== ============================================= ==========================
ordering      scope                          replayed by                                   appends wait for each other
============= ============================== ============================================= ==========================
``aggregate`` one aggregate                  one worker per slice of the aggregates        per aggregate
``partition`` all aggregates of one          one worker per slice of the keys, by position per partition key
              partition key
``global``    all events                     one worker, by position                       all
============= ============================== ============================================= ==========================

An aggregate without a partition key is a partition of its own.

Windows are cut by what snapshots see, and are read by position. That is the order in which events were written only if a snapshot that
sees an event sees every earlier one of the scope. Nothing about a snapshot makes it so: positions are drawn when events are inserted, and
transactions end in any order. So whoever appends takes a lock of the scope *before* positions are drawn and keeps it until the
transaction has ended: the unique key of the aggregate's next number, the row of the partition key, or the one row that all appends share
while ``serial_appends`` is set. Two transactions of a scope then never overlap between their first position and their end. The later one
has the higher positions, and a snapshot that sees it was taken after the earlier one had ended. For the same reason a live handler, whose
statements begin after its transaction got the lock, sees all rows of its scope's earlier events; a transaction whose snapshot is older
than the lock fails with a serialization failure instead.

Partition keys need no preparation, for they are given by an aggregate's first event and every append to it takes the key's row. The lock
of all appends is taken only while it is needed: ``view_schema.serial_order`` sets it, and says why the first snapshot after that is exact.
"""

from __future__ import annotations

from typing import Literal

Ordering = Literal["aggregate", "partition", "global"]

ORDERINGS: tuple[Ordering, ...] = ("aggregate", "partition", "global")
"""From the narrowest scope to the widest."""
