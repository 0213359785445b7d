"""What commands say of aggregates that are set aside, and the option that accepts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated
from uuid import UUID

import typer

from sequent_py.cli.blocks import Block, Grid, Items, Tone
from sequent_py.replay.quarantine import QuarantinedAggregate

AcceptQuarantined = Annotated[
    list[UUID] | None,
    typer.Option(
        "--accept-quarantined",
        metavar="ID",
        help="An aggregate that was set aside and may be left behind. Repeat for each.",
        show_default=False,
    ),
]


def quarantined(items: Sequence[QuarantinedAggregate]) -> Iterator[Block]:
    """List the aggregates that replays have set aside."""
    if items:
        yield Grid(
            "Set aside (mend the handlers, then: sequent migrate online; once accepted: sequent aggregates refold ID)",
            ("aggregate", "event", "projector", "error"),
            [
                (
                    str(item.aggregate_id),
                    f"{item.event_type} {item.sequence_number}" if item.event_type else "-",
                    item.projector or "-",
                    item.error + (" (accepted)" if item.accepted_at else ""),
                )
                for item in items
            ],
        )


def left_behind(items: Sequence[QuarantinedAggregate]) -> Block:
    """Say what the promoted tables hold of the aggregates that were accepted as left behind, and what becomes of them."""
    return Items(
        "Left behind, as was accepted. Their events are recorded, and not projected into the new tables until they are folded anew:",
        [
            f"{item.aggregate_id}: {'no rows' if item.snapshot_since is None else 'rows as before the window that failed'};"
            f" sequent aggregates refold {item.aggregate_id}"
            for item in items
        ],
        Tone.WARNING,
    )
