"""How blocks, errors and progress look: coloured on a terminal, plain text elsewhere, JSON where asked. The only module that imports rich.

Standard output holds the report and nothing else; everything on the way to it goes to standard error. Nothing is printed past
:func:`~sequent_py.cli.masking.masked`, and nothing that is printed can break the work: a reader who has gone away is forgotten.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from sequent_py.cli.blocks import Block, Facts, Grid, Items, Line, Tone, count, duration, rate
from sequent_py.cli.documents import document, error_document
from sequent_py.cli.masking import masked
from sequent_py.progress import Progress, ReplayProgress

_STYLES = {Tone.PLAIN: "", Tone.GOOD: "green", Tone.WARNING: "yellow", Tone.BAD: "bold red"}
_OFF_TERMINAL_COLUMNS = 10_000
"""Lines are never folded where nobody set a width."""
_PLAIN_LINE_SECONDS = 3.0
"""How often a log gets a line of progress."""


class Output:
    """Where one invocation prints."""

    def __init__(self, *, is_json: bool, is_debug: bool) -> None:
        self.is_json = is_json
        self.is_debug = is_debug
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)
        self._connection_strings: tuple[str, ...] = tuple(
            filter(None, [os.environ.get("SEQUENT_DATABASE_URL")])
        )

    def keep_secret(self, connection_string: str) -> None:
        """Never print this connection string's password."""
        self._connection_strings += (connection_string,)

    def report(self, value: Any, describe: Callable[[Any], Iterable[Block]]) -> None:
        """Print the command's result: as a document, or as the blocks that ``describe`` makes of it."""
        with _reader_may_leave(sys.stdout):
            if self.is_json:
                sys.stdout.write(document(value) + "\n")
            else:
                self._blocks(
                    block for block in describe(value) if not (isinstance(block, Items) and not block.items)
                )
            sys.stdout.flush()

    def _blocks(self, blocks: Iterable[Block]) -> None:
        """Print blocks, with an empty line around tables and lists."""
        before: Block | None = None
        for block in blocks:
            if before is not None and (isinstance(block, Grid | Items) or isinstance(before, Grid | Items)):
                self._print(self._out, Text())
            self._print(self._out, _renderable(block))
            before = block

    def note(self, text: str) -> None:
        """Print a remark beside the report."""
        with _reader_may_leave(sys.stderr):
            self._print(self._err, Text(self._masked(text), style="dim"))

    def failure(self, kind: str, message: str, remedy: str, *, traceback: str = "") -> None:
        """Print what went wrong and what to do; with ``--json`` on standard output as well, where the report would be."""
        message, remedy = self._masked(message), self._masked(remedy)
        with _reader_may_leave(sys.stderr):
            if traceback:
                self._print(self._err, Text(self._masked(traceback)))
            self._print(self._err, Text.assemble(("error: ", _STYLES[Tone.BAD]), message))
            if remedy:
                self._print(self._err, Text(f"→ {remedy}"))
        if self.is_json:
            with _reader_may_leave(sys.stdout):
                sys.stdout.write(error_document(kind, message, remedy) + "\n")
                sys.stdout.flush()

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show long work while the block lasts: a bar on a terminal, lines a few seconds apart elsewhere."""
        if self._err.is_terminal and not self._err.is_dumb_terminal and not self.is_json:
            with _bars(self._err) as bars:
                listener = _BarProgress(bars, self._masked)
                yield listener
                listener.finish()
        else:
            plain = _PlainProgress(self._line, self._masked)
            yield plain
            plain.finish()

    def _line(self, text: str) -> None:
        with _reader_may_leave(sys.stderr):
            self._print(self._err, Text(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}"))

    @staticmethod
    def _print(console: Console, renderable: RenderableType) -> None:
        if isinstance(renderable, Text):
            console.print(renderable, soft_wrap=True)
        elif console.is_terminal:
            console.print(renderable)
        else:
            # rich fills every line of a table with blanks up to its width.
            with console.capture() as capture:
                console.print(renderable)
            for line in capture.get().splitlines():
                console.out(line.rstrip(), highlight=False)

    def _masked(self, text: str) -> str:
        return masked(text, self._connection_strings)


def _console(stream: TextIO) -> Console:
    """Return a console that prints anything, in any encoding, and folds nothing off a terminal."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(
            file=stream, highlight=False, markup=False, emoji=False, width=_OFF_TERMINAL_COLUMNS
        )
    return console


