"""The C module ``sequent_py._native``, where it was built and is wanted.

It is built with the package if a C compiler is at hand. Without it, or with SEQUENT_PURE_PYTHON set, everything is done in Python, with the
same results.
"""

from __future__ import annotations

import os
from typing import Any

INTERFACE = 10
"""Of the C module that this source goes with. One that was built from an older source, in a checkout, counts as none."""

try:
    from sequent_py import _native
except ImportError:  # no compiler when it was installed
    _native = None  # type: ignore[assignment]

if os.environ.get("SEQUENT_PURE_PYTHON") or getattr(_native, "INTERFACE", None) != INTERFACE:
    _native = None  # type: ignore[assignment]

IS_NATIVE = _native is not None
"""Whether the C module is there and wanted."""

native: Any = _native
"""The C module; None where it is not."""
