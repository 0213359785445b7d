"""What happens to files and what authors do.

A *file* is an aggregate: the line of names that one file bore. Events of files carry one line of ``git log --numstat`` each: ``path`` is the
name that line ends in, a binary file has no line counts. An *author* is an aggregate too: one email address, whatever its case.
"""

from __future__ import annotations

from datetime import datetime

from sequent_py import Event


class FileAdded(Event):
    """A file begins; ``copied_from`` where git found it to be a copy."""

    path: str
    sha: str
    lines_added: int
    lines_deleted: int = 0
    is_binary: bool = False
    copied_from: str | None = None


class FileChanged(Event):
    """Its content, mode or type changed."""

    path: str
    sha: str
    lines_added: int
    lines_deleted: int
    is_binary: bool = False


class FileRenamed(Event):
    """It goes by the name ``path`` from here on; its content may have changed on the way."""

    old_path: str
    path: str
    sha: str
    lines_added: int
    lines_deleted: int
    is_binary: bool = False


class FileDeleted(Event):
    """The name ``path`` is gone. It may live on under another one that a parallel branch gave it."""

    path: str
    sha: str
    lines_added: int = 0
    lines_deleted: int
    is_binary: bool = False


class FileDisplaced(Event):
    """Another file has been renamed to this one's name on a parallel branch, and keeps it."""

    path: str
    sha: str


class CommitAuthored(Event):
    """An author made a commit. Merges are commits of theirs in which no file changes, as ``git log --numstat`` has it."""

    sha: str
    author_name: str
    author_email: str
    authored_at: datetime
    is_merge: bool
    files: int
    lines_added: int
    lines_deleted: int