@contextmanager
def _reader_may_leave(stream: TextIO) -> Iterator[None]:
    """Forget a stream whose reader has gone (``| head``): the work and its exit code do not depend on being watched."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes the stream once more when it ends, and would complain then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


# ------------------------------------------------------------------------------------------------------------------- blocks


def _renderable(block: Block) -> RenderableType:
    match block:
        case Line(text, tone):
            return Text(text, style=_STYLES[tone])
        case Facts(values):
            return _facts(values.items())
        case Grid():
            return _grid(block)
        case Items(title, items, tone):
            lines = [title, *(f"  - {item}" for item in items)]
            return Text("\n".join(lines), style=_STYLES[tone])


def _facts(values: Iterable[tuple[str, str | None]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in values:
        if value is not None:
            table.add_row(Text(label), Text(value))
    return table


def _grid(grid: Grid) -> Table:
    table = Table(
        title=Text(grid.title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for index, column in enumerate(grid.columns):
        justify = "right" if index in grid.right_aligned else "left"
        table.add_column(Text(column), justify="right" if justify == "right" else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


# ----------------------------------------------------------------------------------------------------------------- progress


def describe_replay(progress: ReplayProgress) -> str:
    """Return one line that says how far a replay is."""
    about = "" if progress.is_exact else "about "
    parts = [
        f"{count(progress.events_done)} of {about}{count(progress.events_total, 'event')}",
        f"{count(progress.groups_done)} of {count(progress.groups_total, 'group')}",
    ]
    if progress.events_per_second > 0:
        parts.append(rate(progress.events_per_second))
    if progress.eta_seconds is not None and progress.events_done < progress.events_total:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if progress.workers:
        parts.append(count(progress.workers, "worker"))
    return ", ".join(parts)


def _bar_detail(progress: ReplayProgress) -> str:
    """Return what stands beside a bar: the bar says the share, and a terminal of 80 columns has room for little more."""
    groups = f"{count(progress.groups_done)}/{count(progress.groups_total, 'group')}"
    left = "" if progress.eta_seconds is None else f"{duration(progress.eta_seconds)} left, "
    return f"{left}{rate(progress.events_per_second)}, {groups}"


class _PlainProgress:
    """Timestamped lines: each step and note at once, the replay every few seconds and when it is through."""

    def __init__(self, print_line: Callable[[str], None], mask: Callable[[str], str]) -> None:
        self._print_line = print_line
        self._mask = mask
        self._printed_at = 0.0
        self._printed: ReplayProgress | None = None
        self._latest: ReplayProgress | None = None

    def step(self, name: str) -> None:
        self.finish()
        self._print_line(self._mask(name))

    def note(self, text: str) -> None:
        self._print_line(self._mask(text))

    def replay(self, progress: ReplayProgress) -> None:
        if progress.events_total == 0:
            return
        self._latest = progress
        if time.monotonic() - self._printed_at >= _PLAIN_LINE_SECONDS:
            self._print_latest()

    def finish(self) -> None:
        """Print the last state of a replay, which mostly falls between two lines."""
        latest, printed = self._latest, self._printed
        if latest is not None and (printed is None or latest.events_done != printed.events_done):
            self._print_latest()
        self._latest = self._printed = None

    def _print_latest(self) -> None:
        if self._latest is not None:
            self._print_line(describe_replay(self._latest))
            self._printed, self._printed_at = self._latest, time.monotonic()


def _bars(console: Console) -> Bars:
    return Bars(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[detail]}", markup=False, style="dim"),
        console=console,
    )


class _BarProgress:
    """One bar per step; done steps stay above with the time that they took."""

    def __init__(self, bars: Bars, mask: Callable[[str], str]) -> None:
        self._bars = bars
        self._mask = mask
        self._task: TaskID | None = None
        self._began_at = 0.0
        self._replayed = ""

    def step(self, name: str) -> None:
        self.finish()
        self._began_at = time.monotonic()
        self._task = self._bars.add_task(self._mask(name), total=None, detail="")

    def note(self, text: str) -> None:
        self._bars.console.print(Text(self._mask(text), style="dim"))

    def replay(self, progress: ReplayProgress) -> None:
        if self._task is None:
            self.step("Replaying")
        if self._task is not None:
            self._replayed = f"{count(progress.events_done, 'event')}, {rate(progress.events_per_second)}"
            self._bars.update(
                self._task,
                completed=progress.events_done,
                total=max(progress.events_total, 1),
                detail=_bar_detail(progress),
            )

    def finish(self) -> None:
        """Close the step under way."""
        if self._task is not None:
            seconds = duration(time.monotonic() - self._began_at)
            detail = f"{seconds}, {self._replayed}" if self._replayed else seconds
            self._bars.update(self._task, total=1, completed=1, detail=detail)
        self._task, self._replayed = None, ""
