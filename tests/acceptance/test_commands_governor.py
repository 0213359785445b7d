"""Pause and resume from another terminal, limits and pools, through the command line."""

from __future__ import annotations

from library_project import Library
from waiting import wait_until


def test_a_replay_is_paused_and_resumed_from_another_terminal(library: Library) -> None:
    paused = library.sequent("migrate", "pause", "--reason", "evening peak").stdout
    assert "Replays are paused since" in paused
    online = library.start("migrate", "online", "--workers", "0", "--rate", "1000", "--max-load", "500")
    try:
        wait_until(lambda: library.json("migrate", "status")["replay"] or online.poll() is not None)
        text = library.sequent("migrate", "status").stdout
        assert "evening peak" in text
        assert "--rate 1000, --max-load 500" in text
        status = library.json("migrate", "status")
        assert status["pause"]["reason"] == "evening peak"
        assert status["next_commands"][0] == "sequent migrate resume"
        assert status["replay"]["groups_done"] == 0
        assert "Replays go on." in library.sequent("migrate", "resume").stdout
        output, errors = online.communicate(timeout=60)
        assert online.returncode == 0, errors
        assert "Online is done" in output
        assert "evening peak" in errors, "it says what it waited for"
    finally:
        if online.poll() is None:
            online.kill()
            online.communicate()
    assert library.json("migrate", "resume")["pause"] is None


def test_what_cannot_be_is_refused_with_what_to_do(library: Library) -> None:
    unknown = library.json("migrate", "online", "--pool", "ray:here", expect=1)["error"]
    assert unknown["type"] == "ConfigurationError"
    assert "--pool dask:" in unknown["remedy"]
    primary = library.sequent("migrate", "online", "--read-from", library.database_url or "", expect=1)
    assert "It is no standby" in primary.stderr
    library.sequent("migrate", "online")
    assert "No replay is running" in library.sequent("migrate", "worker", expect=1).stderr
