"""``sequent init``: the event store's own schema, and its roles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from sequent_py.cli.blocks import Block, Facts, Items, Line, Tone
from sequent_py.cli.invocation import Invocation, command
from sequent_py.roles.setup import RolesReport


@dataclass(frozen=True)
class InitReport:
    """What ``init`` did."""

    event_store_schema: str
    applied: tuple[str, ...]
    restored: tuple[str, ...] = ()
    """Rows of the store that somebody had deleted."""
    roles: RolesReport | None = None
    """None where none were asked for."""


@command
def init(
    invocation: Invocation,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles", help="Create roles of least privilege, and hand store and managed tables over to them."
        ),
    ] = False,
    role_prefix: Annotated[
        str | None,
        typer.Option(
            "--role-prefix",
            metavar="NAME",
            help="What the roles' names begin with; each application its own. Default: sequent.",
        ),
    ] = None,
    reader_events: Annotated[
        bool | None,
        typer.Option(
            "--reader-events/--no-reader-events",
            help="Whether the reader may read events, which may be personal data. Default: no.",
        ),
    ] = None,
) -> None:
    """Create the event store, or bring it up to date.

    Runs the schema migrations that this version of sequent-py brings along, in the schema event_store_schema; your own tables are not
    touched. Running it again does nothing, and two at once take turns. It puts back the rows of the gate and of append_order where somebody has
    deleted them. With --roles it also creates NAME_owner, NAME_migrator,
    NAME_application and NAME_reader (docs/roles.md says who may what); give them to logins by GRANT.

    \b
    Next: sequent migrate plan
    Example: sequent init --roles --role-prefix bank
    """
    if not roles and (role_prefix is not None or reader_events is not None):
        raise typer.BadParameter("--role-prefix and --reader-events go with --roles.")
    with invocation.application() as sequent:
        applied = tuple(sequent.install())
        report = InitReport(
            sequent.config.event_store_schema,
            applied,
            sequent.restore_lost_rows(),
            sequent.set_up_roles(prefix=role_prefix, reader_events=reader_events) if roles else None,
        )
    invocation.report(report, _describe)


def _describe(report: InitReport) -> Iterator[Block]:
    if report.applied:
        yield Line(f"The event store is installed in schema {report.event_store_schema!r}.", Tone.GOOD)
        yield Items("Applied:", report.applied)
    else:
        yield Line(f"The event store in schema {report.event_store_schema!r} is up to date.", Tone.GOOD)
    yield Items("Put back, for somebody had deleted it:", report.restored, Tone.WARNING)
    if report.roles is not None:
        yield from _roles(report.roles)
    yield Items("Next:", ("sequent migrate plan",))


def _roles(report: RolesReport) -> Iterator[Block]:
    is_changed = report.created or report.handed_over or report.granted or report.revoked
    yield Line("The roles are set up." if is_changed else "The roles are as they should be.", Tone.GOOD)
    yield Facts(dict(report.roles))
    yield Items("Taken back:", report.revoked)
    yield Items("Warnings:", report.warnings, Tone.WARNING)
    if report.created:
        names = report.roles
        yield Items(
            "Give them to logins, for example:",
            (
                f'GRANT "{names["migrator"]}" TO deploy',
                f'GRANT "{names["application"]}" TO web',
                f'GRANT "{names["reader"]}" TO reports',
            ),
        )
