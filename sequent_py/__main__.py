"""``python -m sequent_py`` is ``sequent``."""

from __future__ import annotations

from sequent_py.cli import main

if __name__ == "__main__":
    main()
