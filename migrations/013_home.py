"""Where the bookkeeping is at home: the cluster whose snapshots it holds, and the view schema whose tables it records.

A row's xmin is its writer in the cluster that it is in: after a dump and restore that is the restore, whatever the columns say. So a row that names its
writer tells whether it was restored, and when. A physical copy, pg_upgrade and a clone of the database keep both, and the ids with them.
"""

from __future__ import annotations

from typing import Any


def up(op: Any) -> None:
    """Create the table with its row; the next phase of a view migration fills it in."""
    op.run(HOME)


def down(op: Any) -> None:
    """Drop it."""
    op.run("DROP TABLE home")


HOME = """
CREATE TABLE home (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    marked_by xid8,
    marked_as oid,
    view_schema text,
    CONSTRAINT home_mark_check CHECK ((marked_by IS NULL) = (marked_as IS NULL))
);
INSERT INTO home DEFAULT VALUES;

COMMENT ON TABLE home IS 'One row: the cluster and the view schema that the bookkeeping belongs to.';
COMMENT ON COLUMN home.marked_by IS 'The transaction that wrote this row; where xmin is another one, the store was restored from a dump by that.';
COMMENT ON COLUMN home.marked_as IS 'The oid of this table as of then: two young clusters may well use the same transaction id.';
COMMENT ON COLUMN home.view_schema IS 'The schema in which the recorded tables are; null until the first phase that begins after this column came.';
"""
