"""A writer of many events at a time, for whom catching up may be too slow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shop import LineAdded, OrderPlaced, order_id

from sequent_py import Sequent


@dataclass
class Batches:
    """A thread that appends many events at a time: at most 1,000 a second.

    That is many more than the slow projectors of the tests replay, and no more: each of their passes takes longer by the ratio than the one before it.
    """

    app: Sequent
    size: int = 100
    pause_seconds: float = 0.1
    failures: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._write)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join(60)
            assert self.failures == []

    def _write(self) -> None:
        count = 0
        try:
            while not self.stop.wait(self.pause_seconds):
                lines = [LineAdded(product="p", cents=number) for number in range(self.size)]
                self.app.store.append(order_id(90_000_000 + count), [OrderPlaced(customer="c"), *lines])
                count += 1
        except BaseException as error:
            self.failures.append(error)
