"""Snapshot texts and window conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequent_py.errors import StoreError
from sequent_py.windows import Snapshot, parse_snapshot, window_condition


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    xmin = draw(st.integers(1, 1 << 40))
    width = draw(st.integers(0, 30))
    in_progress = draw(st.sets(st.integers(xmin, xmin + width - 1))) if width else set()
    return Snapshot(xmin, xmin + width, tuple(sorted(in_progress)))


@given(snapshots())
def test_snapshots_survive_their_text(snapshot: Snapshot) -> None:
    assert parse_snapshot(str(snapshot)) == snapshot


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1:2",
        "0:2:",
        "3:2:",
        "1:2:2",
        "3:9:2",
        "1:9:5,4",
        "1:9:4,4",
        "1:9:4,",
        "1:9:,4",
        " 1:9:4",
        "1:9:4\n",
        "1:9:-4",
        "1:18446744073709551616:",
        "1:9:4'; DROP TABLE events; --",
        "\u0661:9:4",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="not a PostgreSQL snapshot"):
        parse_snapshot(text)
    for since, until in ((text, None), (None, text)):
        with pytest.raises(StoreError):
            window_condition(since, until)


def test_the_condition_holds_literals_only() -> None:
    text = window_condition("10:20:12,15", "30:40:").as_string(None)
    assert text == (
        "(\"xact_id\" >= '20'::xid8 OR \"xact_id\" = ANY ('{12,15}'::xid8[]))"
        " AND NOT pg_visible_in_snapshot(\"xact_id\", '10:20:12,15'::pg_snapshot)"
        " AND \"xact_id\" < '40'::xid8"
        " AND pg_visible_in_snapshot(\"xact_id\", '30:40:'::pg_snapshot)"
    )
    assert "%" not in text
    assert window_condition(None, None).as_string(None) == "true"


@given(snapshots(), st.integers(1, 1 << 41))
def test_a_transaction_is_seen_or_is_what_the_index_looks_for(snapshot: Snapshot, xact_id: int) -> None:
    is_looked_for = xact_id >= snapshot.xmax or xact_id in snapshot.in_progress
    assert snapshot.sees(xact_id) == (not is_looked_for)
