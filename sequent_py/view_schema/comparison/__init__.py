"""Comparison: of tables with the log, with their files, and of one version with the next; and what is let pass all the same."""
