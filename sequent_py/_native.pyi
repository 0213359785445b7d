from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

INTERFACE: int

class Layout:
    def __init__(
        self,
        writable: type,
        locked: type,
        names: tuple[str, ...],
        kinds: tuple[int, ...],
        parts: tuple[int, ...],
        wires: tuple[int, ...],
        coerces: tuple[Callable[[Any], Any], ...],
        details: tuple[tuple[int, int, int, int, int, int, bool, Any], ...],
    ) -> None: ...
    def clone(self, row: Any, /) -> Any: ...
    def convert(self, row: Any, /) -> None: ...
    def dump(self, rows: Sequence[Any], /) -> bytes: ...

class Creator:
    def __init__(
        self,
        layout: Layout,
        given: tuple[str, ...],
        others: tuple[str, ...],
        sources: tuple[int, ...],
        values: tuple[Any, ...],
        key: tuple[str, ...],
        rows: dict[Any, Any] | None,
        indexes: tuple[tuple[tuple[str, ...], dict[Any, Any], Callable[[Any, Any, Any], None]], ...],
        dirty: dict[Any, None] | None,
        gone: dict[Any, Any] | None,
        duplicate: Callable[[Any], Exception],
    ) -> None: ...
    def __call__(self, values: Mapping[str, Any], /) -> Any: ...

class Finisher:
    def __init__(self, layout: Layout, keys: tuple[str, ...]) -> None: ...
    def __call__(self, after: Any, before: Any, /) -> bool: ...

class Probe:
    def __init__(
        self,
        layout: Layout,
        names: tuple[str, ...],
        parts: tuple[str, ...],
        answer: int,
        is_by_aggregate: bool,
        container: dict[Any, Any],
        otherwise: Any,
    ) -> None: ...
    def __call__(self, where: Mapping[str, Any], /) -> Any: ...

class Access:
    def __init__(
        self,
        layout: Layout,
        table: Any,
        rows: dict[Any, Any],
        probes: dict[tuple[str, ...], Any],
        creators: dict[tuple[str, ...], Any],
        convert: object,
        bucket: type,
        first: Callable[[Mapping[str, Any]], Any],
        create: Callable[[Mapping[str, Any]], Any],
    ) -> None: ...
    def first(self, where: Mapping[str, Any], /) -> Any: ...
    def create(self, values: Mapping[str, Any], /) -> Any: ...
    def update(
        self, where: Mapping[str, Any], touched: Mapping[str, Any], /
    ) -> AbstractContextManager[Any]: ...
    def back(self, *dirty_gone_and_complete: dict[Any, Any] | set[Any]) -> None: ...

class Shortcut:
    def __init__(
        self,
        method: int,
        tables: dict[Any, tuple[Access, tuple[tuple[str, str], ...]]],
        otherwise: Callable[..., Any],
    ) -> None: ...
    def __call__(self, *arguments: Any, **values: Any) -> Any: ...

class Setter:
    def __init__(self, cls: type, names: tuple[str, ...]) -> None: ...
    def __call__(self, instance: Any, /, *values: Any) -> None: ...
    def has_set(self, instance: Any, /) -> bool: ...

class LazyMoment:
    def __init__(self, cls: type, name: str) -> None: ...

def moment(microseconds: int, /) -> datetime: ...
def texts(values: Sequence[Any], /) -> list[bytes | None] | None: ...
def raw_event(block: bytes | memoryview, /) -> tuple[int, int, bytes, int, int, bytes, bytes] | None: ...

class RowFold:
    def __init__(
        self,
        fields: int,
        type_ids: tuple[int, ...],
        constants: tuple[bytes | None, ...],
        tables: tuple[
            tuple[
                bool,
                int,
                tuple[int, ...],
                tuple[tuple[int, int, bool, tuple[tuple[int, bool, int], ...]], ...],
            ],
            ...,
        ],
        texts: tuple[tuple[int, int, tuple[tuple[bool, int, int] | None, ...]], ...],
        seeds: tuple[int, int],
    ) -> None: ...
    def fold(self, blocks: Sequence[bytes | memoryview], /) -> bool: ...
    def end(self) -> None: ...
    def waiting(self, table: int, /) -> int: ...
    def take(self, table: int, /) -> bytes: ...
    counts: tuple[int, ...]
    rows: tuple[int, ...]
    has_ended: bool
