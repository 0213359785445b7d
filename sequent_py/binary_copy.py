"""What begins and ends a binary COPY, in either direction. Pure.

Format: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4 (a header, then per row a field count and, per field, a length and that many
bytes, and a trailer; all numbers big-endian).
"""

from __future__ import annotations

import struct

SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
HEADER = struct.Struct(">11sii")
"""The signature, flags, and the length of an extension that follows."""
BEGINNING = HEADER.pack(SIGNATURE, 0, 0)
"""A header without flags and extension."""
TRAILER = b"\xff\xff"
