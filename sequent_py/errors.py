"""Every error that this library raises on purpose, as one tree.

::

    SequentError
     |__ ConfigurationError          settings that are missing, unknown or malformed
     |__ DefinitionError             events, records, projectors, migrations or table files that cannot work
     |    |__ UnknownColumn, InvalidFilter, InvalidValue, RecordNotManaged
     |    |__ TableFileError
     |__ StoreError                  appending and loading
     |    |__ WrongExpectedVersion, MaintenanceModeActive, VersionMismatch, PartitionKeyConflict
     |    |__ UnknownEventType, InvalidPayload, InvalidEvent, EventNotRecorded, ImportRefused
     |    |__ InvalidAggregateId, InvalidEnvelope, ReadOnlySession
     |    |__ StoreNotInstalled, LostTable
     |__ ProjectionError             while projecting
     |    |__ RecordNotFound, DuplicateRecord
     |    |__ ProjectionFailed
     |         |__ ConstraintViolated
     |__ MigrationError              while migrating the view schema
     |    |__ ConcurrentMigration, MigrationNotStarted, InvalidTransition, PlanChanged
     |    |__ DrainTimeout, SwapLockTimeout, StallLimitExceeded, CatchUpTooSlow, TimeLimitReached, VerificationFailed
     |    |__ WorkerFailed, ForeignTransactionIds, DependentObjects, EventsEdited, AggregatesQuarantined
     |    |__ UnsoundInstallation, UnknownEventTypes, OrderingViolated, LostRow
     |__ SchemaMigrationError        the migrations of ordinary tables (refined in ``schema_migrations``)
     |__ DatabaseUnavailable         no server answers, or it is of the wrong version
     |__ InsufficientPrivileges      the role may not do what the command needs

Each class carries its data as attributes; ``str(error)`` says what happened with its values. ``remedy`` is the command or edit that
comes next, and the command line prints it on a line of its own. No message ever holds a password.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class SequentError(Exception):
    """The root of the tree.

    ``remedy`` says what to run or change next; empty where the message already does.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ConfigurationError(SequentError):
    """A setting is missing, unknown or malformed."""


class DefinitionError(SequentError):
    """Something the user wrote (event, record, projector, migrations class) cannot work as it stands."""


class UnknownColumn(DefinitionError):
    """A handler named a column that the record does not have."""

    def __init__(self, record: str, column: str, known: Sequence[str]) -> None:
        super().__init__(f"{record} has no column {column!r}; it has {', '.join(known)}.")
        self.record, self.column, self.known = record, column, tuple(known)


class InvalidFilter(DefinitionError):
    """A filter that cannot be answered alike by every persistor."""

    def __init__(self, record: str, column: str, why: str) -> None:
        super().__init__(f"{record} cannot be filtered by {column!r}: {why}.")
        self.record, self.column = record, column


class InvalidValue(DefinitionError):
    """A value that the column's type does not take."""

    def __init__(self, record: str, column: str, type_name: str, value: Any, why: str = "") -> None:
        reason = f": {why}" if why else ""
        super().__init__(
            f"{record}.{column} is {type_name} and does not take {type(value).__name__} {value!r:.80}{reason}."
        )
        self.record, self.column, self.type_name = record, column, type_name


class RecordNotManaged(DefinitionError):
    """A projector touched a record that is not in its ``manages_tables``."""

    def __init__(self, projector: str, record: str) -> None:
        super().__init__(
            f"{projector} does not manage {record}.", remedy=f"Add {record} to {projector}.manages_tables."
        )
        self.projector, self.record = projector, record


class TableFileError(DefinitionError):
    """A table file is missing, has no ``%SUFFIX%``, or does not create what its record describes."""


class StoreError(SequentError):
    """Appending to or loading from the event store failed."""


class StoreNotInstalled(StoreError):
    """The event store's schema does not exist, or is older than this library."""

    def __init__(self, schema: str, why: str = "does not exist") -> None:
        super().__init__(f"The event store schema {schema!r} {why}.", remedy="Run: sequent init")
        self.schema = schema


