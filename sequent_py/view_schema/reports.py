"""What the commands of a view migration report: frozen values, ready for ``dataclasses.asdict`` and JSON.

Times are UTC datetimes, durations seconds, rates events per second. Nothing here holds a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sequent_py.event_store.gate import GateState
from sequent_py.progress import ReplayProgress
from sequent_py.replay.limits import Limits, Pause
from sequent_py.replay.quarantine import QuarantinedAggregate
from sequent_py.view_schema.bookkeeping.generations import Generation
from sequent_py.view_schema.comparison.acceptance import AcceptedDifferences
from sequent_py.view_schema.plans import Plan
from sequent_py.view_schema.rollback_plan import RollbackOutlook


@dataclass(frozen=True)
class PlanReport:
    """The plan with what only the database knows."""

    plan: Plan
    events: int
    """Events of the types that the plan's projectors handle (an estimate on large stores)."""
    is_exact: bool
    warnings: tuple[str, ...]
    """What the swap will not carry over, and what is worth knowing; nothing here stops the migration."""


@dataclass(frozen=True)
class MigrationReport:
    """One view migration as its row shows it."""

    id: int
    from_version: int
    target_version: int
    state: str
    started_at: datetime
    finished_at: datetime | None
    error: str | None
    accepted_differences: tuple[AcceptedDifferences, ...] = ()
    """Failed verifications that its promotion let pass."""


@dataclass(frozen=True)
class StatusReport:
    """Where the view schema stands, and what to run next."""

    installed: bool
    """Whether the event store's schema exists; the rest is empty when not."""
    code_version: int | None
    live_version: int
    migration: MigrationReport | None
    """The unfinished migration, else the latest one, else None."""
    state: str | None
    holder: str | None
    """Who runs it right now (application, process id, host), by the lock that dies with its holder; None when nobody does."""
    replay: ReplayProgress | None
    """The latest pass."""
    passes: int
    pending_events: int | None
    """Events visible now that no pass has covered; None when nothing is unfinished."""
    gate: GateState | None
    retired_tables: tuple[str, ...]
    next_commands: tuple[str, ...]
    generations: tuple[Generation, ...] = ()
    """What swaps have left behind, newest first: by version, with what it makes possible."""
    rollback: RollbackOutlook | None = None
    """Whether this code's version can serve again; None where that is no question: it serves, or never has."""
    quarantined: tuple[QuarantinedAggregate, ...] = ()
    """Aggregates that the migration's replay has set aside, and those that earlier ones left behind in live tables."""
    pause: Pause | None = None
    """Who has paused replays, if anybody."""
    limits: Limits | None = None
    """Of the command that is at work; None when none is, or it has none."""


@dataclass(frozen=True)
class OnlineReport:
    """What ``online`` did."""

    migration_id: int | None
    """None when the code's version was live already."""
    from_version: int
    target_version: int
    is_noop: bool
    is_resumed: bool
    """Whether an earlier run's groups were kept."""
    events: int
    """Events replayed by this run, earlier runs' groups not counted."""
    groups: int
    seconds: float
    rows: Mapping[str, int]
    """Rows in each shadow table."""
    warnings: tuple[str, ...] = ()
    quarantined: tuple[QuarantinedAggregate, ...] = ()
    """Aggregates that are set aside now."""

    @property
    def events_per_second(self) -> float:
        """Events of this run per second of the whole command."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class CutOverReport:
    """What a command that lets another version serve did; the defaults are those of one that found it serving."""

    migration_id: int | None = None
    """None when the code's version was live already."""
    from_version: int
    target_version: int
    is_noop: bool
    catch_up_events: int = 0
    """Events replayed while writers went on."""
    window_events: int = 0
    """Events replayed while they waited, or were refused."""
    verified_aggregates: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    retired_tables: tuple[str, ...] = ()
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    repointed_views: tuple[str, ...] = ()
    """Views of others, with their schemas, that read the tables that serve now."""


@dataclass(frozen=True, kw_only=True)
class PromotionReport(CutOverReport):
    """What a command that takes new tables live did."""

    step_seconds: Mapping[str, float] = field(default_factory=dict)
    accepted_quarantined: tuple[QuarantinedAggregate, ...] = ()
    """Aggregates that were left behind, as was accepted by name."""


@dataclass(frozen=True, kw_only=True)
class OfflineReport(PromotionReport):
    """What ``offline`` did."""

    closed_seconds: float = 0.0
    """How long the gate was closed to writers."""


@dataclass(frozen=True)
class AbortReport:
    """What ``abort`` removed."""

    migration_id: int
    target_version: int
    dropped_tables: tuple[str, ...]


@dataclass(frozen=True)
class DryRunReport:
    """What a dry run met; nothing of it is left."""

    plan: Plan
    aggregates: int
    events: int
    rows: Mapping[str, int]
    """Rows that the sample made in each table."""
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """Whether code and database fit together."""

    code_version: int | None
    live_version: int
    problems: tuple[str, ...]
    notices: tuple[str, ...] = ()
    """What was accepted, and is worth knowing all the same."""

    @property
    def is_current(self) -> bool:
        """True when there is nothing to migrate and nothing is wrong."""
        return not self.problems
