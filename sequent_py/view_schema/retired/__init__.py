"""Retired tables: kept up with the log, brought back to serve, or dropped."""