class LostTable(StoreError):
    """A table of the event store, of events or of bookkeeping, is not there: somebody dropped it."""

    def __init__(self, schema: str, tables: Sequence[str] = (), said: str = "") -> None:
        """``said``: the server's words, where the tables are not known."""
        what = (
            f"has no table {', '.join(tables)}; somebody has dropped {'it' if len(tables) == 1 else 'them'}"
            if tables
            else f"has lost a table ({said})"
        )
        super().__init__(
            f"The event store schema {schema!r} {what}.",
            remedy="See what else is missing: sequent doctor. Then restore it from a backup.",
        )
        self.schema, self.tables = schema, tuple(tables)


class WrongExpectedVersion(StoreError):
    """The aggregate is not at the version that the caller decided on; nothing was appended."""

    def __init__(self, aggregate_id: Any, expected: int | None, actual: int | None) -> None:
        at = "has been appended to by another transaction" if actual is None else f"is at version {actual}"
        super().__init__(
            f"Aggregate {aggregate_id} {at}, expected {expected}.", remedy="Load it again and decide anew."
        )
        self.aggregate_id, self.expected, self.actual = aggregate_id, expected, actual


class MaintenanceModeActive(StoreError):
    """The gate is closed to writers; reads go on."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The event store is in maintenance mode ({reason}); nothing was appended.",
            remedy="Try again later.",
        )
        self.reason = reason


class VersionMismatch(StoreError):
    """The live view-schema version is none of those that this code serves."""

    def __init__(self, code_versions: Sequence[int], live_version: int) -> None:
        have = " and ".join(map(str, code_versions)) or "0"
        super().__init__(
            f"This code is at view-schema version {have}, the database at {live_version}; nothing was appended.",
            remedy=f"Deploy the code of version {live_version}, or migrate: sequent migrate plan",
        )
        self.code_versions, self.live_version = tuple(code_versions), live_version


class PartitionKeyConflict(StoreError):
    """An aggregate keeps the partition key of its first append, or keeps having none; nothing was appended."""

    def __init__(self, aggregate_id: Any, known: str | None) -> None:
        has = f"has the partition key {known!r}" if known else "has events, and no partition key"
        super().__init__(
            f"Aggregate {aggregate_id} {has}; nothing was appended.",
            remedy="Append without a partition_key: the key of an aggregate is given with its first event and never changes.",
        )
        self.aggregate_id, self.known = aggregate_id, known


class UnknownEventType(StoreError):
    """No event class is known under the stored type."""

    def __init__(
        self, event_type: str, aggregate_id: Any = None, sequence_number: int | None = None, why: str = ""
    ) -> None:
        where = (
            "" if aggregate_id is None else f" (aggregate {aggregate_id}, sequence number {sequence_number})"
        )
        super().__init__(
            f"Unknown event type {event_type!r}{where}{': ' + why if why else ''}.",
            remedy=f'Import the module that defines it, or name the renamed class\'s old name: class …(Event, aliases=("{event_type}",)).',
        )
        self.event_type, self.aggregate_id, self.sequence_number = event_type, aggregate_id, sequence_number
        self.is_ambiguous = bool(why)
        """Whether there are several classes rather than none."""


class InvalidPayload(StoreError):
    """A stored payload does not validate as its event class."""

    def __init__(self, event_type: str, aggregate_id: Any, sequence_number: int | None, cause: str) -> None:
        super().__init__(
            f"The payload of {event_type} (aggregate {aggregate_id}, sequence number {sequence_number}) no longer validates: {cause}.",
            remedy="Add an @upcaster to the event class.",
        )
        self.event_type, self.aggregate_id, self.sequence_number = event_type, aggregate_id, sequence_number


class InvalidEnvelope(StoreError):
    """What is stored beside a payload was written by hand, and cannot be read."""

    def __init__(self, event_type: str, aggregate_id: Any, sequence_number: int | None, cause: str) -> None:
        super().__init__(
            f"The stored {event_type} (aggregate {aggregate_id}, sequence number {sequence_number}) cannot be read: {cause}.",
            remedy="Correct the row of that event.",
        )
        self.event_type, self.aggregate_id, self.sequence_number = event_type, aggregate_id, sequence_number


class ReadOnlySession(StoreError):
    """The session may not write; nothing was appended."""

    def __init__(self) -> None:
        super().__init__(
            "The session is read-only, or the server is a standby; nothing was appended.",
            remedy="Append on the primary (database_url); there run, on the connection: SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE,"
            " or change default_transaction_read_only of the login or the database.",
        )


class InvalidEvent(StoreError):
    """An event cannot be stored as it is."""


class InvalidAggregateId(StoreError):
    """An aggregate was named by something else than a UUID."""

    def __init__(self, value: Any, *, are_several: bool = False) -> None:
        what = "Aggregate ids are a list of UUIDs" if are_several else "aggregate_id is a UUID"
        super().__init__(
            f"{what}, not {type(value).__name__} {value!r:.80}.",
            remedy="Give a uuid.UUID; of a text: UUID(text)."
            + (" One: [aggregate_id]." if are_several else ""),
        )
        self.value = value


class EventNotRecorded(StoreError):
    """The envelope was read before the event was appended."""

    def __init__(self, event_type: str, attribute: str) -> None:
        super().__init__(
            f"{event_type}.{attribute} is known only once the event is recorded.",
            remedy="Use the events that append() returns.",
        )
        self.event_type, self.attribute = event_type, attribute


class ImportRefused(StoreError):
    """History can only be imported where no live projection would miss it."""


class ProjectionError(SequentError):
    """Projecting an event failed."""


class RecordNotFound(ProjectionError):
    """No row matches the filters of an operation that needs one."""

    def __init__(self, record: str, where: Any) -> None:
        super().__init__(f"No {record} matches {dict(where)!r}.")
        self.record, self.where = record, where


class DuplicateRecord(ProjectionError):
    """A row with this primary key exists."""

    is_late = False
    """Whether a row made earlier than by the event at hand is in the way: it was noticed when rows were loaded."""

    def __init__(self, record: str, key: Mapping[str, Any], detail: str | None = None) -> None:
        values = ", ".join(f"{name}={value!r}" for name, value in key.items()) or "this primary key"
        super().__init__(f"A {record} with {values} exists already.{' ' + detail if detail else ''}")
        self.record, self.key = record, dict(key)


class ProjectionFailed(ProjectionError):
    """A handler raised; names projector, event type, aggregate, sequence number and cause."""

    def __init__(
        self, projector: str, event_type: str, aggregate_id: Any, sequence_number: int | None, cause: str
    ) -> None:
        super().__init__(
            f"{projector} failed on {event_type} (aggregate {aggregate_id}, sequence number {sequence_number}): {cause}"
        )
        self.projector, self.event_type = projector, event_type
        self.aggregate_id, self.sequence_number, self.cause = aggregate_id, sequence_number, cause


class ConstraintViolated(ProjectionFailed):
    """A table refuses the rows that a projector made: a constraint, a column's type or a trigger is against them.

    ``event_type`` is empty and ``sequence_number`` None where rows are refused whose event is not known, and so is ``aggregate_id`` where
    they belong to several.
    """

    def __init__(
        self,
        projector: str,
        event_type: str,
        aggregate_id: Any,
        sequence_number: int | None,
        cause: str,
        *,
        table: str | None,
        constraint: str | None,
    ) -> None:
        by = f" by {constraint}" if constraint else ""
        super().__init__(
            projector,
            event_type,
            aggregate_id,
            sequence_number,
            f"{table or 'a table'} refuses its rows{by}: {cause}",
        )
        self.table, self.constraint = table, constraint
        if sequence_number is None:
            whose = f"aggregate {aggregate_id}" if aggregate_id is not None else "several aggregates"
            self.message = f"{projector} failed on {whose}: {self.cause}"


class MigrationError(SequentError):
    """A view migration could not go on."""


class ConcurrentMigration(MigrationError):
    """Another process holds the migration lock; nothing was changed."""

    def __init__(self, holder: str = "") -> None:
        by = f" by {holder}" if holder else ""
        super().__init__(
            f"A view migration is already running{by}; nothing was changed.",
            remedy="Watch it: sequent migrate status",
        )
        self.holder = holder


class MigrationNotStarted(MigrationError):
    """The command needs an online phase that has not happened."""


class InvalidTransition(MigrationError):
    """The command is not allowed in the migration's present state."""


