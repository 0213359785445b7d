"""Copies of a process: which process may be copied, and what its copy has. Each in a process of its own, for this one has threads and open files. No server."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux only")

COMMON = """
import fcntl, os, signal, socket, subprocess, sys, tempfile, threading, time
from sequent_py.replay.forking import ForkedProcess, may_fork

def echo():
    for line in sys.stdin:
        print(line.strip().upper(), flush=True)
    return 7
"""


def said_by(script: str, *, status: int = 0) -> list[str]:
    """Return the lines that a script prints."""
    done = subprocess.run(
        [sys.executable, "-c", COMMON + dedent(script)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("has", "may"),
    [
        ("pass", True),
        ("kept = open(os.devnull)", True),
        ("kept = tempfile.TemporaryFile(); fcntl.flock(kept, fcntl.LOCK_SH)", True),
        ("kept = open(tempfile.mktemp(), 'a'); kept.write('a log'); kept.flush()", True),
        ("kept = tempfile.TemporaryFile('w+'); kept.write('data'); kept.flush()", False),
        ("kept = tempfile.TemporaryFile()", False),
        ("kept = open(__import__('os').__file__)", False),
        ("kept = socket.socket()", False),
        ("kept = os.pipe()", False),
        ("kept = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)", False),
        ("threading.Thread(target=time.sleep, args=(5,), daemon=True).start()", False),
        ("os.close(0)", False),
    ],
    ids=[
        "nothing",
        "a device",
        "a lock file",
        "a log",
        "a file that it writes and reads",
        "a file that it will write and read",
        "a file that it reads",
        "a socket",
        "a pipe",
        "a program that it talks to",
        "a thread",
        "no standard input",
    ],
)
def test_a_process_is_copied_only_if_it_has_nothing_that_the_copy_must_not_share(has: str, may: bool) -> None:
    assert said_by(f"{has}\nprint(may_fork(), flush=True)\nos._exit(0)") == [str(may)]


def test_the_sockets_that_the_copy_gives_up_are_no_obstacle() -> None:
    assert said_by("kept = socket.socket()\nprint(may_fork([kept.fileno()]))") == ["True"]


def test_a_copy_talks_by_its_pipes_and_says_how_it_ended() -> None:
    script = """
        copy = ForkedProcess(echo, tempfile.TemporaryFile(), ())
        copy.stdin.write("hello\\n"); copy.stdin.flush()
        print(copy.stdout.readline(), copy.poll())
        copy.stdin.close()
        print(copy.wait(30), copy.poll(), copy.returncode)
    """
    assert said_by(script) == ["HELLO", "None", "7", "7", "7"]


def test_a_copy_that_fails_has_said_why() -> None:
    script = """
        def fail(): raise ValueError("so")
        def leave(): sys.exit(5)
        def die(): os.kill(os.getpid(), signal.SIGKILL)
        for main in (fail, leave, die):
            stderr = tempfile.TemporaryFile()
            status = ForkedProcess(main, stderr, ()).wait(30)
            stderr.seek(0)
            print(status, b"ValueError: so" in stderr.read())
    """
    assert said_by(script) == ["1", "True", "5", "False", "-9", "False"]


def test_a_copy_never_goes_on_where_it_was_copied() -> None:
    script = """
        import atexit
        atexit.register(print, "end", flush=True)
        print("waiting in a buffer")
        try:
            ForkedProcess(lambda: 0, tempfile.TemporaryFile(), ()).wait(30)
        finally:
            print("once")
    """
    assert said_by(script) == ["waiting", "in", "a", "buffer", "once", "end"]


def test_a_copy_does_not_keep_a_connection_alive_that_is_not_its_own() -> None:
    script = """
        ours, other_end = socket.socketpair()
        other_end.settimeout(30)
        copy = ForkedProcess(echo, tempfile.TemporaryFile(), (ours.fileno(),))
        ours.close()
        print(other_end.recv(1), copy.poll())
        copy.kill()
        print(copy.wait(30))
    """
    # The copy has `other_end` as well, but what ends a connection is that nobody has this end.
    assert said_by(script) == ["b''", "None", "-9"]


def test_the_life_line_of_one_copy_is_not_held_by_another() -> None:
    script = """
        first = ForkedProcess(echo, tempfile.TemporaryFile(), ())
        second = ForkedProcess(echo, tempfile.TemporaryFile(), first.open_files)
        first.stdin.close()
        print(first.wait(30), second.poll())
        second.kill()
    """
    assert said_by(script) == ["7", "None"]
