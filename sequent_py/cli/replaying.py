"""How a replay is run, for the commands that replay: on which hosts, under which limits, from which server. And ``pause``, ``resume``, ``worker``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sequent_py.cli.blocks import Block, Facts, Line, Tone, count
from sequent_py.cli.invocation import Invocation, command
from sequent_py.contrib.dask import DaskCluster
from sequent_py.errors import ConfigurationError
from sequent_py.replay.limits import Limits
from sequent_py.replay.pools import LocalPool
from sequent_py.view_schema.building.joining import PauseReport

DASK = "dask:"

Pool = Annotated[
    str,
    typer.Option(
        "--pool",
        metavar="POOL",
        help="Where worker processes run: local, or dask:ADDRESS of a Dask scheduler, one for each of its threads unless --workers says how many.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        min=0.001, metavar="EVENTS", help="Replay at most this many events a second, over all workers."
    ),
]
MaxLoad = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Begin no group while more than N backends besides those of this tool run a statement.",
    ),
]
MaxReplicaLag = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        metavar="SECONDS",
        help="Begin no group while a standby or subscriber is further behind.",
    ),
]
ReadFrom = Annotated[
    str | None,
    typer.Option(
        "--read-from",
        metavar="URL",
        help="A standby to read events from; empty: the primary, whatever is configured. A URL with a password belongs into the setting standby_url (SEQUENT_STANDBY_URL).",
    ),
]


def replaying(
    pool: str = "local",
    *,
    workers: int | None = None,
    rate: float | None = None,
    max_load: float | None = None,
    max_replica_lag: float | None = None,
) -> dict[str, Any]:
    """Return the library's arguments for these options.

    Raises
    ------
    ConfigurationError
        There is no such pool, or it cannot be reached.
    """
    limits = Limits(rate, max_load, max_replica_lag)
    if pool == "local":
        return {"pool": LocalPool, "workers": workers, "limits": limits}
    if not pool.startswith(DASK) or pool == DASK:
        raise ConfigurationError(
            f"There is no worker pool {pool!r}.", remedy="Give --pool local, or --pool dask:tcp://HOST:PORT"
        )
    cluster = DaskCluster(pool.removeprefix(DASK))
    return {
        "pool": cluster,
        "workers": cluster.threads() if workers is None else workers,
        "limits": limits,
    }


@command
def pause(
    invocation: Invocation,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="For those who wonder; status shows it.")
    ] = None,
) -> None:
    """Hold the replay: no worker begins another group, on any host.

    From any terminal. Groups that have been begun are finished, which takes seconds; no cut-over begins. It holds until resume, also for commands that are begun or
    restarted meanwhile. A cut-over that has begun is not held up: writers wait for it.

    \b
    Next: sequent migrate resume
    Example: sequent migrate pause --reason "evening peak"
    """
    with invocation.application() as sequent:
        invocation.report(sequent.view_schema.pause(reason), _pause)


@command
def resume(invocation: Invocation) -> None:
    """Let a paused replay go on.

    Commands and workers that wait go on within a second; where none runs, begin it again.

    \b
    Example: sequent migrate resume
    """
    with invocation.application() as sequent:
        invocation.report(sequent.view_schema.resume(), _pause)


def _pause(report: PauseReport) -> Iterator[Block]:
    pause = report.pause
    if pause is None:
        yield Line("Nothing was paused.", Tone.GOOD)
    elif report.is_paused:
        yield Line(f"Replays are {pause}.", Tone.WARNING)
    else:
        yield Line("Replays go on.", Tone.GOOD)
    yield Facts({"run by": report.holder or "nobody at the moment", "workers": count(report.workers)})


@command
def worker(invocation: Invocation, read_from: ReadFrom = None) -> None:
    """Join the replay that is running.

    From this machine or any other with the same code that reaches the database: a replay of online, offline or golive with the new code, one of rollback with the code that is to
    serve again. Takes groups until none is left. The coordinator need not know of it; it may be killed at any time, and its
    group is replayed by somebody else. It waits where the replay is paused or held by a limit, and leaves when its coordinator is gone.

    \b
    Example: sequent migrate worker
    """
    invocation.resume = (
        "The group under way is given back; the others are kept. Join again with: sequent migrate worker"
    )
    invocation.output.keep_secret(read_from or "")
    with invocation.application() as sequent, invocation.progress() as progress:
        groups = sequent.view_schema.work(read_from=read_from, progress=progress)
    invocation.report({"groups": groups}, _worker)


def _worker(report: dict[str, int]) -> Iterator[Block]:
    groups = report["groups"]
    yield Line(
        f"Replayed {count(groups, 'group')}."
        if groups
        else "Nothing to do: the replay has no groups left, or its command has ended.",
        Tone.GOOD,
    )
