"""The page ``docs/state-diagram.md``, written from the transition table: ``python -m sequent_py.view_schema.state_diagram``.

Not part of ``states``, and imported by nothing, so that it can be run as a module.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from sequent_py.view_schema.states import AVAILABLE_COMMANDS, TRANSITIONS, MigrationState, Outcome, Trigger

_S = MigrationState

DESCRIPTIONS: Mapping[MigrationState, str] = {
    _S.ONLINE_RUNNING: "Shadow tables are being filled. `online` takes it out of here when all groups are done; after a kill, `online` "
    "again. Live tables, readers and writers are not touched.",
    _S.ONLINE_DONE: "Shadow tables are complete up to the last pass. It stays so until an operator cuts over or aborts; `online` again "
    "shortens what is left.",
    _S.OFFLINE_RUNNING: "The gate is closed and the last window is being replayed, checked and swapped. Ends in `live`, or in "
    "`online_done` by itself, also when the process is killed.",
    _S.GOLIVE_RUNNING: "As `offline_running`, with writers stalled only for the swap.",
    _S.LIVE: "The new tables serve. The old ones are kept as retired tables.",
    _S.ABORTED: "Given up; everything it built is dropped.",
    _S.ROLLED_BACK: "The previous version's tables serve again.",
}


def mermaid() -> str:
    """Return the transition table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for edge in TRANSITIONS:
        begin = edge.from_state or "[*]"
        lines.append(f"    {begin} --> {edge.to_state}: {edge.trigger}")
    return "\n".join(lines)


def document() -> str:
    """Return ``docs/state-diagram.md``."""
    states = "\n".join(f"| `{state}` | {DESCRIPTIONS[state]} |" for state in MigrationState)
    edges = "\n".join(
        f"| {f'`{edge.from_state}`' if edge.from_state else '(none)'} | {_trigger_text(edge.trigger)} | `{edge.to_state}` | {edge.note} |"
        for edge in TRANSITIONS
    )
    return f"""\
# States of a view migration

Generated from the transition table by `python -m sequent_py.view_schema.state_diagram > docs/state-diagram.md`; a test keeps it current.

```mermaid
{mermaid()}
```

One view migration at a time per view schema. A newer target supersedes an unfinished one only by `abort`.
`interrupted` needs nobody to report it: a cut-over whose process is gone counts as `online_done`.

| state | meaning, and what takes a migration out of it |
| --- | --- |
{states}

| from | command or outcome | to | |
| --- | --- | --- | --- |
{edges}
"""


def _trigger_text(trigger: Trigger) -> str:
    if isinstance(trigger, Outcome):
        return f"({trigger})"
    return f"`{trigger}`" if trigger in AVAILABLE_COMMANDS else f"`{trigger}` (planned)"


if __name__ == "__main__":
    sys.stdout.write(document())
