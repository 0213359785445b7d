"""Schema migrations: versioned files for ordinary tables, after the model of Ruby's Sequel."""

from __future__ import annotations

from sequent_py.schema_migrations.ddl import SQLType

__all__ = ["SQLType"]
