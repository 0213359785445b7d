"""Upcasting: bring an old stored payload into the shape that its event class has today.

Pure. An upcaster gets the stored payload as a dict and returns the dict to go on with. Upcasters run on *every* decoded payload, old or
new (payloads carry no version), in the order in which they are defined, those of base classes first, before validation; so each must leave
a payload that already has its result unchanged. Append decodes what it stores as well: an upcaster that spoils new payloads is found
when the event is appended, not at the next rebuild.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Payload = dict[str, Any]
Upcaster = Callable[[Payload], Payload]
_F = TypeVar("_F")

_MARK = "__sequent_upcaster__"


def upcaster(method: _F) -> _F:
    """Mark a static method or class method of an event class as an upcaster.

    Goes above or below ``@staticmethod`` and ``@classmethod``; a plain function counts as a static method::

        class MoneyDeposited(Event):
            amount: int

            @upcaster
            @staticmethod
            def cents_were_called_value(payload: dict[str, Any]) -> dict[str, Any]:
                if "value" in payload:
                    payload["amount"] = payload.pop("value")
                return payload
    """
    setattr(_function_of(method), _MARK, True)
    return method


def upcasters_of(cls: type) -> tuple[Upcaster, ...]:
    """Return the bound upcasters of ``cls`` in the order in which they run.

    A method that overrides an inherited upcaster takes its place; without the mark it switches it off.
    """
    owners: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if getattr(_function_of(member), _MARK, False):
                owners[name] = member
            elif name in owners:
                del owners[name]
    return tuple(
        member.__get__(None, cls) if isinstance(member, (staticmethod, classmethod)) else member
        for member in owners.values()
    )


def _function_of(member: Any) -> Any:
    return member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
