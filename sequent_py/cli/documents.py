"""What a command prints for programs: one JSON document on standard output.

A report becomes an object with its fields and its public properties, so that what is computed for people can be read by programs too.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from enum import Enum
from typing import Any


def document(value: Any) -> str:
    """Return the report as JSON text."""
    return json.dumps(as_json(value), ensure_ascii=False, indent=2)


def error_document(kind: str, message: str, remedy: str) -> str:
    """Return what stands on standard output instead of a report that could not be made."""
    return document({"error": {"type": kind, "message": message, "remedy": remedy}})


def as_json(value: Any) -> Any:
    """Return ``value`` in JSON's types: dates in ISO 8601, sets sorted, numbers that JSON has not as null, anything else as text."""
    match value:
        case Enum():
            return as_json(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(key): as_json(item) for key, item in value.items()}
        case Set():
            return sorted(map(as_json, value))
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return [as_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)] + _properties(type(value))
        return {name: as_json(getattr(value, name)) for name in names}
    return str(value)


def _properties(cls: type) -> list[str]:
    return [
        name
        for name in dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
        if not name.startswith("_") and isinstance(getattr(cls, name), property)
    ]
