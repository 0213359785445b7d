"""Placeholder while the modules below it are being written."""


class Sequent:
    """Replaced shortly."""
