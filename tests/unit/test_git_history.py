"""Reading ``git log``: odd names, binary files, renames, copies, merges; and which file is meant by a name."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sequent_py.demo import git_check
from sequent_py.demo.examples import example_directory

sys.path.insert(0, str(example_directory("git_history")))
log: Any = importlib.import_module("git_history.log")
lineage: Any = importlib.import_module("git_history.lineage")


class Repository:
    """A repository in the making. Every commit is a minute after the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._minutes = 0
        path.mkdir()
        self("init", "-q", "-b", "main")

    def __call__(self, *arguments: str | bytes, **environment: str) -> str:
        moment = f"{1_700_000_000 + 60 * self._minutes} +0200"
        ours = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ann",
            "GIT_AUTHOR_EMAIL": "ann@example.org",
            "GIT_COMMITTER_NAME": "Ann",
            "GIT_COMMITTER_EMAIL": "ann@example.org",
            "GIT_AUTHOR_DATE": moment,
            "GIT_COMMITTER_DATE": moment,
        }
        completed = subprocess.run(
            ["git", *arguments], cwd=self.path, env={**ours, **environment}, check=True, capture_output=True
        )
        return completed.stdout.decode(errors="replace").strip()

    def write(self, name: str | bytes, content: str | bytes) -> None:
        """Write a file, whatever its name."""
        target = os.path.join(os.fsencode(self.path), os.fsencode(name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())

    def commit(self, **environment: str) -> str:
        """Commit everything that has changed; return the sha."""
        self._minutes += 1
        self("add", "-A")
        self("commit", "-q", "--allow-empty", "-m", "something", **environment)
        return self("rev-parse", "HEAD")

    def commits(self) -> list[Any]:
        """Read the history as the importer does."""
        return list(log.read_commits(log.open_repository(self.path)))

    def events(self) -> list[tuple[Any, Any]]:
        """Return (file, event) of all files."""
        return [
            (aggregate_id, event)
            for aggregate_id, event, _ in lineage.events_of(self.commits())
            if type(event).__name__ != "CommitAuthored"
        ]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def assert_as_git_prints(repository: Repository) -> Iterator[Callable[[], None]]:
    """Compare what the importer reads with what git prints, name by name and author by author."""

    def check() -> None:
        head = repository("rev-parse", "HEAD")
        names: dict[bytes, list[int]] = {}
        for _, event in repository.events():
            if type(event).__name__ != "FileDisplaced":
                sums = names.setdefault(git_check.raw_name(event.path), [0, 0, 0, 0])
                for index, value in enumerate((1, event.is_binary, event.lines_added, event.lines_deleted)):
                    sums[index] += value
        assert names == git_check.sums_by_name(repository.path, head)
        authors: dict[tuple[str, str], list[int]] = {}
        for commit in repository.commits():
            key = (commit.author_email.casefold(), f"{commit.authored_at:%Y-%m}")
            sums = authors.setdefault(key, [0, 0, 0, 0, 0])
            added = sum(change.lines_added for change in commit.changes)
            deleted = sum(change.lines_deleted for change in commit.changes)
            for index, value in enumerate((1, len(commit.parents) > 1, len(commit.changes), added, deleted)):
                sums[index] += value
        assert authors == git_check.sums_by_author(repository.path, head)

    yield check
    check()


def _kinds(events: list[tuple[Any, Any]]) -> list[str]:
    return [type(event).__name__ for _, event in events]


# ------------------------------------------------------------------------------------------------------------ the output


def _header(sha: str = "a" * 40, parents: str = "") -> list[bytes]:
    return [f"commit {sha}".encode(), parents.encode(), b"Ann", b"ann@example.org", b"100", b"200"]


def test_a_file_whose_name_looks_like_a_header_a_raw_entry_or_a_count() -> None:
    names = [b"commit " + b"b" * 40, b":100644 100644 a b M", b"1\t2\tx", b"\n", b"-\t-\t"]
    raws = [item for name in names for item in (b":000000 100644 0 1 A", name)]
    tokens = [*_header(), b"\n" + raws[0], *raws[1:], *(b"3\t0\t" + name for name in names)]
    (commit,) = log.parse(iter(tokens))
    assert [change.path.encode() for change in commit.changes] == names
    assert {(change.status, change.lines_added) for change in commit.changes} == {("A", 3)}


def test_renames_and_copies_carry_both_names() -> None:
    tokens = [
        *_header(),
        b"\n:100644 100644 0 1 C100", b"old", b"copy",
        b":100644 100644 0 1 R090", b"old", b"new",
        b"0\t0\t", b"old", b"copy",
        b"-\t-\t", b"old", b"new",
    ]  # fmt: skip
    (commit,) = log.parse(iter(tokens))
    assert [(change.status, change.old_path, change.path) for change in commit.changes] == [
        ("C", "old", "copy"),
        ("R", "old", "new"),
    ]
    assert [change.is_binary for change in commit.changes] == [False, True]


def test_output_that_ends_within_a_commit_is_an_error() -> None:
    with pytest.raises(log.RepositoryError, match="middle of a commit"):
        list(log.parse(iter([*_header(), b"\n:100644 100644 0 1 A"])))
    with pytest.raises(log.RepositoryError, match="middle of a commit"):
        list(log.parse(iter(_header()[:3])))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain.txt", "plain.txt"),
        ("naïve 猫.txt".encode(), "naïve 猫.txt"),
        (b"caf\xe9", r'"caf\351"'),
        (rb"caf\351", r"caf\351"),
        (b'"quoted"', r'"\"quoted\""'),
        (b"\xff\n\t\\\x01", r'"\377\n\t\\\001"'),
        (b"\xed\xa0\x80", r'"\355\240\200"'),
        (b'in "the" middle', 'in "the" middle'),
    ],
)
def test_names_become_text_that_leads_back_to_them(raw: bytes, text: str) -> None:
    assert log.path_text(raw) == text
    text.encode()
    assert git_check.raw_name(text) == raw


