"""What the tables of ``git_history`` must hold, as ``git log`` prints it and as SQL adds the payloads up.

Nothing of the import is used: git is run anew, twice and in other forms than the import reads. For names, ``--numstat -z`` without any header, so
that the output is nothing but counts and names. For authors, lines without ``-z``, where git quotes what is odd in names, so that a line
is a line and only its two counts are read. Sums do not depend on the order of commits.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from psycopg import Connection, sql

from sequent_py.demo.reports import Comparison
from sequent_py.errors import SequentError

EXAMPLES = 5
_UNREADABLE_MONTH = b"1970-01"

_BY_NAME = """
    SELECT path, sum(changes)::bigint, sum(binary_changes)::bigint, sum(lines_added)::bigint, sum(lines_deleted)::bigint
    FROM {file_name_records} GROUP BY path
"""

_BY_AUTHOR = """
    SELECT author_email, month, commits, merges, files, lines_added, lines_deleted FROM {activity_records}
"""

# The rows of files whole, against their events; the name and whether it is deleted against the last event that says so.
_FILES = """
    WITH payloads AS MATERIALIZED (
        SELECT e.aggregate_id, e.created_at, t.name AS type_name,
               coalesce((e.payload->>'is_binary')::boolean, false) AS is_binary,
               (e.payload->>'lines_added')::bigint AS added, (e.payload->>'lines_deleted')::bigint AS deleted
        FROM {events} e JOIN {event_types} t ON t.id = e.event_type_id
        WHERE t.name IN ('FileAdded', 'FileChanged', 'FileRenamed', 'FileDeleted')),
    expected AS MATERIALIZED (
        SELECT aggregate_id, count(*)::integer AS changes, (count(*) FILTER (WHERE is_binary))::integer AS binary_changes,
               sum(added)::bigint AS lines_added, sum(deleted)::bigint AS lines_deleted, sum(added - deleted)::bigint AS net_lines,
               max(added + deleted) AS largest_commit, min(created_at) AS first_commit_at, max(created_at) AS last_commit_at
        FROM payloads GROUP BY aggregate_id),
    found AS MATERIALIZED (
        SELECT aggregate_id, changes, binary_changes, lines_added, lines_deleted, net_lines, largest_commit,
               first_commit_at, last_commit_at
        FROM {file_records}),
    differing AS MATERIALIZED (
        (SELECT 'expected' AS side, d::text AS what FROM (TABLE expected EXCEPT ALL TABLE found) d)
        UNION ALL
        (SELECT 'found', d::text FROM (TABLE found EXCEPT ALL TABLE expected) d))
    SELECT (SELECT count(*) FROM expected), (SELECT count(*) FROM differing),
           ARRAY(SELECT side || ' ' || what FROM differing ORDER BY what, side LIMIT {examples})
