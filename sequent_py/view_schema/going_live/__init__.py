"""Going live: from finished shadow tables to tables that serve, with or without maintenance mode."""