def test_dates_that_no_calendar_holds() -> None:
    header = _header()
    header[4:] = [b"99999999999999999", b""]
    (commit,) = log.parse(iter(header))
    assert commit.authored_at.year == 9999
    assert commit.committed_at.year == 1970


# ---------------------------------------------------------------------------------------------------------- which file


def _story(*commits: str) -> list[tuple[int, str, str]]:
    """Tell commits as "A a", "R a b", … and return (file, event, name): files numbered by their first mention."""
    state, numbers, told = lineage.Lineage("0" * 40), {}, []
    for number, line in enumerate(commits):
        status, *paths = line.split()
        change = log.FileChange(status, paths[-1], paths[0] if len(paths) == 2 else None, 1, 1, False)
        commit = log.Commit(f"{number:040}", (), "Ann", "ann@example.org", None, None, (change,))
        for file, event in list(_without_author(state, commit)):
            told.append((numbers.setdefault(file, len(numbers)), type(event).__name__, event.path))
    return told


def _without_author(state: Any, commit: Any) -> list[tuple[Any, Any]]:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    return list(state.events(replace(commit, authored_at=moment, committed_at=moment)))[1:]


def test_a_change_under_the_old_name_belongs_to_the_renamed_file() -> None:
    assert _story("A a", "R a b", "M a", "M b") == [
        (0, "FileAdded", "a"),
        (0, "FileRenamed", "b"),
        (0, "FileChanged", "a"),
        (0, "FileChanged", "b"),
    ]


def test_a_deletion_under_the_old_name_leaves_the_renamed_file_alive() -> None:
    assert _story("A a", "R a b", "D a", "A b")[2:] == [(0, "FileDeleted", "a"), (0, "FileChanged", "b")]


def test_both_branches_rename_alike_or_differently() -> None:
    assert _story("A a", "R a b", "R a b")[2] == (0, "FileRenamed", "b")
    assert _story("A a", "R a b", "R a c", "A b", "M c")[2:] == [
        (0, "FileRenamed", "c"),
        (1, "FileAdded", "b"),
        (0, "FileChanged", "c"),
    ]


def test_a_change_after_a_deletion_shows_that_the_file_lives_on() -> None:
    assert _story("A a", "D a", "M a", "A a")[2:] == [(0, "FileChanged", "a"), (0, "FileChanged", "a")]
    assert _story("A a", "D a", "A a")[2] == (1, "FileAdded", "a")


