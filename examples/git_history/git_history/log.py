"""Read ``git log`` as a stream of commits, parents before children.

One git process is streamed; nothing is held but the commit at hand. What is read is what ``git log --numstat`` prints: renames are found, merges
list no files, the first commit lists all of its own. ``-z`` ends every name with NUL, so that names may hold anything; ``--raw`` says of each
file whether it was added, changed, renamed or deleted, which the counts alone do not. Options that would change the *form* of the output
(colours, signatures, external diffs, relative paths) are overruled; settings that change the *numbers* (``diff.algorithm``,
``diff.renameLimit``, attributes) stay the reader's own, so that they see the figures that git shows them.

The repository is only read. Bare repositories, subdirectories, worktrees and shallow clones (whose oldest commits count as the first) do.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from sequent_py import SequentError

_BLOCK_BYTES = 1 << 16
_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z. Histories with broken clocks have later ones, which no ``datetime`` holds."""

_HEADER = b"commit "
_FIELDS = ("%H", "%P", "%an", "%ae", "%at", "%ct")
LOG_OPTIONS = (
    "--no-color",
    "--no-show-signature",
    "--no-ext-diff",
    "--no-relative",
    "--ignore-submodules=none",
    "--encoding=UTF-8",
    "--no-abbrev",
    "-M",
)
"""What keeps a reader's configuration from changing the form of the output."""
SETTINGS = ("-c", "log.showRoot=true")


class RepositoryError(SequentError):
    """The path is no git repository, has no commits, or git could not read it."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file in one commit. ``status`` is git's letter: A, C, D, M, R or T; ``old_path`` is set for C and R."""

    status: str
    path: str
    old_path: str | None
    lines_added: int
    lines_deleted: int
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit; times are UTC."""

    sha: str
    parents: tuple[str, ...]
    author_name: str
    author_email: str
    authored_at: datetime
    committed_at: datetime
    changes: tuple[FileChange, ...]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit: what is read does not change when commits arrive meanwhile."""

    path: Path
    head: str
    commits: int
    is_shallow: bool


