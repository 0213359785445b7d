"""Python imports this at its start when the directory is on PYTHONPATH; see ``crash_points``."""

import os

if os.environ.get("CRASH_POINT"):
    import crash_points

    crash_points.install()