def test_a_rename_to_the_name_of_another_file_displaces_that_one() -> None:
    assert _story("A a", "A b", "R a b", "M b", "D b", "A a")[2:] == [
        (1, "FileDisplaced", "b"),
        (0, "FileRenamed", "b"),
        (0, "FileChanged", "b"),
        (0, "FileDeleted", "b"),
        (2, "FileAdded", "a"),
    ]


def test_what_is_added_on_two_branches_is_one_file() -> None:
    assert _story("A a", "A a", "C a b", "C a b") == [
        (0, "FileAdded", "a"),
        (0, "FileChanged", "a"),
        (1, "FileAdded", "b"),
        (1, "FileChanged", "b"),
    ]


def test_names_never_seen_begin_files() -> None:
    assert _story("M a", "D b", "R c d", "T e", "M c") == [
        (0, "FileChanged", "a"),
        (1, "FileDeleted", "b"),
        (2, "FileRenamed", "d"),
        (3, "FileChanged", "e"),
        (2, "FileChanged", "c"),
    ]


# -------------------------------------------------------------------------------------------------------- real histories


def test_parents_come_first_also_where_clocks_are_wrong(repository: Repository) -> None:
    for number, seconds in enumerate((500, 100, 300, 200)):
        repository.write("a", f"{number}\n")
        repository("add", "-A")
        repository("commit", "-q", "-m", "x", GIT_COMMITTER_DATE=f"{1_700_000_000 + seconds} +0000")
    repository("switch", "-q", "-c", "side", "HEAD~2")
    repository.write("b", "1\n")
    repository("add", "-A")
    repository("commit", "-q", "-m", "x", GIT_COMMITTER_DATE=f"{1_700_000_000 - 900} +0000")
    repository("switch", "-q", "main")
    repository("merge", "-q", "--no-edit", "side", GIT_COMMITTER_DATE="1600000000 +0000")
    seen: set[str] = set()
    for commit in repository.commits():
        assert seen.issuperset(commit.parents)
        seen.add(commit.sha)
    assert len(seen) == 6


def test_odd_names(repository: Repository, assert_as_git_prints: Callable[[], None]) -> None:
    names = [
        b"od\nd\t\"name", b"caf\xe9", "Grüße/日本.txt".encode(), b"-", b"a => b", b"{x => y}/z",
        b" lead and trail ", b"commit " + b"0" * 40, b":100644 100644 a b M", b"back\\slash", b"1\t2\t3", b"'", b"\x01",
    ]  # fmt: skip
    for name in names:
        repository.write(name, "one\ntwo\n")
    repository.commit()
    for name in names:
        repository.write(name, "one\n2\nthree\n")
    repository.commit()
    assert {git_check.raw_name(event.path) for _, event in repository.events()} == set(names)
    assert {(event.lines_added, event.lines_deleted) for _, event in repository.events()[len(names) :]} == {
        (2, 1)
    }


def test_a_renamed_file_stays_itself_and_a_new_file_under_its_old_name_is_another(
    repository: Repository, assert_as_git_prints: Callable[[], None]
) -> None:
    repository.write("a", "1\n2\n3\n4\n5\n")
    repository.commit()
    repository("mv", "a", "b c")
    repository.write("b c", "1\n2\n3\n4\n5\n6\n")
    repository.commit()
    repository.write("a", "something else\n")
    repository.commit()
    repository.write("a", "something else again\n")
    repository.write("b c", "short\n")
    repository.commit()
    events = repository.events()
    assert _kinds(events) == ["FileAdded", "FileRenamed", "FileAdded", "FileChanged", "FileChanged"]
    first, renamed, second, second_changed, first_changed = (file for file, _ in events)
    assert first == renamed == first_changed != second == second_changed
    assert (events[1][1].old_path, events[1][1].path, events[1][1].lines_added) == ("a", "b c", 1)


def test_a_deleted_and_recreated_file_is_another(
    repository: Repository, assert_as_git_prints: Callable[[], None]
) -> None:
    repository.write("a", "1\n")
    repository.commit()
    repository("rm", "-q", "a")
    repository.commit()
    repository.write("a", "2\n")
    repository.commit()
    events = repository.events()
    assert _kinds(events) == ["FileAdded", "FileDeleted", "FileAdded"]
    assert events[0][0] == events[1][0] != events[2][0]


