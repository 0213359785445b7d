"""What a dump has to know of the catalog beyond SQLAlchemy's reflection. Reads only.

The statements are in ``queries/*.sql``, each with what it takes and gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import sqlalchemy as sa

FIRST_USER_OID = 16384
"""FirstNormalObjectId: objects below it come with every database."""


def read(connection: sa.Connection, statement: str, **parameters: Any) -> Sequence[sa.Row[Any]]:
    """Return the rows of ``queries/<statement>.sql``."""
    return connection.execute(_statement(statement), parameters).all()


@cache
def _statement(name: str) -> sa.TextClause:
    source = resources.files(__package__).joinpath("queries", f"{name}.sql").read_text(encoding="utf-8")
    # Comments go: a colon in one would be taken for a parameter.
    return sa.text("\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--")))
