"""The names that files bore, with what changed under each: the part of the read side that both versions share."""

from __future__ import annotations

from uuid import UUID

from sequent_py import Projector, Record, on
from sqlalchemy.orm import Mapped, mapped_column

from git_history.events import FileAdded, FileChanged, FileDeleted, FileRenamed

FileEvent = FileAdded | FileChanged | FileRenamed | FileDeleted
"""One line of ``git log --numstat``."""


class FileNameRecord(Record):
    """A name of a file. Sums by ``path`` are what git prints for that path."""

    __tablename__ = "file_name_records"

    # A number and not the path: a path may have 4096 bytes, an index entry no more than 2704.
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    name_number: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    changes: Mapped[int] = mapped_column(default=0)
    binary_changes: Mapped[int] = mapped_column(default=0)
    lines_added: Mapped[int] = mapped_column(default=0)
    lines_deleted: Mapped[int] = mapped_column(default=0)


class FileNameProjector(Projector):
    """Counts every change under the name that git prints it for."""

    manages_tables = (FileNameRecord,)

    @on(FileAdded, FileChanged, FileRenamed, FileDeleted)
    def changed(self, event: FileEvent) -> None:
        where = {"aggregate_id": event.aggregate_id, "path": event.path}
        if self.find_record(FileNameRecord, **where) is None:
            last = self.last_record(FileNameRecord, aggregate_id=event.aggregate_id)
            self.create_record(FileNameRecord, **where, name_number=last.name_number + 1 if last else 1)
        with self.update_record(FileNameRecord, event, **where) as name:
            name.changes += 1
            name.binary_changes += event.is_binary
            name.lines_added += event.lines_added
            name.lines_deleted += event.lines_deleted