def test_one_file_becomes_two(repository: Repository, assert_as_git_prints: Callable[[], None]) -> None:
    repository.write("a", "1\n2\n3\n4\n5\n")
    repository.commit()
    repository("rm", "-q", "a")
    repository.write("b", "1\n2\n3\n4\n5\n")
    repository.write("c", "1\n2\n3\n4\n5\n")
    repository.commit()
    events = repository.events()
    assert sorted(_kinds(events)) in (["FileAdded", "FileAdded", "FileRenamed"],)
    assert len({file for file, _ in events}) == 2


def test_binary_files_modes_types_and_empty_commits(
    repository: Repository, assert_as_git_prints: Callable[[], None]
) -> None:
    repository.write("picture", b"\0\1\2")
    repository.write("script", "echo\n")
    repository.commit()
    repository.write("picture", b"\0\1\3")
    (repository.path / "script").chmod(0o755)
    repository.commit()
    (repository.path / "script").unlink()
    (repository.path / "script").symlink_to("picture")
    repository.commit()
    repository.commit()
    events = repository.events()
    assert [(event.path, event.is_binary) for _, event in events] == [
        ("picture", True),
        ("script", False),
        ("picture", True),
        ("script", False),
        ("script", False),
    ]
    assert _kinds(events)[2:] == ["FileChanged"] * 3
    assert len(repository.commits()) == 4
    assert repository.commits()[-1].changes == ()


def test_merges_are_commits_without_files(
    repository: Repository, assert_as_git_prints: Callable[[], None]
) -> None:
    repository.write("a", "1\n")
    repository.commit()
    repository("switch", "-q", "-c", "side")
    repository.write("b", "2\n")
    repository.commit()
    repository("switch", "-q", "main")
    repository.write("c", "3\n")
    repository.commit()
    repository("merge", "-q", "--no-edit", "side")
    commits = repository.commits()
    assert len(commits) == 4
    assert (len(commits[-1].parents), commits[-1].changes) == (2, ())
    seen: set[str] = set()
    for commit in commits:
        assert seen.issuperset(commit.parents)
        seen.add(commit.sha)


def test_a_branch_that_changes_a_file_which_another_one_renamed(
    repository: Repository, assert_as_git_prints: Callable[[], None]
) -> None:
    repository.write("a", "1\n2\n3\n4\n5\n6\n7\n")
    repository.commit()
    for branch, name in (("one", "b"), ("two", "b")):
        repository("switch", "-q", "-c", branch, "main")
        repository("mv", "a", name)
        repository.commit()
    repository("switch", "-q", "main")
    repository.write("a", "1\n2\n3\n4\n5\n6\n8\n")
    repository.commit()
    repository("merge", "-q", "--no-edit", "one")
    repository("merge", "-q", "--no-edit", "two")
    files = {file for file, _ in repository.events()}
    assert len(files) == 1
    assert sorted(_kinds(repository.events())) == ["FileAdded", "FileChanged", "FileRenamed", "FileRenamed"]


def test_a_file_that_came_with_a_merge_begins_when_it_is_first_listed(
    repository: Repository, assert_as_git_prints: Callable[[], None]
) -> None:
    repository.write("a", "1\n")
    repository.commit()
    repository("switch", "-q", "-c", "side")
    repository.write("b", "2\n")
    repository.commit()
    repository("switch", "-q", "main")
    repository.write("c", "3\n")
    repository.commit()
    repository("merge", "-q", "--no-commit", "side")
    repository.write("unlisted", "4\n")
    repository.write("unlisted too", "4\n5\n6\n")
    repository.write("renamed later", "7\n8\n9\n")
    repository.commit()
    repository.write("unlisted", "5\n")
    repository("rm", "-q", "unlisted too")
    repository("mv", "renamed later", "renamed")
    repository.commit()
    late = repository.events()[3:]
    assert sorted(_kinds(late)) == ["FileChanged", "FileDeleted", "FileRenamed"]
    assert len({file for file, _ in repository.events()}) == 6