class PlanChanged(MigrationError):
    """The code's plan is no longer the one that the unfinished migration was started with."""


class DrainTimeout(MigrationError):
    """Writers in flight did not finish in time; the gate is as it was found."""


class SwapLockTimeout(MigrationError):
    """The tables could not be locked for the swap; the old ones serve on."""


class StallLimitExceeded(MigrationError):
    """Something that writers wait for, a cut-over or a re-fold, took longer than they may be held up; nothing was changed."""


class CatchUpTooSlow(MigrationError):
    """Events come in faster than the replay, so that the last window never becomes small; nothing was swapped."""

    is_final = False
    """Whether passes were measured not to get shorter, so that trying again at once is in vain."""


class TimeLimitReached(MigrationError):
    """A command took as long as it was given; it stopped where nothing is lost, and nothing was swapped."""


class VerificationFailed(MigrationError):
    """Tables differ from a fresh fold of the events, or from what their files create; nothing was promoted."""

    differences: Sequence[str] = ()
    """Each difference that was found, as far as they were looked at."""

    def __init__(self, message: str, *, remedy: str = "", differences: Sequence[str] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.differences = tuple(differences)


class WorkerFailed(MigrationError):
    """A replay worker ended without finishing; finished groups are kept."""


class UnsoundInstallation(MigrationError):
    """A check at the start of a phase found what would make it wrong; nothing was changed."""


class LostRow(MigrationError):
    """A row of our own tables that must be there is not: somebody deleted it. Nothing was changed."""

    def __init__(self, table: str, what: str, *, remedy: str = "") -> None:
        super().__init__(
            f"{table} has no row for {what}; somebody has deleted it.",
            remedy=remedy
            or "See what else is missing: sequent doctor. Then restore the row from a backup, or, while a migration is unfinished,"
            " begin that anew: sequent migrate abort",
        )
        self.table, self.what = table, what


class UnknownEventTypes(MigrationError):
    """The log has events of types that no class knows and nobody ignores; a replay would pass over them."""

    def __init__(self, event_types: Sequence[str], message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.event_types = tuple(event_types)


class ForeignTransactionIds(MigrationError):
    """Stored transaction ids lie in this cluster's future: the store was restored from another cluster."""


class EventsEdited(MigrationError):
    """Events were edited or deleted in a way that single aggregates cannot be re-folded; the shadow tables may hold what is no longer there."""


class AggregatesQuarantined(MigrationError):
    """Aggregates were set aside in the replay, and nobody accepted that; nothing was promoted."""

    def __init__(self, aggregate_ids: Sequence[Any], first_error: str) -> None:
        shown = ", ".join(map(str, aggregate_ids[:5])) + (", …" if len(aggregate_ids) > 5 else "")
        super().__init__(
            f"{len(aggregate_ids)} aggregate{'s'[: len(aggregate_ids) != 1]} set aside in the replay would be left behind: {shown}. The first: {first_error}",
            remedy="Mend the handlers and run: sequent migrate online. Or accept each by name: --accept-quarantined ID",
        )
        self.aggregate_ids = tuple(aggregate_ids)


class OrderingViolated(MigrationError):
    """Handlers meet rows of other aggregates, or partition keys, than their projector's ordering says."""


class DependentObjects(MigrationError):
    """Views or foreign keys depend on a table that would be swapped."""


class SchemaMigrationError(SequentError):
    """Migrating ordinary tables failed."""


class InsufficientPrivileges(SequentError):
    """The present role may not do what the command needs; nothing was changed."""


class DatabaseUnavailable(SequentError):
    """No server answers, or it is not one this library supports."""
