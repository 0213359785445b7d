"""What holds a replay back: a pause, the server's load, the lag of replicas, a rate. Values and decisions; pure.

A limit is asked about before a group is begun, never within one: a transaction that waited would hold back vacuum and keep its locks, and so
make worse what it waits for. So everything here is as coarse as a group is long, and a group is a bounded number of events.

The load is the number of backends that run a statement at the moment, replay and other commands of this tool excluded: what the
``--max-load`` of gh-ost and pt-online-schema-change watches on MySQL as ``Threads_running``. A load average could only be that of the worker's host,
which may be any: no function of the server says its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sequent_py.errors import ConfigurationError

SECONDS_PER_GROUP = 5.0
"""Under a rate, groups are cut so that one is begun about this often for a worker's whole group: a minute's worth at once would be no rate."""
SMALLEST_GROUP_EVENTS = 1_000
"""Below this a group's fixed cost outweighs its events."""
MOST_SAMPLES = 600
"""Ten minutes of looks, one a second: a longer lag is known as at least that long."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run of a command may take; None does not limit.

    Raises
    ------
    ConfigurationError
        One is not a finite number, or is negative, or would let nothing happen at all.
    """

    rate: float | None = None
    """Events per second, over all workers."""
    max_load: float | None = None
    """Active backends besides those of this tool."""
    max_replica_lag_seconds: float | None = None
    """Of the standby, or subscriber, that is furthest behind."""

    def __post_init__(self) -> None:
        for name, value, may_be_zero in (
            ("--rate", self.rate, False),
            ("--max-load", self.max_load, True),
            ("--max-replica-lag", self.max_replica_lag_seconds, False),
        ):
            if value is None or (math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))):
                continue
            least = "0 or more" if may_be_zero else "more than 0"
            raise ConfigurationError(
                f"{name} is {value}, and must be a number, {least}.",
                remedy=f"Give another one, or leave {name} out: then it is not limited.",
            )

    @property
    def needs_statistics(self) -> bool:
        """Whether other logins' sessions must be visible."""
        return self.max_load is not None or self.max_replica_lag_seconds is not None

    def __str__(self) -> str:
        named = {
            "--rate": self.rate,
            "--max-load": self.max_load,
            "--max-replica-lag": self.max_replica_lag_seconds,
        }
        return ", ".join(f"{name} {value:g}" for name, value in named.items() if value is not None) or "none"

    def group_target(self, events: int) -> int:
        """Return how many events a group should have under the rate, if ``events`` would be right without one."""
        if self.rate is None:
            return events
        return min(events, max(round(self.rate * SECONDS_PER_GROUP), SMALLEST_GROUP_EVENTS))


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Pause:
    """That somebody has paused replays."""

    since: datetime
    by: str
    reason: str | None = None

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"paused since {self.since:%Y-%m-%d %H:%M:%S %Z} by {self.by}{why}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands written: for everybody, and for the run that is on."""

    pause: Pause | None = None
    limits: Limits = UNLIMITED
    migration_id: int | None = None
    epoch: int | None = None
    code: Mapping[str, object] | None = field(default=None, compare=False)

    def is_of(self, migration_id: int, epoch: int) -> bool:
        """Whether the limits are those of this run of this migration."""
        return (self.migration_id, self.epoch) == (migration_id, epoch)


@dataclass(frozen=True, slots=True)
class Readings:
    """What was measured just now; None where nobody asked."""

    active_backends: int | None = None
    replica_lags: Mapping[str, float] = field(default_factory=dict)
    """Seconds by replica."""


class Cause(StrEnum):
    """Why no group is begun."""

    PAUSED = "paused"
    LOAD = "load"
    REPLICA_LAG = "replica lag"


@dataclass(frozen=True, slots=True)
class Hold:
    """That no group may be begun now."""

    cause: Cause
    message: str = field(compare=False)
    """For people, with values; two holds of one cause are the same hold."""


def find_hold(standing: Standing, readings: Readings) -> Hold | None:
    """Decide whether a group may be begun; the first reason why not, None when it may. A rate is no hold but a place in a line."""
    if standing.pause is not None:
        return Hold(Cause.PAUSED, f"{standing.pause}; go on with: sequent migrate resume")
    limits = standing.limits
    if limits.max_load is not None and readings.active_backends is not None:
        active = readings.active_backends
        if active > limits.max_load:
            return Hold(
                Cause.LOAD,
                f"{active} other backend{'s are' if active != 1 else ' is'} active, and --max-load is {limits.max_load:g}",
            )
    if limits.max_replica_lag_seconds is not None and readings.replica_lags:
        name, lag = max(readings.replica_lags.items(), key=lambda item: item[1])
        if lag > limits.max_replica_lag_seconds:
            return Hold(
                Cause.REPLICA_LAG,
                f"{name} is {lag:.1f} s behind, and --max-replica-lag is {limits.max_replica_lag_seconds:g}",
            )
    return None


class LagHistory:
    """How far replicas are behind, in seconds, from looks at where the server and they are in the log.

    ``pg_stat_replication.replay_lag`` is measured when a replica reports progress: of one that is stuck it shows the last good value for ever. So
    each look is remembered, and a replica that has not yet replayed what was written at an earlier look is at least that look's age behind. The
    larger of both counts. It is a lower bound: never a false alarm, and of a replica that gets stuck the alarm comes when the limit has passed.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=MOST_SAMPLES)

    def look(
        self, at_seconds: float, written: int, replicas: Mapping[str, tuple[int, float | None]]
    ) -> dict[str, float]:
        """Note that ``written`` is the end of the log now; return the lags of replicas, given by where they are and what lag they report."""
        self._looks.append((at_seconds, written))
        return {
            name: max(reported or 0.0, self._age_of_first_beyond(replayed, at_seconds))
            for name, (replayed, reported) in replicas.items()
        }

    def _age_of_first_beyond(self, replayed: int, now: float) -> float:
        return next((now - at for at, written in self._looks if written > replayed), 0.0)
