"""A worker: a process that replays groups until none is left.

Run as ``python -m sequent_py.replay.worker``: a :class:`ReplayTask` arrives as one line of JSON on standard input, perhaps behind an :class:`EarlyStart`. The input then stays open as
the life line: when the coordinator dies in whatever way, the pipe closes and the worker exits at once. Each finished group and a final
error are reported as a line of JSON on standard output; the ledger, not this output, is the authority.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict

import psycopg

from sequent_py.errors import SequentError
from sequent_py.replay.group_replayer import GroupDone, GroupReplayer, connect_worker, require_code_of_run
from sequent_py.replay.loading import event_types_of, load_migrations
from sequent_py.replay.task import EarlyStart, ReplayTask

LOST_LIFE_LINE = 3
"""Exit status of a worker whose coordinator died."""


def _exit_with_coordinator() -> None:
    """Block until standard input closes, then leave without a word: nobody is there to read one."""
    # Not through sys.stdin: an interpreter that ends while another thread holds the lock of that object aborts (SIGABRT).
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(LOST_LIFE_LINE)


def _say(message: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _report_and_collect(done: GroupDone) -> None:
    _say({"done": asdict(done)})
    if done.events_handled:
        gc.collect()


def main() -> int:
    """Serve one :class:`ReplayTask`; exit status 0 when no group is left."""
    line = sys.stdin.buffer.readline().decode()
    early = EarlyStart.from_json(line) if line else None
    if early is not None:
        early.run()
        line = sys.stdin.buffer.readline().decode()
    if not line:
        # Started early, and not needed in the end.
        return 0 if early is not None else LOST_LIFE_LINE
    task = ReplayTask.from_json(line)
    threading.Thread(target=_exit_with_coordinator, daemon=True, name="life line").start()
    others = [entry for entry in task.sys_path if entry not in sys.path]
    if task.is_elsewhere:
        # Behind what is installed here, and only where it exists: another host's paths mean nothing, another Python's do harm.
        sys.path += [entry for entry in others if os.path.exists(entry)]
    else:
        sys.path[:0] = others
    try:
        migrations = load_migrations(task.migrations_class)
        replayer = GroupReplayer(task, migrations, event_types_of(migrations))
        reader, writer = connect_worker(task.database_url, task.event_store_schema, task.standby_url)
        require_code_of_run(writer, task, migrations)
        # The cyclic collector doubles the cost of a replay: it walks the group's rows again and again. Between groups it costs nothing.
        gc.freeze()
        gc.disable()
        with reader, writer:
            groups = replayer.run(reader, writer, _report_and_collect)
        _say({"finished": groups})
    except SequentError as error:
        _say({"error": {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}})
        return 1
    except psycopg.Error as error:
        _say({"error": {"type": type(error).__name__, "message": str(error).strip(), "remedy": ""}})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
