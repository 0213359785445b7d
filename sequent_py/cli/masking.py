"""Keep passwords out of everything that is printed.

Drivers quote what they were given: libpq repeats a malformed connection string whole, and of ``user:p@ss@host`` it reports ``ss@host`` as
an unknown host. So a connection string that we know is taken apart here, and every piece of its password is replaced wherever it
shows up; connection strings that we do not know are recognised by their form. Pure.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"
SHORTEST_PIECE = 3
"""Shorter pieces of a password would be found in every second word."""

_URL_PASSWORD = re.compile(r"(?P<head>[A-Za-z][\w+.-]*://[^\s/?#:@]*:)[^\s]*(?=@)")
_KEYWORD_PASSWORD = re.compile(
    r"(?P<head>\b(?:password|passfile|sslpassword)\s*=\s*)(?:'(?:\\.|[^'\\])*'|[^\s&'\"]+)", re.IGNORECASE
)


def masked(text: str, connection_strings: tuple[str, ...] = ()) -> str:
    """Return ``text`` without the passwords of ``connection_strings``, or of any connection string in it."""
    for connection_string in connection_strings:
        for piece in _secrets(connection_string):
            text = text.replace(piece, MASK)
    text = _URL_PASSWORD.sub(rf"\g<head>{MASK}", text)
    return _KEYWORD_PASSWORD.sub(rf"\g<head>{MASK}", text)


def _secrets(connection_string: str) -> list[str]:
    """Return what must not be shown, the longest first: the password as written, as decoded, and its parts between signs."""
    found = set()
    for match in _URL_PASSWORD.finditer(connection_string):
        found.add(match.group().removeprefix(match.group("head")))
    for match in _KEYWORD_PASSWORD.finditer(connection_string):
        found.add(match.group().removeprefix(match.group("head")).strip("'"))
    whole = found | {unquote(secret) for secret in found}
    parts = {part for secret in whole for part in re.split(r"[@:/?#\s]", secret)}
    return sorted((piece for piece in whole | parts if len(piece) >= SHORTEST_PIECE), key=len, reverse=True)