def open_repository(path: Path) -> Repository:
    """Find the repository at or above ``path`` and fix its present ``HEAD``.

    Raises
    ------
    RepositoryError
        There is none, it has no commits, or git refuses to read it; with git's own words.
    """
    if not path.exists():
        raise RepositoryError(f"{path} does not exist.", remedy="Name a git repository.")
    directory = path if path.is_dir() else path.parent
    inside = _git(directory, "rev-parse", "--git-dir")
    if inside.returncode != 0:
        raise RepositoryError(f"{path} is no git repository that can be read: {_said(inside)}.")
    head = _git(directory, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if head.returncode != 0:
        raise RepositoryError(f"{path} has no commits yet (its HEAD names none).")
    sha = head.stdout.decode("ascii").strip()
    counted = _git(directory, "rev-list", "--count", sha)
    if counted.returncode != 0:
        raise RepositoryError(f"git cannot walk the history of {path}: {_said(counted)}.")
    shallow = _git(directory, "rev-parse", "--is-shallow-repository")
    return Repository(path, sha, int(counted.stdout), shallow.stdout.strip() == b"true")


def read_commits(repository: Repository) -> Iterator[Commit]:
    """Yield every commit that ``HEAD`` reaches, parents before children. Closing the iterator ends git.

    Raises
    ------
    RepositoryError
        git failed on the way, e.g. because an object is missing.
    """
    arguments = (
        *SETTINGS,
        "log",
        "--topo-order",
        "--reverse",
        *LOG_OPTIONS,
        "--raw",
        "--numstat",
        "-z",
        f"--format={_HEADER.decode()}{'%x00'.join(_FIELDS)}",
        repository.head,
        "--",
    )
    truncated: RepositoryError | None = None
    # A file, not a pipe: nobody reads it while the output is being read, and a full pipe would stop git.
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(
            _command(repository.path, *arguments),
            stdout=subprocess.PIPE,
            stderr=complaints,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        ) as git:
            assert git.stdout is not None
            try:
                yield from parse(_tokens(git.stdout))
            except RepositoryError as error:
                # git's own words are better, if it failed.
                truncated = error
            except BaseException:
                git.kill()
                raise
        if git.returncode != 0:
            complaints.seek(0)
            said = complaints.read().decode(errors="replace").strip()
            raise RepositoryError(
                f"git log failed on {repository.path} with exit code {git.returncode}: {said}"
            )
    if truncated is not None:
        raise truncated


def parse(tokens: Iterator[bytes]) -> Iterator[Commit]:
    """Read the NUL-separated tokens of ``git log -z --raw --numstat`` in the format of :func:`read_commits`.

    A token that *begins* something is a header, a raw entry (``:``) or a count; names are only ever taken where one must follow, so that a
    file named like any of these is no trouble.
    """
    header: list[bytes] = []
    statuses: dict[tuple[bytes | None, bytes], str] = {}
    changes: list[FileChange] = []
    for token in tokens:
        if token.startswith(_HEADER):
            if header:
                yield _commit(header, changes)
            header = [token.removeprefix(_HEADER), *(_next(tokens) for _ in _FIELDS[1:])]
            statuses, changes = {}, []
            continue
        # A newline parts the header from the files.
        entry = token.removeprefix(b"\n")
        if entry.startswith(b":"):
            status = entry.rsplit(b" ", 1)[1][:1].decode("ascii")
            old = _next(tokens) if status in "CR" else None
            statuses[old, _next(tokens)] = status
        elif entry:
            added, deleted, path = entry.split(b"\t", 2)
            old = None
            if not path:
                old, path = _next(tokens), _next(tokens)
            changes.append(_change(statuses[old, path], old, path, added, deleted))
    if header:
        yield _commit(header, changes)


def path_text(raw: bytes) -> str:
    r"""Return a name as text that PostgreSQL can hold, different for different names.

    UTF-8 is taken as it is. Any other name, and one that begins with a double quote, is written as git writes it: in double quotes, with
    bytes beyond ASCII in octal (``"caf\351.txt"``).
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return _quoted(raw)
    return _quoted(raw) if text.startswith('"') else text


_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}


def _quoted(raw: bytes) -> str:
    def shown(byte: int) -> str:
        if byte in _ESCAPES:
            return "\\" + _ESCAPES[byte]
        return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"

    return f'"{"".join(map(shown, raw))}"'


def _change(status: str, old: bytes | None, path: bytes, added: bytes, deleted: bytes) -> FileChange:
    is_binary = added == b"-"
    return FileChange(
        status,
        path_text(path),
        None if old is None else path_text(old),
        0 if is_binary else int(added),
        0 if is_binary else int(deleted),
        is_binary,
    )


def _commit(header: list[bytes], changes: list[FileChange]) -> Commit:
    sha, parents, name, email, authored, committed = header
    return Commit(
        sha.decode("ascii"),
        tuple(parents.decode("ascii").split()),
        name.decode("utf-8", "backslashreplace"),
        email.decode("utf-8", "backslashreplace"),
        _moment(authored),
        _moment(committed),
        tuple(changes),
    )


def _moment(seconds: bytes) -> datetime:
    """Read git's seconds since 1970; a commit without a readable date has none, and counts as 1970 as it does for git."""
    return datetime.fromtimestamp(min(max(int(seconds or b"0"), 0), _LAST_SECOND), UTC)


def _tokens(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole
    if rest:
        raise _truncated()


def _next(tokens: Iterator[bytes]) -> bytes:
    token = next(tokens, None)
    if token is None:
        raise _truncated()
    return token


def _truncated() -> RepositoryError:
    return RepositoryError("The output of git log ended in the middle of a commit.")


def _git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            _command(directory, *arguments),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError:
        raise RepositoryError("git is not installed, or not on the PATH.") from None


def _command(directory: Path, *arguments: str) -> list[str]:
    return ["git", "--no-pager", "-C", str(directory), *arguments]


def _environment() -> Mapping[str, str]:
    """The caller's, without what would lead git to another repository than the one that was named (a hook's, for instance)."""
    elsewhere = {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_COMMON_DIR",
        "GIT_NAMESPACE",
        "GIT_PREFIX",
    }
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


def _said(completed: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(completed.stderr.decode(errors="replace").split()).rstrip(".")
