"""Several workers at once: slices handed out one by one, or one sample folded under several circumstances."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from uuid import UUID

from sequent_py.checks.checker import SliceResult
from sequent_py.checks.determinism import Circumstances, FoldedRows
from sequent_py.checks.omissions import Omissions
from sequent_py.checks.slices import Slice
from sequent_py.checks.worker import CheckTask, WorkerProcess


def checked_in_processes(
    task: CheckTask, slices: Sequence[Slice], tables: Sequence[str], processes: int
) -> Iterator[SliceResult]:
    """Hand slices to processes, one thread each, which take the next one whenever they are free; yield results as they come."""
    waiting, answers = deque(slices), SimpleQueue[SliceResult | BaseException | None]()

    def serve(worker: WorkerProcess) -> None:
        try:
            while True:
                answers.put(worker.check(waiting.popleft(), tables))
        except IndexError:
            answers.put(None)
        except BaseException as error:
            answers.put(error)

    with ExitStack() as stack:
        workers = [stack.enter_context(WorkerProcess(task)) for _ in range(processes)]
        for worker in workers:
            threading.Thread(target=serve, args=(worker,), daemon=True, name="verifying").start()
        running = processes
        # Leaving early, by an error or Ctrl-C, ends the processes, which ends the threads that wait for their answers.
        while running:
            match answers.get():
                case None:
                    running -= 1
                case BaseException() as error:
                    raise error
                case result:
                    yield result


def folded_in_processes(
    task: CheckTask,
    aggregate_ids: Sequence[UUID],
    until: str,
    circumstances: Sequence[Circumstances],
    omissions: Omissions,
) -> list[FoldedRows]:
    """Fold the sample under each of the circumstances, at once, in processes of different hash seeds."""
    seed = random.randrange(1, 2**31)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(WorkerProcess(task, hash_seed=seed + number))
            for number in range(len(circumstances))
        ]
        with ThreadPoolExecutor(max_workers=len(workers)) as threads:
            try:
                return list(
                    threads.map(
                        lambda worker, each: worker.fold(aggregate_ids, until, each, omissions),
                        workers,
                        circumstances,
                    )
                )
            except BaseException:
                # The pool waits for its threads, and they for their answers.
                for worker in workers:
                    worker.stop()
                raise
