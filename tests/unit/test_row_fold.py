"""The C module's fold of declared projections, against dictionaries; and what it does not take."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest

from sequent_py.native import native

pytestmark = pytest.mark.skipif(native is None, reason="there is no C module")

SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
OPENED, CHANGED, MERGED = 10, 20, 30
KEEPS, ASSIGNS, ADDS, FIRST, LAST = range(5)
NOTHING, INSERT, UPDATE, UPSERT = range(4)
SEEDS = (1, 3)
NONE = (KEEPS, True, -1)


def block(*fields: bytes | None) -> bytes:
    parts = [struct.pack(">h", len(fields))]
    parts += [b"\xff\xff\xff\xff" if item is None else struct.pack(">i", len(item)) + item for item in fields]
    return b"".join(parts)


def event(aggregate: int, type_id: int, *values: bytes | None) -> bytes:
    return block(aggregate.to_bytes(16), struct.pack(">i", type_id), *values)


def rows(data: bytes) -> list[tuple[bytes | None, ...]]:
    found, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">h", data, at)
        at += 2
        row: list[bytes | None] = []
        for _ in range(size):
            (length,) = struct.unpack_from(">i", data, at)
            at += 4
            row.append(None if length < 0 else data[at : at + length])
            at += max(length, 0)
        found.append(tuple(row))
    return found


def summing(width: int) -> Any:
    """One row for each aggregate: a sum of that width, the first text and the last one, and an event that only some rules make."""
    columns = (
        (width, 0, False, ((ASSIGNS, True, 0), (ADDS, False, 2), (ADDS, False, 2))),
        (0, -1, False, ((KEEPS, True, -1), (FIRST, False, 3), (FIRST, False, 3))),
        (0, 1, False, ((ASSIGNS, True, 1), (LAST, False, 3), (LAST, False, 3))),
    )
    table = (False, 0, (INSERT, UPDATE, UPSERT), columns)
    return native.RowFold(4, (OPENED, CHANGED, MERGED), (bytes(width), b"a constant of more than sixteen"), (table,), (), SEEDS)  # fmt: skip


def lines() -> Any:
    """A row for each event of two types, with a running total of four bytes."""
    columns = (
        (0, -1, False, ((ASSIGNS, True, 0), (ASSIGNS, False, 3))),
        (4, -1, True, ((ASSIGNS, False, 2),) * 2),
    )
    return native.RowFold(
        4, (OPENED, CHANGED), (b"opened",), ((True, 0, (INSERT, INSERT), columns),), (), SEEDS
    )


def fold(folded: Any, blocks: Iterable[bytes]) -> bool:
    return folded.fold([SIGNATURE, *blocks])  # type: ignore[no-any-return]


@pytest.mark.parametrize("width", [2, 4, 8])
def test_rows_are_those_of_a_fold_in_dictionaries(width: int) -> None:
    chance = random.Random(width)
    expected: dict[int, list[Any]] = {}
    blocks = []
    for _ in range(20_000):
        aggregate = chance.randrange(4_000) << 64
        text = chance.choice([None, b"", b"x", b"sixteen bytes are", b"longer than that: " + bytes(chance.randrange(40))])  # fmt: skip
        amount = chance.choice([None, 0, 1, -1, 300, -(2 ** (8 * width - 6))])
        sent = None if amount is None else amount.to_bytes(width, signed=True)
        row = expected.get(aggregate)
        if row is None:
            if chance.random() < 0.5:
                expected[aggregate] = [0, None, b"a constant of more than sixteen"]
                blocks.append(event(aggregate, OPENED, None, None))
                continue
            row = expected[aggregate] = [0, None, b"a constant of more than sixteen"]
            type_id = MERGED
        else:
            type_id = chance.choice([CHANGED, MERGED])
        row[0] += amount or 0
        row[1] = text if row[1] is None else row[1]
        row[2] = row[2] if text is None else text
        blocks.append(event(aggregate, type_id, sent, text))
    folded = summing(width)
    assert fold(folded, blocks)
    assert folded.fold([TRAILER])
    assert folded.has_ended
    folded.end()
    assert rows(folded.take(0)) == [
        (aggregate.to_bytes(16), total.to_bytes(width, signed=True), first, last)
        for aggregate, (total, first, last) in expected.items()
    ]
    assert (folded.rows, sum(folded.counts)) == ((len(expected),), 20_000)
    assert folded.take(0) == b""


def test_events_are_rows_with_running_totals_of_their_aggregates() -> None:
    folded = lines()
    amounts = [(1, 5), (2, 7), (1, None), (1, -9), (2, 0)]
    blocks = [
        event(aggregate, CHANGED, None if amount is None else amount.to_bytes(4, signed=True), b"changed")
        for aggregate, amount in amounts
    ]
    assert fold(folded, [*blocks, event(3, OPENED, None, None)])
    assert folded.waiting(0) > 0
    totals = [int.from_bytes(row[2], signed=True) if row[2] else None for row in rows(folded.take(0))]
    assert totals == [5, 7, 5, -4, 7, None]
    assert (folded.counts, folded.rows) == ((1, 5), (6,))


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_leaves_the_columns_range_is_odd_even_if_it_would_come_back(width: int, sign: int) -> None:
    edge = 2 ** (8 * width - 1) - (sign > 0)
    for amounts, is_well in (([edge], True), ([edge, 1], False), ([edge, -1, 1], True)):
        folded = summing(width)
        sent = [event(1, CHANGED, (sign * amount).to_bytes(width, signed=True), None) for amount in amounts]
        assert fold(folded, [event(1, OPENED, None, None), *sent]) is is_well


@pytest.mark.parametrize(
    "blocks",
    [
        [event(1, CHANGED, None, None)],
        [event(1, OPENED, None, None), event(1, OPENED, None, None)],
        [event(1, MERGED, None, None), event(1, OPENED, None, None)],
        [event(1, 99, None, None)],
        [event(1, OPENED, None, None), event(1, CHANGED, b"123", None)],
        [block(b"short", struct.pack(">i", OPENED), None, None)],
        [block(None, struct.pack(">i", OPENED), None, None)],
    ],
)
def test_what_a_rule_cannot_do_is_odd(blocks: list[bytes]) -> None:
    assert not fold(summing(8), blocks)


@pytest.mark.parametrize(
    "blocks",
    [
        [b""],
        [b"PGCOPY"],
        [SIGNATURE[:-1] + b"\x01"],
        [SIGNATURE, b"\x00"],
        [SIGNATURE, block(b"")],
        [SIGNATURE, event(1, OPENED, None, None)[:-1]],
        [SIGNATURE, event(1, OPENED, None, None) + b"x"],
        [SIGNATURE, event(1, OPENED, None, b"text")[:-2]],
        [SIGNATURE, event(1, OPENED, None, None)[:-4] + b"\xff\xff\xff\xfe"],
        [SIGNATURE, event(1, OPENED, None, None)[:-4] + b"\x7f\xff\xff\xff"],
        [SIGNATURE, TRAILER, event(1, OPENED, None, None)],
    ],
)
def test_what_is_no_row_of_the_copy_raises(blocks: list[bytes]) -> None:
    with pytest.raises(ValueError, match="not a row"):
        summing(8).fold(blocks)


@pytest.mark.parametrize(
    "told",
    [
        (1, (), (), (), (), SEEDS),
        (4, (OPENED,), ("text",), (), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (), ()),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (4,), ()),), (), SEEDS),
        (4, (OPENED,), (), ((True, 3, (INSERT,), ()),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (INSERT,), ((3, -1, False, (NONE,)),)),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (INSERT,), ((0, 0, False, (NONE,)),)),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (INSERT,), ((0, -1, False, ()),)),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (INSERT,), ((0, -1, False, ((ASSIGNS, False, 4),)),)),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (INSERT,), ((0, -1, False, ((ASSIGNS, True, 0),)),)),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (INSERT,), ((0, -1, False, ((ADDS, False, 2),)),)),), (), SEEDS),
        (4, (OPENED,), (), ((True, 0, (INSERT,), ((0, -1, True, ((ASSIGNS, False, 2),)),)),), (), SEEDS),
        (4, (OPENED,), (), ((False, 0, (INSERT,), ((0, -1, False, ((5, False, 2),)),)),), (), SEEDS),
        (4, (OPENED,), (), (), ((1, 8, (None,)),), SEEDS),
        (4, (OPENED,), (), (), ((4, 8, (None,)),), SEEDS),
        (4, (OPENED,), (), (), ((2, 8, ()),), SEEDS),
        (4, (OPENED,), (), (), ((2, 0, (None,)),), SEEDS),
        (4, (OPENED,), (), (), ((2, 3, (None,)),), SEEDS),
    ],
)
def test_a_program_that_means_nothing_is_refused(told: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        native.RowFold(*told)


def read(text: bytes | None, width: int, form: tuple[bool, int, int] | None) -> bytes | None:
    """Return what becomes of a text; ``b"odd"`` where that is not well."""
    told = ((True, 0, (INSERT,), ((0, -1, False, ((ASSIGNS, False, 2),)),)),)
    folded = native.RowFold(3, (OPENED,), (), told, ((2, width, (form,)),), SEEDS)
    if not fold(folded, [event(1, OPENED, text)]):
        return b"odd"
    [(_, value)] = rows(folded.take(0))
    return value


@pytest.mark.parametrize("width", [2, 4, 8])
def test_numbers_are_read_from_the_one_text_that_the_server_writes_for_them(width: int) -> None:
    edge = 2 ** (8 * width - 1)
    every = (-(2**63), 2**63 - 1)
    for number in (0, 1, -1, 9, 10, -10, 12_345, edge - 1, -edge, edge, -edge - 1, 2**63, 10**19, 2**64 + 1, -(2**64)):  # fmt: skip
        for is_negated in (False, True):
            meant = -number if is_negated else number
            is_well = -edge <= meant < edge and -(2**63) <= number < 2**63
            expected = meant.to_bytes(width, signed=True) if is_well else b"odd"
            assert read(str(number).encode(), width, (is_negated, *every)) == expected, number
    for text in (b"", b"-", b"-0", b"01", b"+1", b"1.0", b" 1", b"1 ", b"1_0", b"0x1", b"1e3", b"--1", "١".encode(), b"9" * 30, None):  # fmt: skip
        assert read(text, width, (False, *every)) == b"odd"


def test_numbers_out_of_their_bounds_are_odd_whatever_is_made_of_them() -> None:
    for is_negated in (False, True):
        for number in (-3, -2, 5, 6):
            is_well = -2 <= number <= 5
            assert (read(str(number).encode(), 8, (is_negated, -2, 5)) != b"odd") is is_well


def test_uuids_are_read_from_their_texts() -> None:
    value = UUID("0123abcd-ef45-6789-ABCD-EF0123456789")
    text = str(value).encode()
    assert read(text, 16, (False, 0, 0)) == value.bytes
    assert read(text.upper(), 16, (False, 0, 0)) == value.bytes
    for place in range(36):
        for other in (b"-", b"g", b"_", b"\x00", b"\xff"):
            if text[place : place + 1] != other:
                assert read(text[:place] + other + text[place + 1 :], 16, (False, 0, 0)) == b"odd"
    for wrong in (b"", text[:-1], text + b"0", value.hex.encode(), b"{" + text[1:-1] + b"}", None):
        assert read(wrong, 16, (False, 0, 0)) == b"odd"


def test_fields_of_types_that_have_no_texts_are_left_alone() -> None:
    assert read(b"7", 8, None) == b"7"
    assert read(None, 16, None) is None


def test_rows_that_must_come_in_order_and_do_not_are_odd() -> None:
    for numbers, is_well in (([1, 2, 9], True), ([1, 3, 2], False), ([1, 1], False), ([-1, 1], True)):
        told = ((True, 4, (INSERT,), ((0, -1, False, ((ASSIGNS, False, 2),)),)),)
        folded = native.RowFold(3, (OPENED,), (), told, (), SEEDS)
        blocks = [event(1, OPENED, number.to_bytes(4, signed=True)) for number in numbers]
        assert fold(folded, [event(2, OPENED, (5).to_bytes(4)), *blocks]) is is_well


def test_a_table_that_is_not_there_has_nothing_to_take() -> None:
    with pytest.raises(IndexError):
        lines().take(1)
    with pytest.raises(IndexError):
        lines().waiting(-1)
