"""Row classes: what handlers hold instead of ORM instances.

Pure. For a record two classes with the same slots are made: a writable one, and a read-only subclass. A row is filled while writable and
then *locked* by switching its class, which costs 35 ns and keeps reads as fast as any slot (a ``__setattr__`` that decides would slow
every write). Methods, properties and constants of the record class are carried over, so that rows answer to them.

Column names never reach generated source. Attribute names do, and are identifiers by the time they get here.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import InstrumentedAttribute

from sequent_py.errors import DefinitionError

_NOT_CARRIED = frozenset({"metadata", "registry", "type_annotation_map"})
_DUNDERS_NOT_CARRIED = frozenset(
    {"__init__", "__new__", "__setattr__", "__delattr__", "__getattribute__", "__init_subclass__", "__class_getitem__"}
)  # fmt: skip

Row = Any
"""Rows are typed as their record for handlers; inside the library they are whatever class was generated."""


def build_row_classes(
    record: type, base: type, attributes: Sequence[str], primary_key: Sequence[str]
) -> tuple[type, type]:
    """Return the writable row class of ``record`` and its read-only subclass.

    ``base`` is where the search for members to carry over ends; ``attributes`` are identifiers, in the order of the columns, and
    ``primary_key`` those among them that rows are hashed by.
    """
    named = {"__module__": record.__module__, "__qualname__": record.__qualname__, "__doc__": record.__doc__}
    members: dict[str, Any] = {"__repr__": _repr, "__eq__": _equal, "__hash__": _hash}
    members.update(_members(record, base, frozenset(attributes)))
    members.update(_attributes=tuple(attributes), _primary_key=tuple(primary_key))
    writable = type(record.__name__, (), {**members, **named, "__slots__": tuple(attributes)})
    read_only = {"__slots__": (), "__setattr__": _refuse, "__delattr__": _refuse}
    return writable, type(record.__name__, (writable,), {**named, **read_only})


def _members(record: type, base: type, attributes: frozenset[str]) -> Iterator[tuple[str, Any]]:
    inherited = frozenset(base.__mro__)
    for cls in reversed(record.__mro__):
        if cls in inherited:
            continue
        for name, member in vars(cls).items():
            if name in attributes or isinstance(member, InstrumentedAttribute) or name in _NOT_CARRIED:
                continue
            if name.startswith("_sa_") or (name.startswith("__") and not _is_carried_dunder(name, member)):
                continue
            if isinstance(member, functools.cached_property):
                # Slots leave no dictionary to cache in.
                member = property(member.func)
            yield name, member


def _is_carried_dunder(name: str, member: Any) -> bool:
    return name not in _DUNDERS_NOT_CARRIED and isinstance(member, types.FunctionType)


def _refuse(row: Row, name: str, value: Any = None) -> None:
    record = type(row).__name__
    raise DefinitionError(
        f"{record}.{name} cannot be set: rows are read-only outside the block of an update.",
        remedy=f"with self.update_record({record}, event) as row: row.{name} = …",
    )


def _repr(row: Row) -> str:
    values = ", ".join(f"{name}={getattr(row, name, None)!r}" for name in row._attributes)
    return f"{type(row).__name__}({values})"


def _equal(row: Row, other: object) -> Any:
    names: tuple[str, ...] = row._attributes
    if getattr(other, "_attributes", None) is not names:
        return NotImplemented
    return all(getattr(row, name) == getattr(other, name) for name in names)


def _hash(row: Row) -> int:
    return hash(tuple(getattr(row, name) for name in row._primary_key))


def compile_functions(source: str, names: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Run composed source in a namespace of its own and return it. ``label`` stands in tracebacks."""
    namespace = dict(names)
    exec(compile(source, f"<sequent_py {label}>", "exec"), namespace)
    return namespace


def build_cloner(writable: type, attributes: Sequence[str], mutable: frozenset[str]) -> Callable[[Row], Row]:
    """Return the function that copies a row into a writable one; values of ``mutable`` attributes are copied deeply."""
    lines = ["def clone(row):", "    copied = new(Row)"]
    for name in attributes:
        value = f"deepcopy(row.{name})" if name in mutable else f"row.{name}"
        lines.append(f"    copied.{name} = {value}")
    lines.append("    return copied")
    names = {"new": object.__new__, "Row": writable, "deepcopy": copy.deepcopy}
    clone: Callable[[Row], Row] = compile_functions("\n".join(lines), names, "clone")["clone"]
    return clone


def build_locker(locked: type) -> Callable[[Row], Row]:
    """Return the function that makes a row read-only and returns it."""

    def lock(row: Row) -> Row:
        if row.__class__ is not locked:
            row.__class__ = locked
        return row

    return lock


def build_constructor(
    writable: type, locked: type, attributes: Sequence[str]
) -> Callable[[Sequence[Any]], Row]:
    """Return the function that makes a locked row of its values in the order of ``attributes``."""
    parameters = ", ".join(f"v{number}" for number in range(len(attributes)))
    lines = ["def new_row(values):", f"    ({parameters},) = values", "    row = new(Row)"]
    lines += [f"    row.{name} = v{number}" for number, name in enumerate(attributes)]
    lines += ["    row.__class__ = Locked", "    return row"]
    names = {"new": object.__new__, "Row": writable, "Locked": locked}
    new_row: Callable[[Sequence[Any]], Row] = compile_functions("\n".join(lines), names, "new_row")["new_row"]
    return new_row


def build_reader(attributes: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    """Return the function that gives a row's values as a tuple in the order of ``attributes``."""
    source = f"def values_of(row):\n    return ({', '.join(f'row.{name}' for name in attributes)},)"
    values_of: Callable[[Row], tuple[Any, ...]] = compile_functions(source, {}, "values_of")["values_of"]
    return values_of
