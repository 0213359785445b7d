"""The parser of binary COPY gives back what was sent, however the stream is cut into blocks."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequent_py.replay.reader import RawEvent, parse

INT8 = st.integers(-(2**63), 2**63 - 1)
INT4 = st.integers(-(2**31), 2**31 - 1)
raw_events = st.tuples(
    INT8,
    INT8,
    st.binary(min_size=16, max_size=16),
    INT4,
    INT4,
    st.binary(max_size=200),
    st.binary(max_size=50),
)


def copy_stream(rows: list[RawEvent]) -> bytes:
    stream = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
    for position, created_at, aggregate_id, sequence, type_id, payload, metadata in rows:
        stream += struct.pack(">h", 7)
        for field in (
            struct.pack(">q", position),
            struct.pack(">q", created_at),
            aggregate_id,
            struct.pack(">i", sequence),
            struct.pack(">i", type_id),
            b"\x01" + payload,
            b"\x01" + metadata,
        ):
            stream += struct.pack(">i", len(field)) + field
    return stream + b"\xff\xff"


@given(st.lists(raw_events, max_size=20), st.lists(st.integers(0, 5000), max_size=30))
def test_rows_survive_any_cut_of_the_stream(rows: list[RawEvent], cuts: list[int]) -> None:
    stream = copy_stream(rows)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    blocks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert list(parse(iter(blocks))) == rows


def test_a_stream_that_ends_within_a_row_is_an_error() -> None:
    stream = copy_stream([(1, 2, b"x" * 16, 3, 4, b"{}", b"{}")])
    with pytest.raises(ValueError, match="ended within a row"):
        list(parse(iter([stream[:-10]])))


def test_something_else_than_a_copy_stream_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a binary COPY stream"):
        list(parse(iter([b"x" * 100])))
