"""The records of view migrations: one owner per table of ours, and what can be read from them alone."""
