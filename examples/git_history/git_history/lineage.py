"""Turn commits into events: which file is meant by a name at this place of the history.

The rule, walking commits parents before children:

* a name that no living file bears begins a new file when it is added (or copied to);
* a rename moves the file from the old name to the new one; what is added under the old name later is another file;
* a deleted file is over; a name added again begins another file.

History is a graph and is read as a line, so that a commit of one branch may speak of a name that another branch has deleted, renamed or added
before. Then: the addition of a living name is a change of that file; a change under a name that a file bore until it was renamed is a change
of that file, under its present name; a change of a deleted file shows that it lives on; a rename to a name that another file bears displaces
that one; and a name never seen (it came with a merge commit, whose files ``git log --numstat`` does not list) begins a file.
At any place a name belongs to one living file at most, and each line of ``git log --numstat`` becomes one event.

Identities are the same for every clone: uuid5 in a namespace made of the first commit's sha, over the commit that begins a file and its name;
for authors over the email address in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from uuid import NAMESPACE_OID, UUID, uuid5

from sequent_py import Event

from git_history.events import (
    CommitAuthored,
    FileAdded,
    FileChanged,
    FileDeleted,
    FileDisplaced,
    FileRenamed,
)
from git_history.log import Commit, FileChange


def events_of(commits: Iterable[Commit]) -> Iterator[tuple[UUID, Event, datetime]]:
    """Yield (aggregate, event, commit time) of every commit; memory grows with the number of names, not of commits."""
    lineage: Lineage | None = None
    for commit in commits:
        lineage = lineage or Lineage(commit.sha)
        for aggregate_id, event in lineage.events(commit):
            yield aggregate_id, event, commit.committed_at


class Lineage:
    """Which file bears a name, after the commits seen so far."""

    def __init__(self, first_sha: str) -> None:
        self._namespace = uuid5(NAMESPACE_OID, first_sha)
        self._living: dict[str, UUID] = {}
        self._latest: dict[str, UUID] = {}
        """The last file that bore a name, living or not."""
        self._name: dict[UUID, str] = {}
        """The present name of each living file: the inverse of ``_living``."""

    def events(self, commit: Commit) -> Iterator[tuple[UUID, Event]]:
        """Yield what the commit means for its author and its files."""
        yield (
            uuid5(self._namespace, f"author:{commit.author_email.casefold()}"),
            CommitAuthored(
                sha=commit.sha,
                author_name=commit.author_name,
                author_email=commit.author_email,
                authored_at=commit.authored_at,
                is_merge=len(commit.parents) > 1,
                files=len(commit.changes),
                lines_added=sum(change.lines_added for change in commit.changes),
                lines_deleted=sum(change.lines_deleted for change in commit.changes),
            ),
        )
        for change in commit.changes:
            match change.status:
                case "A" | "C":
                    yield self._added(commit, change)
                case "R":
                    yield from self._renamed(commit, change)
                case "D":
                    yield self._deleted(commit, change)
                case _:
                    yield self._changed(commit, change)

    def _added(self, commit: Commit, change: FileChange) -> tuple[UUID, Event]:
        if change.path in self._living:
            return self._changed(commit, change)
        file = self._begin(commit, change.path)
        return file, FileAdded(
            path=change.path,
            sha=commit.sha,
            lines_added=change.lines_added,
            lines_deleted=change.lines_deleted,
            is_binary=change.is_binary,
            copied_from=change.old_path,
        )

    def _changed(self, commit: Commit, change: FileChange) -> tuple[UUID, Event]:
        file = self._find(change.path) or self._begin(commit, change.path)
        if file not in self._name:
            self._settle(file, change.path)
        return file, FileChanged(
            path=change.path,
            sha=commit.sha,
            lines_added=change.lines_added,
            lines_deleted=change.lines_deleted,
            is_binary=change.is_binary,
        )

    def _deleted(self, commit: Commit, change: FileChange) -> tuple[UUID, Event]:
        file = self._find(change.path) or self._begin(commit, change.path)
        if self._name.get(file) == change.path:
            del self._name[file], self._living[change.path]
        return file, FileDeleted(
            path=change.path,
            sha=commit.sha,
            lines_added=change.lines_added,
            lines_deleted=change.lines_deleted,
            is_binary=change.is_binary,
        )

    def _renamed(self, commit: Commit, change: FileChange) -> Iterator[tuple[UUID, Event]]:
        assert change.old_path is not None
        # Both branches may have renamed it: then the second rename finds the file under its new name.
        file = self._find(change.old_path) or self._find(change.path) or self._begin(commit, change.old_path)
        displaced = self._living.get(change.path)
        if displaced is not None and displaced != file:
            del self._name[displaced]
            yield displaced, FileDisplaced(path=change.path, sha=commit.sha)
        former = self._name.pop(file, None)
        if former is not None:
            del self._living[former]
        self._settle(file, change.path)
        yield (
            file,
            FileRenamed(
                old_path=change.old_path,
                path=change.path,
                sha=commit.sha,
                lines_added=change.lines_added,
                lines_deleted=change.lines_deleted,
                is_binary=change.is_binary,
            ),
        )

    def _find(self, path: str) -> UUID | None:
        return self._living.get(path) or self._latest.get(path)

    def _begin(self, commit: Commit, path: str) -> UUID:
        file = uuid5(self._namespace, f"file:{commit.sha}:{path}")
        self._settle(file, path)
        return file

    def _settle(self, file: UUID, path: str) -> None:
        self._living[path] = self._latest[path] = file
        self._name[file] = path
