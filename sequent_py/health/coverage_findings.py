"""What a reading of the log says, as findings. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sequent_py.health.coverage import Coverage, TypeCoverage
from sequent_py.health.findings import Finding, notice, ok, problem

_SHOWN_TYPES = 8


def describe_unknown(unknown: Collection[TypeCoverage]) -> Finding | None:
    """Return the finding about types that nobody knows; None when there are none."""
    if not unknown:
        return None
    shown = list(unknown)[:_SHOWN_TYPES]
    listed = "; ".join(map(_described, shown))
    if len(unknown) > len(shown):
        listed += f"; and {len(unknown) - len(shown)} more"
    return problem(
        "event types",
        f"The log has events of types that no event class of this code knows; a replay would pass over them: {listed}.",
        f'Name the renamed class\'s old name: class …(Event, aliases=("{shown[0].name}",)); or import the module that defines it where the Migrations'
        f' class is; or say that it may be passed over: ignored_event_types = ("{shown[0].name}",) in the Migrations class.',
    )


def describe_undecodable(types: Collection[TypeCoverage]) -> Finding | None:
    """Return the finding about payloads that do not decode; None when there are none."""
    if not types:
        return None
    counted = ", ".join(f"{it.undecodable} of {it.name}" for it in list(types)[:_SHOWN_TYPES])
    examples = "; ".join(str(example) for it in list(types)[:_SHOWN_TYPES] for example in it.examples[:2])
    return problem(
        "payloads",
        f"Payloads do not validate as their event classes: {counted}. {examples}",
        "Add an @upcaster to the event class; sequent doctor --coverage reads the whole log.",
    )


def describe(coverage: Coverage) -> Iterator[Finding]:
    """Return the findings of a reading."""
    unknown, undecodable = describe_unknown(coverage.unknown), describe_undecodable(coverage.undecodable())
    if unknown is not None:
        yield unknown
    if undecodable is not None:
        yield undecodable
    if coverage.later_than_writer:
        yield problem(
            "transaction ids",
            f"{coverage.later_than_writer} events carry a transaction id later than the transaction that wrote them: they came from another cluster.",
            "Stop what brings them, then run: sequent doctor --repair",
        )
    ambiguous = [it.ambiguity for it in coverage.types if it.ambiguity and it.events]
    if ambiguous:
        yield notice(
            "event types",
            f"Not looked at: {' '.join(ambiguous)}",
            "Give one of the classes a name of its own: class …(Event, type_name=…).",
        )
    ignored = [it for it in coverage.types if it.is_ignored and it.events]
    if ignored:
        yield notice(
            "event types",
            f"Passed over, as the Migrations class says: {', '.join(map(_described, ignored))}.",
        )
    if unknown is None and undecodable is None:
        how = "All" if coverage.is_complete else "A sample of"
        yield ok("coverage", f"{how} {coverage.events} events: every type is known, every payload decodes.")


def _described(item: TypeCoverage) -> str:
    if item.events is None:
        return f"{item.name} (uncounted)"
    count = f"{item.events} event{'s'[: item.events != 1]}"
    return f"{item.name} ({count}; first {item.first}; last {item.last})"
