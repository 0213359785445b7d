"""The options that ``offline``, ``golive`` and ``rollback`` share, and ``online`` in part."""

from __future__ import annotations

from typing import Annotated

import typer

Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=256,
        metavar="N",
        help="Replay processes; 0 replays in this one. Default: the setting workers.",
    ),
]
MaxDelta = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="EVENTS", help="Cut over when at most this many events are pending. Default: 200."
    ),
]
MaxLag = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Or when replaying what is pending is expected to take at most this long. Default: 0.05.",
    ),
]
LONGEST_SECONDS = 86_400.0
"""Of what goes to the server as a time limit, which has a largest one."""

LockTimeout = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=LONGEST_SECONDS,
        metavar="SECONDS",
        help="How long a try may wait for a lock at most; readers, and with the gate open writers, wait behind it. Default: the setting lock_timeout_seconds, or 0.2 (offline: 1).",
    ),
]
LockBudget = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="How long to go on trying to get the locks of the swap. Default: the setting lock_budget_seconds.",
    ),
]
VerifySample = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="How many aggregates to compare with a fresh fold of their events."
    ),
]
