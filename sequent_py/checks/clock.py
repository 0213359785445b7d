"""Another time for an application: what its modules call ``datetime``, ``date`` and ``time`` tells a shifted time.

Only the modules of the given packages are touched, for the length of a block; the library and the driver keep the real clock, and so do
functions that were imported into a class or a closure before. The stand-ins make and recognise ordinary values: ``isinstance`` and
constructors behave as ever, only *now* differs.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def _stand_in(real: type, overridden: dict[str, Any]) -> type:
    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, real)

    def new(cls: type, *arguments: Any, **keywords: Any) -> Any:
        return real(*arguments, **keywords)

    return Meta(real.__name__, (real,), {"__new__": new, "__slots__": (), **overridden})


class _Module(ModuleType):
    """A module in which some names mean something else."""

    def __init__(self, real: ModuleType, names: dict[str, Any]) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(names)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _replacements(seconds: float) -> dict[int, Any]:
    """Return what stands in for what, by identity."""
    shift = datetime.timedelta(seconds=seconds)
    moment, day = datetime.datetime, datetime.date

    def later(tell: Callable[[], float]) -> Callable[[], float]:
        return lambda: tell() + seconds

    shifted_moment = _stand_in(
        moment,
        {
            "now": classmethod(lambda cls, tz=None: moment.now(tz) + shift),
            "utcnow": classmethod(lambda cls: moment.now(datetime.UTC).replace(tzinfo=None) + shift),
            "today": classmethod(lambda cls: moment.now() + shift),
        },
    )
    shifted_day = _stand_in(day, {"today": classmethod(lambda cls: (moment.now() + shift).date())})
    shifted_time = later(time.time)
    nanoseconds = round(seconds * 1e9)
    real_time_ns, real_localtime, real_gmtime = time.time_ns, time.localtime, time.gmtime
    names_of_time: dict[str, Any] = {
        "time": shifted_time,
        "time_ns": lambda: real_time_ns() + nanoseconds,
        "localtime": lambda moment=None: real_localtime(shifted_time() if moment is None else moment),
        "gmtime": lambda moment=None: real_gmtime(shifted_time() if moment is None else moment),
    }
    datetime_module = _Module(datetime, {"datetime": shifted_moment, "date": shifted_day})
    found = {
        id(moment): shifted_moment,
        id(day): shifted_day,
        id(datetime): datetime_module,
        id(time): _Module(time, names_of_time),
    }
    found.update({id(getattr(time, name)): stand_in for name, stand_in in names_of_time.items()})
    return found


@contextmanager
def shifted_clock(packages: Collection[str], seconds: float) -> Iterator[None]:
    """Let the loaded modules of these top-level packages see a time ``seconds`` from now until the block ends."""
    replacements = _replacements(seconds)
    undo: list[tuple[ModuleType, str, Any]] = []
    try:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] not in packages or not isinstance(module, ModuleType):
                continue
            for attribute, value in list(vars(module).items()):
                stand_in = replacements.get(id(value))
                if stand_in is not None:
                    setattr(module, attribute, stand_in)
                    undo.append((module, attribute, value))
        yield
    finally:
        for module, attribute, value in undo:
            setattr(module, attribute, value)