def test_authors_without_a_name_in_other_encodings_and_cases(
    repository: Repository, assert_as_git_prints: Callable[[], None]
) -> None:
    repository.commit(GIT_AUTHOR_NAME="Ann", GIT_AUTHOR_EMAIL="Ann@Example.ORG")
    repository.commit(GIT_AUTHOR_NAME="Änn", GIT_AUTHOR_EMAIL="ann@example.org")
    repository.commit(GIT_AUTHOR_NAME=os.fsdecode(b"\xc4nn"), GIT_AUTHOR_EMAIL="x@y")
    # git itself refuses an empty name, but reads histories that have one.
    tree = repository("write-tree")
    raw = f"tree {tree}\nauthor  <> 100 +0000\ncommitter  <> 100 +0000\n\nnameless\n"
    (repository.path / "raw").write_text(raw)
    nameless = repository("hash-object", "-t", "commit", "-w", "--literally", str(repository.path / "raw"))
    repository("merge", "-q", "--allow-unrelated-histories", "--no-edit", "-s", "ours", nameless)
    commits = {commit.author_name: commit for commit in repository.commits()}
    assert commits[""].author_email == ""
    authors = {aggregate_id for aggregate_id, _, _ in lineage.events_of(repository.commits())}
    assert len(authors) == 3
    for _, event, _ in lineage.events_of(repository.commits()):
        event.model_dump_json()


def test_a_shallow_clone_and_a_bare_one(repository: Repository, tmp_path: Path) -> None:
    for content in ("1\n", "2\n", "3\n"):
        repository.write("a", content)
        repository.commit()
    repository("clone", "-q", "--depth", "2", f"file://{repository.path}", str(tmp_path / "shallow"))
    shallow = log.open_repository(tmp_path / "shallow")
    assert (shallow.is_shallow, shallow.commits, len(list(log.read_commits(shallow)))) == (True, 2, 2)
    repository("clone", "-q", "--bare", str(repository.path), str(tmp_path / "bare"))
    bare = log.open_repository(tmp_path / "bare")
    assert (bare.is_shallow, len(list(log.read_commits(bare)))) == (False, 3)


def test_identities_are_the_same_for_every_clone(repository: Repository, tmp_path: Path) -> None:
    repository.write("a", "1\n")
    repository.commit()
    repository("clone", "-q", str(repository.path), str(tmp_path / "clone"))
    clone = log.read_commits(log.open_repository(tmp_path / "clone"))
    assert list(lineage.events_of(clone)) == list(lineage.events_of(repository.commits()))


def test_a_reader_configuration_does_not_change_what_is_read(
    repository: Repository, assert_as_git_prints: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.write("dir/a", "1\n2\n3\n")
    repository.commit()
    repository("mv", "dir/a", "dir/b")
    repository.commit()
    plain = repository.commits()
    for setting in (
        "log.showRoot=false", "color.ui=always", "diff.renames=false", "diff.relative=true", "log.showSignature=true",
        "diff.external=false", "core.quotePath=false", "log.date=relative", "diff.noprefix=true", "core.pager=false",
        "log.follow=true", "log.decorate=full", "diff.ignoreSubmodules=all", "core.abbrev=4",
    ):  # fmt: skip
        repository("config", *setting.split("="))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    repository_in_subdirectory = log.open_repository(repository.path / "dir")
    assert list(log.read_commits(repository_in_subdirectory)) == plain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "no git repository"),
        (lambda path: Repository(path), "no commits yet"),
    ],
)
def test_what_is_no_history_is_refused_in_words(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "it")
    with pytest.raises(log.RepositoryError, match=message):
        log.open_repository(tmp_path / "it")


def test_a_repository_with_missing_objects_is_an_error_with_gits_words(repository: Repository) -> None:
    for number in range(3):
        repository.write("a", f"{number}\n" * 100)
        repository.commit()
    tree = repository("rev-parse", "HEAD~1^{tree}")
    (repository.path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(log.RepositoryError, match="exit code 128"):
        repository.commits()


def test_an_iterator_that_is_closed_early_ends_git(repository: Repository) -> None:
    for number in range(5):
        repository.write(f"a{number}", "1\n")
        repository.commit()
    commits = log.read_commits(log.open_repository(repository.path))
    assert next(commits).changes[0].path == "a0"
    commits.close()
