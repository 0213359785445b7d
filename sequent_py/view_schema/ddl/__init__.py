"""What is done to managed tables: their files run, tried and in earnest; their indexes are built; they are swapped.

Nothing here knows of a migration's state: callers own the transaction and the record of it.
"""
