"""A worker pool on a Dask distributed cluster: ``--pool dask:ADDRESS``, extra ``dask``.

The coordinator submits as many tasks as there are to be workers. A task is :func:`serve`: on its Dask worker it starts a process that replays groups, as on
the coordinator's own host, and waits for it::

      coordinator ──submit──► scheduler ──► Dask worker ──starts, life line──► replay process
           │                                                                       │ claim, fold, COPY, done
           └────────────────── ledger and replay_control (PostgreSQL) ─────────────┘

A process of its own, because a Dask worker lives long: modules that it imported yesterday are yesterday's code, whatever their files say now; and
because a replay turns the garbage collector off. Dask carries where the work is done and whether it ended; what is done is the ledger's business.

What holds under failure:

- A Dask worker dies: the pipe of its replay process closes and that exits; the open group rolls back. Dask runs the task again elsewhere, or gives up, and the coordinator submits another.
- The coordinator dies: the replay processes leave before their next group, when nobody holds the migration lock (:mod:`sequent_py.replay.governor`). Until
  then they do what is right. The next coordinator ends their sessions and raises the epoch.
- The scheduler goes away: the command fails, finished groups are kept. The replay processes leave as above.
- Other code on a Dask worker: its replay process compares fingerprints with the coordinator's and refuses; the command fails with what differs.

No password travels: a scheduler keeps the arguments of its tasks, and without TLS they cross the network as they are. A replay process connects with
``SEQUENT_DATABASE_URL`` (and ``SEQUENT_STANDBY_URL``) of its Dask worker's environment where there is one, else with the coordinator's URL without its
password, for which libpq looks in ``PGPASSWORD`` or ``.pgpass``. Whoever reaches a Dask scheduler can run code on its workers: that is Dask's to protect (``tls://``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sequent_py.errors import ConfigurationError, WorkerFailed
from sequent_py.replay.pools import LocalPool, WorkerExit
from sequent_py.replay.task import ReplayTask

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_TIMEOUT_SECONDS = 10.0
CLUSTER_PATIENCE_SECONDS = 15.0
"""How long a scheduler may not answer, or have no workers: Dask's nanny replaces a worker within a few seconds."""
_CLUSTER_LOOK_SECONDS = 2.0
_CHILD_POLL_SECONDS = 0.05
_WAIT_SECONDS = 0.02
_CLOSE_TIMEOUT_SECONDS = 5.0
_SECRETS = ("password", "sslpassword")
_KILLED = -9

RUN_AGAIN = "Finished groups are kept. Mend the cluster, or leave out --pool, and run the same command again."


class DaskCluster:
    """The cluster of one scheduler; calling it makes the pool of a pass. Holds no connection."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, task: ReplayTask) -> DaskPool:
        return DaskPool(self, task)

    def threads(self) -> int:
        """Return how many tasks its workers run at a time.

        Raises
        ------
        ConfigurationError
            The scheduler does not answer, or has no workers.
        """
        client = self.connect()
        try:
            return self._threads(client)
        finally:
            client.close(timeout=_CLOSE_TIMEOUT_SECONDS)

    def connect(self) -> Client:
        """Return a client of the scheduler; one that has workers.

        Raises
        ------
        ConfigurationError
            The extra is not installed, the scheduler does not answer, or has no workers.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise ConfigurationError(
                "A Dask pool needs the package distributed, which is not installed.",
                remedy="Run: pip install 'sequent-py[dask]'",
            ) from error
        try:
            client = Client(self.address, timeout=CONNECT_TIMEOUT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"No Dask scheduler answers at {self.address}: {error}.",
                remedy="Give its address: --pool dask:tcp://HOST:8786",
            ) from error
        try:
            self._threads(client)
        except BaseException:
            client.close(timeout=_CLOSE_TIMEOUT_SECONDS)
            raise
        return client

    def _threads(self, client: Client) -> int:
        threads: int = sum(client.nthreads().values())
        if threads == 0:
            raise ConfigurationError(
                f"The Dask scheduler at {self.address} has no workers.",
                remedy="Start some: dask worker ADDRESS",
            )
        return threads


