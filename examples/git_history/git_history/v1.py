"""Version 1 of the read side: churn per file, commits per author and month."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sequent_py import Migrations, Projector, Record, on
from sqlalchemy.orm import Mapped, mapped_column

from git_history.events import (
    CommitAuthored,
    FileAdded,
    FileChanged,
    FileDeleted,
    FileDisplaced,
    FileRenamed,
)
from git_history.names import FileEvent, FileNameProjector


class FileRecord(Record):
    """A file with all that was ever changed in it, under whatever name."""

    __tablename__ = "file_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(default="")
    """The present name, or the last one."""
    is_deleted: Mapped[bool] = mapped_column(default=True)
    changes: Mapped[int] = mapped_column(default=0)
    binary_changes: Mapped[int] = mapped_column(default=0)
    lines_added: Mapped[int] = mapped_column(default=0)
    lines_deleted: Mapped[int] = mapped_column(default=0)
    updated_at: Mapped[datetime]


class ActivityRecord(Record):
    """What an author did in a month (of UTC)."""

    __tablename__ = "activity_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    month: Mapped[str] = mapped_column(primary_key=True)
    author_name: Mapped[str] = mapped_column(default="")
    author_email: Mapped[str] = mapped_column(default="")
    commits: Mapped[int] = mapped_column(default=0)


class FileProjector(Projector):
    """Churn per file."""

    manages_tables = (FileRecord,)

    @on(FileAdded, FileChanged, FileRenamed, FileDeleted)
    def changed(self, event: FileEvent) -> None:
        with self.create_or_update_record(FileRecord, event, aggregate_id=event.aggregate_id) as file:
            file.changes += 1
            file.binary_changes += event.is_binary
            file.lines_added += event.lines_added
            file.lines_deleted += event.lines_deleted

    @on(FileAdded, FileRenamed)
    def named(self, event: FileAdded | FileRenamed) -> None:
        with self.update_record(FileRecord, event) as file:
            file.path = event.path
            file.is_deleted = False

    @on(FileChanged)
    def seen(self, event: FileChanged) -> None:
        with self.update_record(FileRecord, event) as file:
            # Otherwise it may be a commit of a branch that knew the file by an older name.
            if file.is_deleted:
                file.path = event.path
                file.is_deleted = False

    @on(FileDeleted)
    def deleted(self, event: FileDeleted) -> None:
        with self.update_record(FileRecord, event) as file:
            file.path = file.path or event.path
            if file.path == event.path:
                file.is_deleted = True

    @on(FileDisplaced)
    def displaced(self, event: FileDisplaced) -> None:
        with self.update_record(FileRecord, event) as file:
            file.is_deleted = True


class ActivityProjector(Projector):
    """Commits per author and month."""

    manages_tables = (ActivityRecord,)

    @on(CommitAuthored)
    def authored(self, event: CommitAuthored) -> None:
        with self.create_or_update_record(
            ActivityRecord, event, aggregate_id=event.aggregate_id, month=f"{event.authored_at:%Y-%m}"
        ) as activity:
            activity.author_name = event.author_name
            activity.author_email = event.author_email
            activity.commits += 1


class GitHistoryMigrations(Migrations):
    """The first version."""

    version = 1
    versions = {1: [FileProjector, FileNameProjector, ActivityProjector]}
