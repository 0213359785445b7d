"""Conversions: which Python values a PostgreSQL column takes, and what they become.

Pure: no database. Derived from a :class:`~sequent_py.column_types.ColumnType`:

* ``converter``: any value to the exact value that the column would give back, or :class:`ValueError` with the reason. Converting in
  Python is what makes a row in memory equal to the same row read from the table: rounding to ``numeric(12,2)``, ``real`` or
  ``timestamptz(3)``, key order and number spelling of ``jsonb``, blanks of ``char(n)`` are all done here, once.
* ``loader``: what the driver returned to that same exact value; None where they are equal already.
* ``dumper``: that value to what the driver takes; None where it takes it as it is.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from sequent_py.column_types import INTEGER_BOUNDS, ColumnType

Convert = Callable[[Any], Any]

EPOCH = datetime(2000, 1, 1)
"""PostgreSQL rounds timestamps away from this moment."""

_NAN, _DECIMAL_NAN = math.nan, Decimal("NaN")
"""The only NaNs in rows: dictionaries find a NaN by identity, as PostgreSQL's ``=`` finds it by value."""
_NO_OFFSET = timedelta()
_WIDE = Context(prec=150_000, rounding=ROUND_HALF_UP)
"""Wide enough for every numeric (131072 digits before the point, 16383 after). Half *up* is away from zero in ``decimal``'s terms."""


def converter(column_type: ColumnType) -> Convert:
    """Return the function that converts a value (not None) or raises ValueError saying why not."""
    match column_type.family:
        case "integer":
            bound = INTEGER_BOUNDS[column_type.name]
            return lambda value: _integer(value, bound)
        case "boolean":
            return lambda value: _exact(value, bool)
        case "float":
            return _float4 if column_type.name == "float4" else _float8
        case "numeric":
            return lambda value: _numeric(value, column_type.precision, column_type.scale)
        case "text":
            return _text_converter(column_type)
        case "uuid":
            return _uuid
        case "timestamptz" | "timestamp":
            is_aware = column_type.family == "timestamptz"
            return lambda value: _timestamp(value, is_aware, column_type.precision)
        case "date":
            return lambda value: _exact(value, date)
        case "time":
            return lambda value: _time(value, column_type.precision)
        case "interval":
            return lambda value: _exact(value, timedelta)
        case "bytea":
            return _bytes
        case "json":
            return _jsonb if column_type.name == "jsonb" else _json
        case "array":
            assert column_type.element is not None
            convert = converter(column_type.element)
            return lambda value: _array(value, convert)
    raise AssertionError(column_type)


def loader(column_type: ColumnType) -> Convert | None:
    """Return what makes the driver's value (not None) the row's value; None where it is that already."""
    if column_type.members is not None:
        return dict(column_type.members).__getitem__
    match column_type.family:
        case "float":
            return _float4 if column_type.name == "float4" else _float8
        case "numeric":
            # NaN is the only value that differs from itself; a signalling one cannot come from the server.
            return lambda value: value if value == value else _DECIMAL_NAN
        case "timestamptz":
            # The driver answers in the session's time zone.
            return lambda value: value.astimezone(UTC)
        case "array":
            assert column_type.element is not None
            load = loader(column_type.element)
            if load is None:
                return None
            return lambda value: [None if item is None else load(item) for item in value]
    return None


def dumper(column_type: ColumnType) -> Convert | None:
    """Return what makes a row's value (not None) plain for the driver; None where it is. JSON is the persistors' matter."""
    if column_type.members is not None:
        labels = {member: label for label, member in column_type.members.items()}
        return labels.__getitem__
    if column_type.element is not None:
        dump = dumper(column_type.element)
        if dump is not None:
            return lambda value: [None if item is None else dump(item) for item in value]
    return None


def is_same(before: Any, after: Any) -> bool:
    """Whether writing ``after`` over ``before`` would leave the stored bytes as they are.

    Stricter than ``==``: 1.0 and 1.00 are different numerics, 1 and True different JSON.
    """
    if before is after:
        return True
    return type(before) is type(after) and before == after and repr(before) == repr(after)


def _refuse(value: Any, wanted: str) -> ValueError:
    return ValueError(f"{wanted} is needed")


def _exact(value: Any, wanted: type) -> Any:
    # Not isinstance: a datetime is a date, and a bool an int, to Python alone.
    if type(value) is not wanted:
        raise _refuse(value, f"a {wanted.__name__}")
    return value


