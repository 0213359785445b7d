"""What applications and this library test themselves with: a throw-away PostgreSQL server and databases on it."""
