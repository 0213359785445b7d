"""Fingerprints: what the rows of a managed table depend on, as digests per part, so that a change without a new version can be named.

Parts are the table's projectors (method by method), its record, the event classes they handle, what the application defines and these refer to
(functions, constants, other classes, followed from name to name), and the table's files. Each is digested in a form that comments, docstrings
and layout do not change: the parsed source, printed again. What has no source, as in a REPL or a frozen program, is digested by its bytecode, which
another Python version compiles otherwise; the version is kept beside the digests.

Not seen are what a handler reaches by another way than a name (``getattr``, plug-ins, data files), and the libraries that it uses. Pure: reads source
files through :mod:`inspect`, nothing else.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sequent_py.declared.projection import TableProjection
from sequent_py.events import Event
from sequent_py.projectors import Projector
from sequent_py.records import Record
from sequent_py.view_schema.migrations import MigrationsDefinition

_DIGITS = 16
_LIBRARIES = frozenset(
    {"sequent_py", "pydantic", "pydantic_core", "sqlalchemy", "builtins", *sys.stdlib_module_names}
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class TableCode:
    """What made a table, or would make it now."""

    parts: Mapping[str, str]
    """Digests by part: ``OrderProjector.placed``, ``OrderRecord``, ``order_records.sql``."""
    python: str = PYTHON
    accepted: tuple[str, ...] = ()
    """Digests of later code that somebody said makes the same rows."""

    @property
    def digest(self) -> str:
        """One digest of all parts."""
        return _digest(json.dumps(dict(sorted(self.parts.items()))))

    def covers(self, code: TableCode) -> bool:
        """Whether the other code is the same, or was accepted."""
        return code.digest == self.digest or code.digest in self.accepted

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"python": self.python, "parts": dict(self.parts), "accepted": list(self.accepted)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TableCode:
        """Read :meth:`to_json`'s values."""
        return cls(dict(document["parts"]), document["python"], tuple(document["accepted"]))


def table_code(definition: MigrationsDefinition, table_name: str, files: Mapping[str, str]) -> TableCode:
    """Return what makes a table by the code at hand; ``files`` are its SQL files' texts by name."""
    collector = _Collector()
    for projector in definition.projectors_of(table_name):
        collector.add_class(projector.projector, by_method=True)
        collector.add_declaration(projector.projector)
        for event_class in projector.event_classes:
            collector.add_class(event_class)
    if table_name in definition.records:
        collector.add_class(definition.records[table_name])
    parts = collector.parts | {name: _digest(_without_comments(text)) for name, text in files.items()}
    return TableCode(dict(sorted(parts.items())))


def changed_parts(before: TableCode, after: TableCode) -> list[str]:
    """Name the parts that differ; whether they are new or gone is said."""
    changed = []
    for name in sorted({*before.parts, *after.parts}):
        if name not in after.parts:
            changed.append(f"{name} (gone)")
        elif name not in before.parts:
            changed.append(f"{name} (new)")
        elif before.parts[name] != after.parts[name]:
            changed.append(name)
    return changed


@dataclass
class _Collector:
    """Digests classes and whatever of the application they name."""

    parts: dict[str, str] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def add_class(self, cls: type, *, by_method: bool = False) -> None:
        """Digest a class and its bases, as far as they are the application's."""
        for base in cls.__mro__:
            if _is_application(base) and id(base) not in self._seen:
                self._seen.add(id(base))
                self._add_own(base, by_method)

    def add_declaration(self, cls: type[Projector]) -> None:
        """Digest the rules of a declared projection as values: its source may name them instead of spelling them out."""
        if issubclass(cls, TableProjection):
            self.parts[f"{cls.__qualname__}.on_event"] = _digest(str(cls.declaration))

    def _add_own(self, cls: type, by_method: bool) -> None:
        tree = _class_tree(cls)
        name = cls.__qualname__
        if tree is None:
            self.parts[name] = _bytecode_of_class(cls)
            return
        scope = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
        self._follow(tree, scope)
        if by_method:
            # Dispatch goes by method, and so do the reports of changes.
            methods = [item for item in tree.body if isinstance(item, _FUNCTIONS)]
            for method in methods:
                self.parts[f"{name}.{method.name}"] = _digest(ast.unparse(method))
            tree.body = [item for item in tree.body if not isinstance(item, _FUNCTIONS)] or [ast.Pass()]
        self.parts[name] = _digest(ast.unparse(tree))

    def _add_function(self, function: FunctionType) -> None:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        tree = _parsed(function)
        name = f"{function.__module__}.{function.__qualname__}"
        if tree is None:
            self.parts[name] = _bytecode(function.__code__)
            return
        self.parts[name] = _digest(ast.unparse(tree))
        self._follow(tree, function.__globals__)

    def _follow(self, tree: ast.AST, scope: Mapping[str, Any]) -> None:
        """Digest what the application defines and the tree names."""
        for label, value in _named(tree, scope):
            if isinstance(value, FunctionType) and _is_application(value):
                self._add_function(value)
            elif isinstance(value, type):
                # Other events, records and projectors make no row of this table.
                if _is_application(value) and not issubclass(value, Event | Record | Projector):
                    self.add_class(value)
            elif (text := _constant(value)) is not None:
                self.parts[f"{scope.get('__name__', '?')}.{label}"] = _digest(text)


