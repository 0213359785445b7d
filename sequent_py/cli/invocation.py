"""What every command shares: the options that say where the project is and how to answer, and the application they lead to.

A command is written as a function whose first parameter is an :class:`Invocation`; :func:`command` makes of it what typer registers::

    @app.command("status")
    @command
    def status(invocation: Invocation) -> None:
        \"\"\"Help for people.\"\"\"
        with invocation.application() as sequent:
            invocation.report(sequent.view_schema.status(), descriptions.status)

So ``--json``, ``--debug`` and ``--project`` are the same everywhere, before or after the command's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from sequent_py.app import Sequent
from sequent_py.cli.blocks import Block
from sequent_py.cli.render import Output
from sequent_py.config import Config
from sequent_py.progress import Progress

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Where to look for pyproject.toml, upwards. Default: the current directory.",
    ),
]
P = ParamSpec("P")


@dataclass
class Invocation:
    """One run of one command."""

    output: Output
    project: Path | None = None
    resume: str = field(default="")
    """What to tell somebody who interrupts the command now: what is kept, and which command goes on."""

    @contextmanager
    def application(self) -> Iterator[Sequent]:
        """Open the project's application for the block.

        Raises
        ------
        ConfigurationError
            A setting is unknown or malformed.
        """
        # Read before anything can fail with the connection string in its message.
        config = Config.load(self.project)
        for url in (config.database_url, config.standby_url):
            if url is not None:
                self.output.keep_secret(url.get_secret_value())
        with Sequent.load(self.project) as sequent:
            if sequent.embedded_directory is not None:
                self.output.note(
                    f"No database_url is set: using the embedded PostgreSQL in {sequent.embedded_directory}"
                )
            yield sequent

    def report(self, value: Any, describe: Callable[[Any], Iterable[Block]]) -> None:
        """Print the command's result."""
        self.output.report(value, describe)

    def progress(self) -> AbstractContextManager[Progress]:
        """Show long work while the block lasts."""
        return self.output.progress()


def command(handler: Callable[Concatenate[Invocation, P], None]) -> Callable[..., None]:
    """Give a handler the options that every command has, and pass it the invocation that they describe."""

    def run(context: typer.Context, json: bool, debug: bool, project: Path | None, **arguments: Any) -> None:
        invocation: Invocation = context.find_root().obj
        # Options before the command's name are there already; main() has looked for --json and --debug anywhere.
        invocation.project = project or invocation.project
        handler(invocation, **arguments)  # type: ignore[call-arg]

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(handler, eval_str=True).parameters.values())[1:]
    parameters = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *(parameter.replace(kind=keyword) for parameter in own),
        inspect.Parameter("json", keyword, default=False, annotation=JsonOption),
        inspect.Parameter("debug", keyword, default=False, annotation=DebugOption),
        inspect.Parameter("project", keyword, default=None, annotation=ProjectOption),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__, run.__module__ = handler.__name__, handler.__doc__, handler.__module__
    return run