class DaskPool:
    """Worker processes on a cluster. Leaving it forgets those that have not begun; the others leave by themselves."""

    is_local = False

    def __init__(self, cluster: DaskCluster, task: ReplayTask) -> None:
        self._cluster = cluster
        self._task = replace(
            task,
            database_url=without_password(task.database_url),
            standby_url=None if task.standby_url is None else without_password(task.standby_url),
            is_elsewhere=True,
        )
        self._client: Client | None = None
        self._futures: list[Future[dict[str, Any]]] = []
        self._looked_at = self._seen_at = time.monotonic()

    def __enter__(self) -> Self:
        self._client = self._cluster.connect()
        self._looked_at = self._seen_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            if self._client.status == "running":
                self._client.cancel(self._futures, force=True)
            self._futures = []
            self._client.close(timeout=_CLOSE_TIMEOUT_SECONDS)

    def start(self, count: int) -> None:
        """Submit ``count`` more workers; those for which the cluster has no thread begin when another ends."""
        assert self._client is not None
        self._futures += [
            self._client.submit(serve, self._task.to_json(), pure=False, retries=0) for _ in range(count)
        ]

    @property
    def running(self) -> int:
        """How many workers have not ended."""
        return len(self._futures)

    def collect(self) -> list[WorkerExit]:
        """Return the workers that have ended since the last call.

        Raises
        ------
        WorkerFailed
            The scheduler does not answer any more, or has lost all of its workers.
        """
        ended = [future for future in self._futures if future.status != "pending"]
        if not ended or any(future.status not in ("finished", "error") for future in ended):
            # Futures that were lost tell of a scheduler that went away.
            self._require_cluster()
            ended = [future for future in ended if future.status in ("finished", "error")]
        self._futures = [future for future in self._futures if future not in ended]
        return [_exit_of(future) for future in ended]

    def wait(self, seconds: float) -> None:
        """Wait a moment: what workers say is known when they have ended."""
        time.sleep(min(seconds, _WAIT_SECONDS))

    def _require_cluster(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _CLUSTER_LOOK_SECONDS:
            return
        self._looked_at = now
        why = self._trouble()
        if why is None:
            self._seen_at = now
        elif now - self._seen_at > CLUSTER_PATIENCE_SECONDS:
            raise WorkerFailed(f"The Dask scheduler at {self._cluster.address} {why}.", remedy=RUN_AGAIN)

    def _trouble(self) -> str | None:
        assert self._client is not None
        if self._client.status != "running" or any(
            future.status not in ("pending", "finished", "error") for future in self._futures
        ):
            return "has gone away, or has forgotten the workers"
        try:
            return None if self._client.nthreads() else "has no workers any more"
        except (OSError, TimeoutError):
            return "has gone away"


def serve(task: str) -> dict[str, Any]:
    """Run a replay process to its end on this Dask worker and return how that was; what the coordinator submits."""
    given = ReplayTask.from_json(task)
    standby_url = given.standby_url and (os.environ.get("SEQUENT_STANDBY_URL") or given.standby_url)
    there = replace(
        given,
        database_url=os.environ.get("SEQUENT_DATABASE_URL") or given.database_url,
        standby_url=standby_url,
    )
    with LocalPool(there) as pool:
        pool.start(1)
        while pool.running:
            time.sleep(_CHILD_POLL_SECONDS)
        (ended,) = pool.collect()
    return asdict(replace(ended, where=_where()))


def without_password(url: str) -> str:
    """Return a connection string without the secrets in it."""
    parameters: dict[str, Any] = dict(conninfo_to_dict(url))
    return make_conninfo(**{key: value for key, value in parameters.items() if key not in _SECRETS})


def _where() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _exit_of(future: Future[dict[str, Any]]) -> WorkerExit:
    if future.status == "finished":
        return WorkerExit(**future.result())
    error = future.exception()
    name = type(error).__name__
    if name == "KilledWorker":
        # Dask has tried it on several workers, and each died.
        return WorkerExit(0, _KILLED, False, None, str(error), "the Dask cluster")
    if isinstance(error, ImportError | AttributeError | TypeError):
        message = f"{error} (is sequent_py installed there, in this very version?)"
    else:
        message = str(error)
    return WorkerExit(0, 1, False, {"type": name, "message": message, "remedy": ""}, "", "the Dask cluster")


__all__: Sequence[str] = ("DaskCluster", "DaskPool", "serve", "without_password")
