"""``sequent``, and ``python -m sequent_py``: the process of a command, from before anything else of it is imported.

Most of what a short command takes is imports, and they are undisturbed here: the collector looks for garbage in them in vain, which is a tenth of their time, and
Ctrl-C ends a process that has nothing to give back or to report yet at once and in silence, as it ends any other program.
"""

from __future__ import annotations

import gc
import signal


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # A shell's background jobs ignore the signal, and go on doing so.
    answers_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answers_ctrl_c:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    from sequent_py import cli
    from sequent_py.collector import freeze_for_good

    # What has been imported stays; nobody need ever look at it again.
    freeze_for_good()
    gc.enable()
    if answers_ctrl_c:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
