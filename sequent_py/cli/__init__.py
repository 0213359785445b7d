"""The command line: ``sequent …``.

A command parses, calls one library function and renders its value::

    invocation       the options that all commands share, and the application
    init, doctor,    one module per group of commands
    migrate, …
    descriptions     what a report says to people, as blocks         (pure)
    documents        what it says to programs, as JSON               (pure)
    blocks, masking  the words of both                               (pure)
    render           how that looks; the only user of rich
    failures         which exit code and which words an exception gets

Standard output holds the report and nothing else: text, or with ``--json`` exactly one JSON document, for errors too. Everything else goes
to standard error. Exit codes:

===  =====================================================================================================================
0    done
1    failed, or found what is wrong (``doctor``, ``verify``)
2    usage
3    not current or pending: ``migrate check``, ``schema check``, ``doctor``; an ``aggregates erase`` that is not done everywhere
130  interrupted
===  =====================================================================================================================
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Annotated

import typer

from sequent_py.cli import accept_code, aggregates, demo, doctor, init, maintenance, migrate, rollback, schema
from sequent_py.cli.failures import Interrupted, failure_of
from sequent_py.cli.invocation import DebugOption, Invocation, JsonOption, ProjectOption
from sequent_py.cli.render import Output

root = typer.Typer(
    name="sequent",
    help="Rebuild the projections of an event-sourced application on PostgreSQL while it runs.",
    epilog="A first look: sequent demo. In a project of your own: sequent init, then sequent migrate plan, online, golive.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"sequent {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return version("sequent-py")
    except PackageNotFoundError:
        return "from a checkout that is not installed"


@root.callback()
def _options(
    context: typer.Context,
    json: JsonOption = False,
    debug: DebugOption = False,
    project: ProjectOption = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj.project = project


root.command("init")(init.init)
root.command("doctor")(doctor.doctor)
root.command("demo", short_help="Run a whole migration on scratch data.")(demo.demo)
migrate.app.command("rollback")(rollback.rollback)
migrate.app.command("prune")(rollback.prune)
migrate.app.command("accept-code")(accept_code.accept_code)
root.add_typer(migrate.app, name="migrate")
root.add_typer(aggregates.app, name="aggregates")
root.add_typer(maintenance.app, name="maintenance")
root.add_typer(schema.app, name="schema")


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _open_standard_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What is asked to end gives its locks and its share in the embedded server back first. nohup's choice is respected.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.exit(run(sys.argv[1:]))


def _open_standard_streams() -> None:
    """Give those that were closed for us (``>&-``) to nobody: the next connection would get their numbers, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; whatever it raises is printed and turned into one."""
    arguments = list(arguments) or ["--help"]
    # Looked for here, because an error of parsing must already be printed the way that was asked for.
    is_debug = "--debug" in arguments
    output = Output(is_json="--json" in arguments, is_debug=is_debug)
    invocation = Invocation(output)
    try:
        command = typer.main.get_command(root)
        with command.make_context("sequent", arguments, obj=invocation) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except (Exception, KeyboardInterrupt) as error:
        failure = failure_of(error, resume=invocation.resume)
        text = "".join(traceback.format_exception(error)) if is_debug else ""
        output.failure(failure.kind, failure.message, failure.remedy, traceback=text)
        return failure.exit_code
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)
