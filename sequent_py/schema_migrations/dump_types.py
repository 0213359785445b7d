"""How a column's type is written in a dump. Pure: from PostgreSQL's own name of the type to a SQLAlchemy type.

Exact types are right by construction: what SQLAlchemy does not say in exactly PostgreSQL's words is given as those words. Portable types are the
nearest that other databases have, and text where there is none.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from sequent_py.schema_migrations.ddl import SQLType

Types = Literal["portable", "exact"]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_PARTS = re.compile(r"(?P<name>[a-z\" ]+?)(?:\((?P<sizes>[0-9, -]+)\))?(?P<suffix> with(?:out)? time zone)?")


def column_type(sql: str, types: Types) -> sa.types.TypeEngine[Any]:
    """Return the type for what ``format_type()`` says."""
    match = _PARTS.fullmatch(sql)
    if match is None:
        return sa.Text() if types == "portable" else SQLType(sql)
    sizes = [int(size) for size in (match["sizes"] or "").split(",") if size]
    name = match["name"] + (match["suffix"] or "")
    return _portable(name, sizes) if types == "portable" else _exact(name, sizes, sql)


def stored_type(kind: sa.types.TypeEngine[Any]) -> str:
    """Return what ``format_type()`` says of a column that was created with this type."""
    if isinstance(kind, SQLType):
        return kind.sql
    sql = kind.compile(dialect=_DIALECT).lower().replace(", ", ",")
    return re.sub(r"^char\b", "character", re.sub(r"^varchar\b", "character varying", sql))


def _exact(name: str, sizes: list[int], sql: str) -> sa.types.TypeEngine[Any]:
    match name, sizes:
        case "timestamp without time zone", []:
            return sa.TIMESTAMP()
        case "timestamp with time zone", []:
            return sa.TIMESTAMP(timezone=True)
        case "double precision", []:
            return sa.Double()
        case "real", []:
            return sa.REAL()
        case "uuid", []:
            return sa.UUID()
        case "json", []:
            return postgresql.JSON()
        case "jsonb", []:
            return postgresql.JSONB()
        case "bytea", []:
            return postgresql.BYTEA()
        case (
            (
                "smallint"
                | "integer"
                | "bigint"
                | "text"
                | "boolean"
                | "date"
                | "numeric"
                | "character varying"
            ),
            _,
        ):
            return _portable(name, sizes)
    return SQLType(sql)


def _portable(name: str, sizes: list[int]) -> sa.types.TypeEngine[Any]:
    first = sizes[0] if sizes else None
    match name:
        case "smallint":
            return sa.SmallInteger()
        case "integer":
            return sa.Integer()
        case "bigint":
            return sa.BigInteger()
        case "boolean":
            return sa.Boolean()
        case "date":
            return sa.Date()
        case "numeric":
            return sa.Numeric(first, sizes[1] if len(sizes) > 1 else None)
        case "money":
            return sa.Numeric(19, 2)
        case "real" | "double precision":
            return sa.Double()
        case "character varying":
            return sa.String(first)
        case "character":
            return sa.CHAR(first)
        case "bytea":
            return sa.LargeBinary()
        case "uuid":
            return sa.Uuid()
        case "json" | "jsonb":
            return sa.JSON()
        case "interval":
            return sa.Interval()
        case "timestamp without time zone":
            return sa.DateTime()
        case "timestamp with time zone":
            return sa.DateTime(timezone=True)
        case "time without time zone":
            return sa.Time()
        case "time with time zone":
            return sa.Time(timezone=True)
    return sa.Text()