def _integer(value: Any, bound: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(value, "an int")
    if not -bound <= value < bound:
        raise ValueError("out of range")
    return int(value)


def _float8(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise _refuse(value, "a float")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("out of range") from None
    return _NAN if math.isnan(number) else number


def _float4(value: Any) -> float:
    number = _float8(value)
    if math.isnan(number):
        return _NAN
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    except OverflowError:
        raise ValueError("out of range") from None
    if rounded == 0 and number != 0:
        raise ValueError("out of range")
    return float(rounded)


def _numeric(value: Any, precision: int | None, scale: int | None) -> Decimal:
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        number = Decimal(value)
    else:
        raise _refuse(value, "a Decimal or an int")
    if number.is_nan():
        return _DECIMAL_NAN
    if number.is_infinite():
        if precision is not None:
            raise ValueError("out of range")
        return number
    if precision is not None:
        assert scale is not None
        if number and number.adjusted() > max(precision - scale, 0):
            # Refused before rounding, which would write out every digit of 1E+999999.
            raise ValueError(f"out of range for {precision} digits, {scale} of them after the point")
        number = number.quantize(Decimal((0, (1,), -scale)), context=_WIDE)
        if number.adjusted() >= precision - scale and number:
            raise ValueError(f"out of range for {precision} digits, {scale} of them after the point")
    elif number.adjusted() >= 131_072 or _exponent(number) < -16_383:
        raise ValueError("out of range")
    if _exponent(number) > 0:
        number = number.quantize(Decimal(1), context=_WIDE)
    return number if number else number.copy_abs()


def padding(scale: int) -> Callable[[Decimal], Decimal]:
    """Return what gives a number that has fewer digits behind the point exactly so many."""
    unit = Decimal((0, (1,), -scale))
    return lambda number: number.quantize(unit, context=_WIDE)


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent


def _plain_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(value, "a str")
    text = str.__str__(value)
    if "\0" in text:
        raise ValueError("PostgreSQL stores no NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds a lone surrogate") from None
    return text


def _text_converter(column_type: ColumnType) -> Convert:
    length, labels, members = column_type.length, column_type.labels, column_type.members
    if members is not None:
        by_label = dict(members)
        known = frozenset(members.values())

        def member(value: Any) -> Enum:
            if isinstance(value, Enum) and value in known:
                return value
            if isinstance(value, str) and value in by_label:
                return by_label[value]
            raise ValueError(f"one of {', '.join(by_label)} is needed")

        return member
    if labels is not None:

        def label(value: Any) -> str:
            text = _plain_text(value)
            if text not in labels:
                raise ValueError(f"one of {', '.join(labels)} is needed")
            return text

        return label
    if column_type.name == "bpchar":

        def padded(value: Any) -> str:
            text = _plain_text(value).rstrip(" ")
            if length is not None and len(text) > length:
                raise ValueError(f"longer than {length} characters")
            return text.ljust(length) if length is not None else text

        return padded
    if length is not None:

        def bounded(value: Any) -> str:
            text = _plain_text(value)
            if len(text) > length:
                raise ValueError(f"longer than {length} characters")
            return text

        return bounded
    return _plain_text


def _uuid(value: Any) -> UUID:
    if isinstance(value, UUID):
        return value if type(value) is UUID else UUID(int=value.int)
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            pass
    raise _refuse(value, "a UUID")


def _timestamp(value: Any, is_aware: bool, precision: int | None) -> datetime:
    if not isinstance(value, datetime):
        raise _refuse(value, "a datetime")
    if precision is None and is_aware and type(value) is datetime and value.utcoffset() == _NO_OFFSET:
        # What pydantic reads is in UTC, by a zone object of its own.
        return value.replace(tzinfo=UTC, fold=0)
    if (value.utcoffset() is not None) is not is_aware:
        raise _refuse(value, "a datetime with a time zone" if is_aware else "a datetime without a time zone")
    try:
        moment = (
            value.astimezone(UTC).replace(tzinfo=None) if is_aware else value.replace(tzinfo=None, fold=0)
        )
        if precision is not None and precision < 6:
            moment = EPOCH + timedelta(microseconds=_round_microseconds(moment - EPOCH, precision))
    except OverflowError:
        raise ValueError("out of range") from None
    return moment.replace(tzinfo=UTC) if is_aware else moment


def _time(value: Any, precision: int | None) -> time:
    if not isinstance(value, time) or value.tzinfo is not None:
        raise _refuse(value, "a time without a time zone")
    plain: time = value.replace(fold=0)
    if precision is None or precision >= 6:
        return plain
    since_midnight = datetime.combine(EPOCH.date(), plain) - EPOCH
    rounded = _round_microseconds(since_midnight, precision)
    if rounded >= 86_400_000_000:
        raise ValueError("it rounds to 24:00")
    return (EPOCH + timedelta(microseconds=rounded)).time()


def _round_microseconds(distance: timedelta, precision: int) -> int:
    """Round half away from zero, in integers as PostgreSQL does."""
    step: int = 10 ** (6 - precision)
    total = distance // timedelta(microseconds=1)
    rounded = (abs(total) + step // 2) // step * step
    return rounded if total >= 0 else -rounded


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _refuse(value, "bytes")
    return bytes(value)


def _array(value: Any, convert: Convert) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _refuse(value, "a list")
    return [None if item is None else convert(item) for item in value]


def _json(value: Any) -> Any:
    """Copy a JSON value as ``json`` gives it back: tuples become lists, nothing else changes."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("JSON has no NaN and no infinities")
        return float(value)
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("JSON objects have text keys")
        return {_plain_text(name): _json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    raise ValueError(f"JSON has no {type(value).__name__}")


def _jsonb(value: Any) -> Any:
    """Copy a JSON value as ``jsonb`` gives it back: keys sorted by length, then bytes; no -0.0; whole numbers from 1e16 on are ints."""
    if value is None or type(value) in (bool, str, int):
        return _json(value)
    if isinstance(value, float):
        number = float(_json(value))
        return int(Decimal(repr(number))) if "e+" in repr(number) else number + 0.0
    if isinstance(value, dict):
        copied = _json_keys(value)
        return {name: _jsonb(copied[name]) for name in sorted(copied, key=_jsonb_order)}
    if isinstance(value, list | tuple):
        return [_jsonb(item) for item in value]
    return _json(value)


def _json_keys(value: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(name, str) for name in value):
        raise ValueError("JSON objects have text keys")
    return {_plain_text(name): item for name, item in value.items()}


def _jsonb_order(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded


def json_text(value: Any) -> str:
    """Spell a converted JSON value; the one spelling, because ``json`` columns keep it byte for byte."""
    return json.dumps(value)