def _named(tree: ast.AST, scope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what names of the module, and attributes of modules, stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in scope:
            yield node.id, scope[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = scope.get(node.value.id)
            if isinstance(module, ModuleType) and _root(module.__name__) not in _LIBRARIES:
                yield f"{node.value.id}.{node.attr}", getattr(module, node.attr, None)


def _is_application(value: Any) -> bool:
    return _root(getattr(value, "__module__", None) or "builtins") not in _LIBRARIES


def _root(module: str) -> str:
    return module.partition(".")[0]


def _constant(value: Any) -> str | None:
    """Print a constant so that equal ones print alike in every process; None for anything that is none."""
    match value:
        case None | bool() | int() | float() | str() | bytes() | Decimal():
            return repr(value)
        case list() | tuple():
            parts = [_constant(item) for item in value]
        case set() | frozenset():
            parts = [_constant(item) for item in value]
            return None if None in parts else f"{{{', '.join(sorted(filter(None, parts)))}}}"
        case dict():
            parts = [_constant(item) for pair in value.items() for item in pair]
        case _:
            return None
    return None if None in parts else f"{type(value).__name__}({', '.join(filter(None, parts))})"


def _class_tree(cls: type) -> ast.ClassDef | None:
    tree = _parsed(cls)
    return tree if isinstance(tree, ast.ClassDef) else None


@lru_cache(maxsize=1024)
def source_of(value: Any) -> str | None:
    """Return the source of a class or function; None where there is none.

    Kept, because to find a class :mod:`inspect` parses its whole module each time, which was a third of what a small migration did in Python; and
    because a file that was edited since is not what the class was made from.
    """
    try:
        return textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):
        return None


def _parsed(value: Any) -> ast.AST | None:
    """Parse the source of a class or function, docstrings left out; None where there is no source."""
    try:
        tree: ast.AST = ast.parse(source_of(value) or "").body[0]
    except (SyntaxError, IndexError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
            node.body = [item for item in node.body if not _is_bare_text(item)] or [ast.Pass()]
    return tree


def _is_bare_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _bytecode_of_class(cls: type) -> str:
    members: list[str] = []
    for name, member in sorted(vars(cls).items()):
        function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        if isinstance(function, FunctionType):
            members.append(f"{name}={_bytecode(function.__code__)}")
        elif not name.startswith("__") and (text := _constant(member)) is not None:
            members.append(f"{name}={text}")
    return f"bytecode:{_digest('; '.join(members))}"


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return f"bytecode:{_digest(f'{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}')}"


def _without_comments(text: str) -> str:
    """Leave out blank lines, indentation and lines that are comments as a whole; the others may be inside of a quoted body."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("--"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def described(changes: Mapping[str, Iterable[str]]) -> str:
    """Say what changed, table by table: a part that several tables share is named with each."""
    return "; ".join(f"{table}: {', '.join(parts)}" for table, parts in sorted(changes.items()))


def affected_projectors(definition: MigrationsDefinition, tables: Collection[str]) -> list[str]:
    """Return the projectors of tables, in order of first mention."""
    return list(
        dict.fromkeys(projector.name for table in tables for projector in definition.projectors_of(table))
    )