"""


class GitFailed(SequentError):
    """git could not print the history that the tables are compared with."""


Sums = dict[Any, list[int]]


def check_git(
    connection: Connection, event_store_schema: str, view_schema: str, repository: Path, head: str
) -> tuple[Comparison, ...]:
    """Compare names and authors with git, and files with their events.

    Raises
    ------
    GitFailed
        With git's own words.
    """
    with ThreadPoolExecutor(2) as pool:
        names = pool.submit(sums_by_name, repository, head)
        authors = pool.submit(sums_by_author, repository, head)
        expected_names, expected_authors = names.result(), authors.result()
    tables = {
        name: sql.Identifier(view_schema, name)
        for name in ("file_records", "file_name_records", "activity_records")
    }
    found_names = {
        raw_name(path): list(sums)
        for path, *sums in connection.execute(
            sql.SQL(_BY_NAME).format(file_name_records=tables["file_name_records"])
        )
    }
    found_authors = {
        (email.casefold(), month): list(sums)
        for email, month, *sums in connection.execute(
            sql.SQL(_BY_AUTHOR).format(activity_records=tables["activity_records"])
        )
    }
    row = connection.execute(
        sql.SQL(_FILES).format(
            events=sql.Identifier(event_store_schema, "events"),
            event_types=sql.Identifier(event_store_schema, "event_types"),
            file_records=tables["file_records"],
            examples=sql.Literal(EXAMPLES),
        )
    ).fetchone()
    assert row is not None
    return (
        compare("names of files against git log --numstat", expected_names, found_names),
        compare("authors and months against git log --numstat", expected_authors, found_authors),
        Comparison("files against the sums of their events", row[0], row[1], tuple(row[2])),
    )


def sums_by_name(repository: Path, head: str) -> Sums:
    """Return, by name (bytes), [changes, binary changes, lines added, lines deleted] as git prints them."""
    sums: Sums = defaultdict(lambda: [0, 0, 0, 0])
    with _log(repository, head, "-z", "--format=") as output:
        parts = _split(output, b"\0")
        for part in parts:
            part = part.lstrip(b"\n")
            if not part:
                continue
            added, deleted, name = part.split(b"\t", 2)
            if not name:
                next(parts)
                name = next(parts)
            entry = sums[name]
            entry[0] += 1
            if added == b"-":
                entry[1] += 1
            else:
                entry[2] += int(added)
                entry[3] += int(deleted)
    return dict(sums)


def sums_by_author(repository: Path, head: str) -> Sums:
    """Return, by (email in lower case, month of UTC), [commits, merges, files, lines added, lines deleted]."""
    sums: Sums = defaultdict(lambda: [0, 0, 0, 0, 0])
    entry = [0] * 5
    with _log(
        repository, head, "--date=format-local:%Y-%m", "--format=%x01%ad%x09%P%x09%ae", "--encoding=UTF-8"
    ) as output:
        for line in output:
            if line.startswith(b"\x01"):
                month, parents, email = line[1:].rstrip(b"\n").split(b"\t", 2)
                key = (
                    email.decode("utf-8", "backslashreplace").casefold(),
                    (month or _UNREADABLE_MONTH).decode("ascii"),
                )
                entry = sums[key]
                entry[0] += 1
                entry[1] += b" " in parents
            elif counts := re.match(rb"(\d+|-)\t(\d+|-)\t", line):
                entry[2] += 1
                if counts[1] != b"-":
                    entry[3] += int(counts[1])
                    entry[4] += int(counts[2])
    return dict(sums)


def raw_name(text: str) -> bytes:
    r"""Return the bytes of a stored name: names in double quotes are written as git quotes them (``"caf\351"``)."""
    raw = text.encode("utf-8")
    if not raw.startswith(b'"'):
        return raw
    letters = dict(zip(b'abtnvfr"\\', b'\x07\x08\t\n\x0b\x0c\r"\\', strict=True))

    def unquoted(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[1], 8) if len(match[1]) == 3 else letters[match[1][0]]])

    return re.sub(rb"\\([0-7]{3}|.)", unquoted, raw[1:-1])


def compare(name: str, expected: Mapping[Any, list[int]], found: Mapping[Any, list[int]]) -> Comparison:
    """Compare two mappings whole; what is missing on one side differs."""
    keys = expected.keys() | found.keys()
    differing = sorted((key for key in keys if expected.get(key) != found.get(key)), key=repr)
    examples = tuple(
        f"{key!r}: expected {expected.get(key)}, found {found.get(key)}" for key in differing[:EXAMPLES]
    )
    return Comparison(name, len(keys), len(differing), examples)


@contextmanager
def _log(repository: Path, head: str, *options: str) -> Iterator[IO[bytes]]:
    """Run ``git log --numstat`` and yield its output."""
    directory = repository if repository.is_dir() else repository.parent
    command = ["git", "--no-pager", "-C", str(directory), "-c", "log.showRoot=true", "log", "--numstat", "-M"]
    command += [
        "--no-color",
        "--no-ext-diff",
        "--no-relative",
        "--no-show-signature",
        "--ignore-submodules=none",
    ]
    ours = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(
            [*command, *options, head, "--"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**ours, "TZ": "UTC", "LC_ALL": "C"},
        ) as git:
            assert git.stdout is not None
            try:
                yield git.stdout
            except BaseException:
                git.kill()
                raise
        if git.returncode:
            complaints.seek(0)
            raise GitFailed(
                f"git log failed on {repository}: {complaints.read().decode(errors='replace').strip()}"
            )


def _split(stream: IO[bytes], separator: bytes) -> Iterator[bytes]:
    rest = b""
    for block in _blocks(stream):
        *whole, rest = (rest + block).split(separator)
        yield from whole
    if rest.strip():
        raise GitFailed("The output of git log ended in the middle of a name.")


def _blocks(stream: IO[bytes]) -> Iterable[bytes]:
    return iter(lambda: stream.read(1 << 16), b"")
