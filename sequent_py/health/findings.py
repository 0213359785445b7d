"""What a check says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a finding asks for."""

    OK = "ok"
    """Nothing."""
    NOTICE = "notice"
    """Nothing, but it is worth knowing."""
    PENDING = "pending"
    """Something has not been run yet."""
    PROBLEM = "problem"
    """Something is wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    message: str
    remedy: str = ""


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(subject, Verdict.OK, message)


def notice(subject: str, message: str, remedy: str = "") -> Finding:
    """All is well, and this is worth knowing."""
    return Finding(subject, Verdict.NOTICE, message, remedy)


def problem(subject: str, message: str, remedy: str) -> Finding:
    """Something is wrong, and this is what to do about it."""
    return Finding(subject, Verdict.PROBLEM, message, remedy)


def worst(findings: tuple[Finding, ...]) -> Verdict:
    """Return the worst of the findings' verdicts; a notice is as good as ok."""
    verdicts = {finding.verdict for finding in findings}
    return next((it for it in (Verdict.PROBLEM, Verdict.PENDING) if it in verdicts), Verdict.OK)
