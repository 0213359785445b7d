"""Building: from a plan to shadow tables with all rows, keys and indexes, while the application goes on."""
