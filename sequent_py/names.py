"""What PostgreSQL says of names."""

NAME_LIMIT_BYTES = 63
"""PostgreSQL silently cuts longer identifiers (NAMEDATALEN - 1); we refuse them instead."""
